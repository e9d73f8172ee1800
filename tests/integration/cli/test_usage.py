"""`usher usage`: tables, CSV and the check of the books, in a terminal of 80 columns."""

import csv
import io
import json
import re
from typing import Any

import msgspec
import pytest

from support import admin_port, samples
from usher_gateway import documents, model


async def test_usage_prints_a_table_or_csv_and_checks_the_books(served: admin_port.Served) -> None:
    times = ("--from", "2025-11", "--to", "2025-12")
    out = await served.output_of("usage", *times)
    assert "2025-11-25" in out
    assert re.search(r"^total +- +4 ", out, re.MULTILINE)
    assert max(len(line) for line in out.splitlines()) <= 80
    (row,) = csv.DictReader(io.StringIO(await served.output_of("usage", *times, "--by", "month", "-o", "csv")))
    assert (row["period"], row["arrivals"]) == ("2025-11", "5")
    as_json = await served.output_of("usage", *times, "-o", "json")
    assert (json.loads(as_json)["total"]["visits"], as_json[-3:]) == (4, "\n}\n")
    served.bench.clock.now += samples.DAY
    checked = await served.output_of("usage", "--check", "--from", "2025-11")
    assert checked.startswith("1 of 1 listener has counts from 2025-11-01T")
    assert "their books balance." in " ".join(checked.split())
    nothing = await served.command("usage", "--check", "--from", "2024-11", "--to", "2024-12")
    assert (nothing.code, nothing.out) == (1, "")
    assert nothing.said.startswith("usher: nothing was counted from 2024-11-01T")
    assert nothing.said.endswith("check compare --from and --to")
    not_yet = await served.command("usage", "--check", "--from", "2025-11-26T11:50:00Z")
    assert "only quarters of an hour are checked that ended over a minute ago:" in not_yet.said


async def test_usage_by_tenant_adds_up_listeners_and_lists_those_without_arrivals(served: admin_port.Served) -> None:
    lobby = served.state.snapshot.listeners["agency/lobby"]
    museum = msgspec.structs.replace(lobby, name="hall", tenant=documents.TenantDocument("museum"), addresses=())
    served.state.apply(documents.Snapshot({lobby.key: lobby, museum.key: museum}, {}), 0)
    await served.bench.accept(samples.arrival("x", listener=samples.POOL, if_visit=()))
    times = ("--from", "2025-11", "--to", "2025-12", "--by", "tenant")
    rows = list(csv.DictReader(io.StringIO(await served.output_of("usage", *times, "-o", "csv"))))
    assert [(row["period"], row["tenant"], row["visits"], row["openAfter"]) for row in rows] == [
        ("2025-11-01/2025-12-01", "acme", "5", "1"),
        ("2025-11-01/2025-12-01", "museum", "0", "0"),
    ]
    assert (await served.output_of("usage", *times, "--tenant", "museum", "-o", "csv")).count("\n") == 2
    text = await served.output_of("usage", *times)
    assert text.startswith("From 2025-11-01T00:00 to 2025-12-01T00:00 UTC:\nTENANT")
    assert re.search(r"^agency/museum +0 ", text, re.MULTILINE)
    assert re.search(r"^total +5 ", text, re.MULTILINE)


async def test_usage_tells_listeners_of_two_namespaces_apart(served: admin_port.Served) -> None:
    long = model.ListenerName("another-agency-with-a-long-name", "acme", "lobby-of-the-grand-hotel")
    await served.bench.accept(samples.arrival("x", listener=long, if_visit=()))
    times = ("--from", "2025-11", "--to", "2100-01")
    out = await served.output_of("usage", *times)
    assert max(len(line) for line in out.splitlines()) <= 80
    assert re.search(
        r"^2025-11-25  another-agency-with-a-long-name/ .*\n +lobby-of-the-grand-hotel$", out, re.MULTILINE
    )
    assert "agency/lobby" in out
    wide = await served.output_of("usage", *times, COLUMNS="200")
    assert "another-agency-with-a-long-name/lobby-of-the-grand-hotel" in wide
    head = next(line.split() for line in wide.splitlines() if line.startswith("PERIOD"))
    total = next(line.split() for line in wide.splitlines() if line.strip().startswith("total"))
    assert total[head.index("OPEN")] == "1"  # of fill(): one delivery is held


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--by", "week"), "'day', 'month', 'tenant', 'venue'"),
        (("--by", "venue", "--zone", "tenant"), "zone must be one time zone"),
    ],
)
async def test_wrong_period_says_which_there_are(
    served: admin_port.Served, arguments: tuple[str, ...], said: str
) -> None:
    run = await served.command("usage", *arguments)
    assert run.code == 2
    assert said in run.err


async def test_usage_check_with_a_violation_exits_1(served: admin_port.Served) -> None:
    served.bench.clock.now += samples.DAY
    store: Any = served.bench.store
    lose = f"delete from meters where counter = {int(model.Counter.created)}"
    await store._change(lambda transaction: transaction.session.execute(lose))
    run = await served.command("usage", "--check", "--from", "2025-11")
    assert run.code == 1
    assert "agency/acme/lobby" in run.out
    assert "do not balance" in run.err
    as_json = await served.command("usage", "--check", "--from", "2025-11", "-o", "json")
    assert as_json.code == 1
    assert {row["listener"] for row in json.loads(as_json.out)["violations"]} == {"lobby"}
    as_csv = await served.command("usage", "--check", "--from", "2025-11", "-o", "csv")
    assert as_csv.code == 1
    assert {row["listener"] for row in csv.DictReader(io.StringIO(as_csv.out))} == {"lobby"}


async def test_usage_check_of_books_that_balance_prints_an_empty_document(served: admin_port.Served) -> None:
    served.bench.clock.now += samples.DAY
    answer = json.loads(await served.output_of("usage", "--check", "--from", "2025-11", "-o", "json"))
    assert answer["violations"] == []
    assert await served.output_of("usage", "--check", "--from", "2025-11", "-o", "csv") == ""


@pytest.mark.parametrize(("namespace", "visits"), [("agency", 4), ("other", 1)])
async def test_usage_of_a_namespace_leaves_out_the_others(
    served: admin_port.Served, namespace: str, visits: int
) -> None:
    other = model.ListenerName("other", "acme", "lobby")
    await served.bench.accept(samples.arrival("x", listener=other, if_visit=()))
    arguments = ("--from", "2025-11", "--to", "2100-01", "--namespace", namespace)
    answer = json.loads(await served.output_of("usage", *arguments, "-o", "json"))
    assert answer["total"]["visits"] == visits
    by_venue = json.loads(await served.output_of("usage", *arguments, "--by", "venue", "-o", "json"))
    assert {row["namespace"] for row in by_venue["rows"]} == {namespace}
