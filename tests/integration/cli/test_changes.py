"""The commands that change stored rows: what their previews say, and what they did."""

import json
from typing import Any

import pytest

from support import admin_port, samples
from usher_gateway import model
from usher_gateway.words import listings, states


async def test_redrive_and_release_print_their_counts(served: admin_port.Served) -> None:
    assert "Redriven: 1 delivery." in await served.output_of("dead", "redrive", "--route", "crm", "--yes")
    redriven = await served.output_of("deliveries", "redrive", "--all", "--state", "cancelled", "--yes")
    assert "Redriven: 0 deliveries." in redriven
    unfit = await served.command("quarantine", "release", "--tenant", "agency/acme", "--yes")
    assert (unfit.code, unfit.out.splitlines()[-1]) == (1, "unfit  NoUser 1")
    served.mend(user=("/visitor/ref",))
    (row,) = (await served.get("/api/quarantine"))["rows"]
    assert "Released: 1 arrival, with 1 delivery." in await served.output_of(
        "quarantine", "release", row["id"], "--yes"
    )


@pytest.mark.parametrize(
    ("command", "preview", "answer"),
    [
        ("dead redrive --all", {"redriven": 0, "selected": 1, "reasons": {"Status": 1}}, {"redriven": 1}),
        ("quarantine release --all", {"selected": 0, "unfit": {"NoUser": 1}}, {"released": 0, "unfit": {"NoUser": 1}}),
    ],
)
async def test_change_is_printed_as_json(
    served: admin_port.Served, command: str, preview: dict[str, Any], answer: dict[str, Any]
) -> None:
    asked = await served.command(*command.split(), "-o", "json")
    assert asked.code == 2
    assert preview.items() <= json.loads(asked.out).items()
    done = await served.command(*command.split(), "--yes", USHER_OUTPUT="json")
    assert done.code == ("unfit" in answer)
    assert answer.items() <= json.loads(done.out).items()


async def test_cancel_and_retry_print_their_counts(served: admin_port.Served) -> None:
    retried = await served.output_of("deliveries", "retry", "--destination", "agency/crm", "--yes")
    assert "Due now: 0 deliveries." in retried
    assert "Cancelled: 1 delivery." in await served.output_of(
        "deliveries", "cancel", "--all", "--state", "held", "--yes"
    )
    assert "OnRequest" in await served.output_of("deliveries", "list", "--state", "cancelled", "-o", "json")


@pytest.mark.parametrize(
    ("command", "reasons", "total"),
    [
        ("deliveries redrive --all", "Status 1", "this would redrive 1 delivery"),
        ("deliveries cancel --all", "DestinationPaused 1", "this would cancel 1 delivery"),
    ],
)
async def test_command_without_yes_prints_what_it_would_change(
    served: admin_port.Served, command: str, reasons: str, total: str
) -> None:
    unchanged = await served.get("/api/deliveries")
    run = await served.command(*command.split())
    assert run.code == 2
    assert run.out.splitlines() == [
        f"reasons       {reasons}",
        "tenants       agency/acme 1",
        "destinations  agency/crm 1",
    ]
    assert total in run.err
    assert "--yes" in run.err
    assert await served.get("/api/deliveries") == unchanged


@pytest.mark.parametrize(
    ("command", "reasons", "total", "hint"),
    [
        ("dead redrive --reason Timeout", "", "this would redrive 0", "the selection has no delivery"),
        (
            "deliveries redrive --tenant acme --state cancelled",
            "",
            "this would redrive 0",
            "the newest deliveries of the selection are: dead, delivered, held",
        ),
        ("deliveries cancel --reason Timeout", "", "this would cancel 0", "the selection has no delivery"),
        ("deliveries retry --all", "leftOut  1", "this would retry 0", "they are held, are due already, or wait"),
        (
            "visits replay --reason OncePer",
            "",
            "this would create 0",
            "the selection has only: Filter, dead, delivered",
        ),
        ("quarantine release --reason Truncated", "", "this would release 0", "has no arrival in quarantine"),
        ("quarantine release --all", "unfit  NoUser 1", "this would release 0", ""),
    ],
)
async def test_preview_without_rows_says_why_and_does_not_ask_for_yes(
    served: admin_port.Served, command: str, reasons: str, total: str, hint: str
) -> None:
    run = await served.command(*command.split())
    assert (run.code, run.out.strip()) == (2, reasons)
    assert total in run.err
    assert hint in run.err
    assert "--yes" not in run.err


async def test_preview_names_the_tenants_and_destinations_with_most_deliveries(served: admin_port.Served) -> None:
    for number in range(6):
        listener = model.ListenerName("agency", f"gym-{number}", "lobby")
        route = model.RouteDefinition(listener, "out", "agency/mail" if number else "agency/warehouse")
        plans = (samples.plan(route),)
        await served.bench.accept(
            *[
                samples.arrival(f"{number}{n}", listener=listener, if_visit=plans)
                for n in range(3 if number == 5 else 2)
            ]
        )
    run = await served.command("deliveries", "cancel", "--all", COLUMNS="200")
    assert run.out.splitlines() == [
        "reasons       NotTried 13, DestinationPaused 1",
        f"tenants       agency/gym-5 3, {', '.join([f'agency/gym-{number} 2' for number in range(4)])} and 2 more",
        "destinations  agency/mail 11, agency/warehouse 2, agency/crm 1",
    ]


async def test_redrive_counts_deliveries_that_were_sent_by_a_replay(served: admin_port.Served) -> None:
    await served.output_of("visits", "replay", "--state", "dead", "--tenant", "acme", "--yes")
    run = await served.command("dead", "redrive", "--tenant", "acme")
    assert (run.code, run.out) == (2, "leftOut  1\n")
    assert "a replay sent them since" in run.said
    assert (await served.post("/api/deliveries/redrive", all=True, dryRun=True))["leftOut"] == 1


async def test_dead_delivery_that_was_replayed_names_the_new_one(served: admin_port.Served) -> None:
    (dead,) = (await served.get("/api/deliveries?state=dead"))["rows"]
    await served.output_of("visits", "replay", "--state", "dead", "--tenant", "acme", "--yes")
    (replayed,) = [row for row in (await served.get("/api/deliveries"))["rows"] if row["origin"] == "Replayed"]
    shown = " ".join((await served.output_of("dead", "show", dead["id"])).split())
    again = f"A replay sent the visit again (pending): `usher deliveries show {replayed['id'][:21]}` shows that."
    assert f"It is dead. {again}" in shown
    assert again in " ".join((await served.output_of("visits", "show", dead["visit"])).split())


async def test_preview_of_a_redrive_warns_of_a_failing_destination(served: admin_port.Served) -> None:
    served.health, served.error = states.DestinationHealth.Failing, "Timeout"
    run = await served.command("dead", "redrive", "--all")
    assert "1 delivery would go to agency/crm, which fails now (Failing, Timeout)" in run.said


async def test_not_tried_selects_pending_deliveries_without_an_attempt(served: admin_port.Served) -> None:
    await served.bench.accept(samples.arrival("new"))
    preview = await served.command("deliveries", "cancel", "--reason", "NotTried")
    assert "reasons       NotTried 1\n" in preview.out
    (row,) = (await served.get("/api/deliveries?reason=NotTried"))["rows"]
    assert (row["state"], row["attempts"], row["held"]) == ("pending", 0, None)


@pytest.mark.parametrize(("command", "length"), [("deliveries show", 36), ("dead redrive", listings.SHORT_ID)])
async def test_id_of_a_visit_is_named_by_commands_of_deliveries(
    served: admin_port.Served, command: str, length: int
) -> None:
    (dead,) = (await served.get("/api/deliveries?state=dead"))["rows"]
    run = await served.command(*command.split(), dead["visit"][:length])
    short_id = dead["visit"][: listings.SHORT_ID]
    assert f"That is the id of a visit: `usher deliveries list --visit {short_id}` lists its deliveries." in run.said


@pytest.mark.parametrize(
    ("command", "length"), [("show", listings.SHORT_ID), ("show", 36), ("replay", listings.SHORT_ID)]
)
async def test_id_of_a_delivery_is_named_by_commands_of_visits(
    served: admin_port.Served, command: str, length: int
) -> None:
    (dead,) = (await served.get("/api/deliveries?state=dead"))["rows"]
    run = await served.command("visits", command, dead["id"][:length])
    short_id = dead["id"][: listings.SHORT_ID]
    assert f"That is the id of a delivery: `usher deliveries show {short_id}` shows it." in run.said


async def test_release_of_an_id_that_is_not_quarantined_names_the_list(served: admin_port.Served) -> None:
    (dead,) = (await served.get("/api/deliveries?state=dead"))["rows"]
    run = await served.command("quarantine", "release", dead["visit"][: listings.SHORT_ID])
    assert "`usher quarantine list`" in run.said


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("cancel --all --state dead", "only pending deliveries (pending, or held) can be cancelled"),
        ("redrive --all --state held", "only dead and cancelled deliveries can be redriven"),
    ],
)
async def test_state_that_a_change_does_not_take_is_refused(served: admin_port.Served, command: str, said: str) -> None:
    run = await served.command("deliveries", *command.split())
    assert (run.code, run.out) == (2, "")
    assert said in run.said
