"""The commands that change stored rows: what their previews say, and what they did."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support import admin_port, samples
from usher_gateway import model
from usher_gateway.admin import listings, states


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[admin_port.Served]:
    async with admin_port.served(tmp_path) as served:
        await admin_port.fill(served)
        yield served


async def test_redrive_and_release_print_their_counts(served: admin_port.Served) -> None:
    assert "Redriven: 1 delivery." in await served.output_of("dead", "redrive", "--route", "crm", "--yes")
    redriven = await served.output_of("deliveries", "redrive", "--all", "--state", "cancelled", "--yes")
    assert "Redriven: 0 deliveries." in redriven
    none_dead = "None of them is dead; the newest are: delivered, held DestinationPaused, pending."
    assert none_dead in " ".join((await served.output_of("dead", "redrive", "--all", "--yes")).split())
    await served.output_of("deliveries", "cancel", "--all", "--yes")
    cancelled = " ".join((await served.output_of("dead", "redrive", "--all", "--yes")).split())
    assert "`usher deliveries redrive --state cancelled` starts cancelled ones again." in cancelled
    unfit = await served.command("quarantine", "release", "--tenant", "agency/acme", "--yes")
    assert (unfit.code, "Still no visit: 1 arrival (NoUser)" in unfit.out) == (1, True)
    assert "`usher quarantine show ID` says why one is not." in " ".join(unfit.out.split())
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
    assert "They are held (DestinationPaused), and a retry does not end that" in retried
    assert "Cancelled: 1 delivery." in await served.output_of(
        "deliveries", "cancel", "--all", "--state", "held", "--yes"
    )
    assert "OnRequest" in await served.output_of("deliveries", "list", "--state", "cancelled", "-o", "json")


@pytest.mark.parametrize(
    ("command", "reasons", "total"),
    [
        ("deliveries redrive --all", "Status: 1 delivery", "this would redrive 1 delivery"),
        ("deliveries cancel --all", "DestinationPaused: 1 delivery", "this would cancel 1 delivery"),
    ],
)
async def test_command_without_yes_prints_what_it_would_change(
    served: admin_port.Served, command: str, reasons: str, total: str
) -> None:
    unchanged = await served.get("/api/deliveries")
    run = await served.command(*command.split())
    assert run.code == 2
    assert run.out.splitlines() == [reasons, "Of tenant agency/acme (1).", "To agency/crm (1)."]
    assert total in run.err
    assert "--yes" in run.err
    assert await served.get("/api/deliveries") == unchanged


@pytest.mark.parametrize(
    ("command", "reasons", "total", "hint"),
    [
        ("dead redrive --reason Timeout", "", "this would redrive 0", "The selection has no delivery."),
        ("dead redrive --since 9998-01", "", "this would redrive 0", "The selection has no delivery."),
        (
            "deliveries redrive --tenant acme --state cancelled",
            "",
            "this would redrive 0",
            "None of them is cancelled; the newest are: dead, delivered, held",
        ),
        ("deliveries cancel --reason Timeout", "", "this would cancel 0", "The selection has no delivery."),
        (
            "deliveries retry --all",
            "",
            "this would retry 0",
            "They are held (DestinationPaused), and a retry does not end that",
        ),
        (
            "visits replay --reason OncePer",
            "",
            "this would create 0",
            "None of them is skipped OncePer; the newest are",
        ),
        (
            "quarantine release --reason Truncated",
            "",
            "this would release 0",
            "The selection has nothing in quarantine.",
        ),
        (
            "quarantine release --all",
            "Still no visit: 1 arrival (NoUser)",
            "this would release 0",
            "Only unreleased arrivals whose body is a visit now can be released",
        ),
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
        "DestinationPaused: 1 delivery",
        "NotTried: 13 deliveries",
        f"Of tenants agency/gym-5 (3), {', '.join([f'agency/gym-{number} (2)' for number in range(4)])} and 2 more.",
        "To agency/mail (11), agency/warehouse (2), agency/crm (1).",
    ]


async def test_redrive_names_the_ids_and_deliveries_that_it_leaves_out(served: admin_port.Served) -> None:
    rows = (await served.get("/api/deliveries"))["rows"]
    ids = {row["state"]: row["id"] for row in rows if not row["held"]}
    run = await served.command("dead", "redrive", ids["dead"], ids["delivered"], rows[0]["visit"])
    said = " ".join(run.err.split())
    assert "Left out: 1 id that none of the deliveries has. That is the id of a visit: " in said
    assert "Left out: those that are not dead, but delivered." in said
    assert "this would redrive 1 delivery" in said
    await served.output_of("visits", "replay", "--state", "dead", "--tenant", "acme", "--yes")
    run = await served.command("dead", "redrive", "--tenant", "acme")
    assert "Left out: 1 delivery whose body is deleted," in run.err
    assert (await served.post("/api/deliveries/redrive", all=True, dryRun=True))["leftOut"] == 1


async def test_dead_delivery_that_was_replayed_names_the_new_one(served: admin_port.Served) -> None:
    (dead,) = (await served.get("/api/deliveries?state=dead"))["rows"]
    await served.output_of("visits", "replay", "--state", "dead", "--tenant", "acme", "--yes")
    (replayed,) = [row for row in (await served.get("/api/deliveries"))["rows"] if row["origin"] == "Replayed"]
    shown = " ".join((await served.output_of("dead", "show", dead["id"])).split())
    again = f"A replay sent the visit again (pending): `usher deliveries show {replayed['id'][:21]}` shows that."
    assert f"It is dead. {again}" in shown
    assert again in " ".join((await served.output_of("visits", "show", dead["visit"])).split())


async def test_redrive_warns_of_a_failing_destination_before_the_change(served: admin_port.Served) -> None:
    served.health, served.error = states.DestinationHealth.Failing, "Timeout"
    run = await served.command("dead", "redrive", "--all", "--yes")
    assert (run.code, run.out) == (0, "Redriven: 1 delivery.\n")
    assert "1 delivery would go to agency/crm, which fails now (Failing, Timeout)" in run.said


async def test_not_tried_selects_pending_deliveries_without_an_attempt(served: admin_port.Served) -> None:
    await served.bench.accept(samples.arrival("new"))
    preview = await served.command("deliveries", "cancel", "--reason", "NotTried")
    assert "NotTried: 1 delivery" in preview.out
    (row,) = (await served.get("/api/deliveries?reason=NotTried"))["rows"]
    assert (row["state"], row["attempts"], row["held"]) == ("pending", 0, None)


@pytest.mark.parametrize("length", [listings.SHORT_ID, 36])
@pytest.mark.parametrize("command", ["deliveries show", "dead redrive", "deliveries cancel"])
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
    for identifier in (dead["visit"], dead["visit"][: listings.SHORT_ID]):
        run = await served.command("quarantine", "release", identifier)
        assert "`usher quarantine list`" in run.said


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("cancel --state heldd", "this changes no deliveries of the state `heldd` did you mean `held`?"),
        ("cancel --state dead", "this changes no deliveries of the state `dead` give pending or held"),
        ("redrive --state canceled", "did you mean `cancelled`?"),
        ("redrive --state held", "give dead or cancelled"),
    ],
)
async def test_wrong_state_is_named_before_a_missing_selection(
    served: admin_port.Served, command: str, said: str
) -> None:
    run = await served.command("deliveries", *command.split())
    assert (run.code, run.out) == (2, "")
    assert said in run.said


async def test_retry_behind_an_open_circuit_says_when_the_next_trial_is(served: admin_port.Served) -> None:
    await served.output_of("dead", "redrive", "--all", "--yes")
    served.circuit = "Open"
    run = await served.command("deliveries", "retry", "--all")
    rows = (await served.get("/api/deliveries?state=pending"))["rows"]
    (trial,) = [row["nextAttemptAt"].replace("T", " ")[:19] for row in rows if row["waitsFor"] == "CircuitOpen"]
    assert f"The circuit of agency/crm is open: its next trial is at {trial} UTC" in run.said
    assert "None waits for a later time" not in run.said
