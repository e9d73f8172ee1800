"""`usher visits replay` counts first, then watches the gateway; `usher replays` shows, cancels and resumes."""

import csv
import io
import json

import pytest

from support import admin_port, command_line, samples
from usher_gateway import model
from usher_gateway.words import states


async def test_preview_counts_by_result_shows_the_newest_and_changes_nothing(served: admin_port.Served) -> None:
    run = await served.command("visits", "replay", "--tenant", "acme", COLUMNS="80")
    lines = run.out.splitlines()
    assert (run.code, lines[:2]) == (2, ["reasons       Filter 1, dead 1, delivered 1", "leftOut       held 1"])
    heading, columns, *sample = lines[-5:]
    assert (heading, columns.split()[:4]) == ("The newest 3:", ["RECEIVED", "(UTC)", "VISIT", "RESULT"])
    assert [line.split()[3] for line in sample] == ["Filter", "dead", "delivered"]
    assert max(map(len, lines)) <= 80
    assert "this would create 3 deliveries\n" in run.err
    assert "The filter `when` is not asked again" in run.err
    assert "give --yes, and --reason or --state" in run.err
    assert (await served.get("/api/replays"))["rows"] == []


async def test_replay_creates_deliveries_and_says_how_many(served: admin_port.Served) -> None:
    asked = ("visits", "replay", "--state", "delivered, dead", "--reason", "Filter", "--reason", "Paused")
    run = await served.command(*asked, "--tenant", "acme", "--yes")
    assert (run.code, run.out) == (0, "Created: 3 deliveries (3 pending).\n"), run.err
    assert "runs in the gateway. `usher replays cancel " in run.said
    again = await served.output_of("visits", "replay", "--reason", "Filter", "--yes")
    assert again == "leftOut  replayedBefore 1\nCreated: 0 deliveries.\n"
    listed = await served.output_of("visits", "list", "--reason", "Filter", COLUMNS="120")
    assert "skipped Filter, replayed pending (crm)" in listed


async def test_left_out_verdicts_are_counted(served: admin_port.Served) -> None:
    served.paused_routes.add("crm")
    run = await served.command("visits", "replay", "--reason", "Filter")
    assert run.out == "leftOut  paused 1\n"
    assert run.said == "usher: this would create 0 deliveries all that could be replayed is left out"
    run = await served.command("visits", "replay", "--reason", "Filter", "--ignore-pause", "--yes")
    assert run.out == "Created: 1 delivery (1 pending).\n"


@pytest.mark.parametrize(
    "command",
    [
        "visits replay --tenant acme --state dead",
        "visits replay --reason Filter",
        "dead redrive --tenant acme",
    ],
)
async def test_preview_warns_of_a_destination_that_fails_now(served: admin_port.Served, command: str) -> None:
    assert "fails now" not in (await served.command(*command.split())).err
    served.health = states.DestinationHealth.Failing
    run = await served.command(*command.split())
    warning = "1 delivery would go to agency/crm, which fails now (Failing): it may fail again. "
    assert " ".join(run.err.split()).startswith(warning)


async def test_preview_warns_of_a_destination_that_only_older_visits_have(served: admin_port.Served) -> None:
    served.health = states.DestinationHealth.Failing
    newer = (samples.skip(model.SkipReason.Paused, samples.MAILER),)
    await served.bench.accept(*[samples.arrival(f"newer {number}", if_visit=newer) for number in range(9)])
    run = await served.command("visits", "replay", "--tenant", "acme")
    assert [line.split()[3:5] for line in run.out.splitlines()[-5:]] == [["Paused", "agency/mailer"]] * 5
    assert "3 deliveries would go to agency/crm, which fails now (Failing)" in run.said


async def test_dead_delivery_says_that_its_destination_still_fails(served: admin_port.Served) -> None:
    served.health = states.DestinationHealth.Failing
    (dead,) = (await served.get("/api/deliveries?state=dead"))["rows"]
    shown = " ".join((await served.output_of("dead", "show", dead["id"])).split())
    assert "starts again, but its destination fails now (Failing): it may die again." in shown


async def test_replays_are_listed_and_shown(served: admin_port.Served) -> None:
    await served.output_of("visits", "replay", "--tenant", "acme", "--state", "dead", "--since", "2025-11-01", "--yes")
    (row,) = (await served.get("/api/replays"))["rows"]
    table = await served.output_of("replays", COLUMNS="160")
    assert table.split()[:2] == ["STARTED", "(UTC)"]
    assert "dead, tenant acme, since 2025-11-01T00:00:00.000Z" in table
    assert json.loads(await served.output_of("replays", "list", "-o", "json"))["rows"] == [row]
    (cells,) = csv.DictReader(io.StringIO(await served.output_of("replays", "-o", "csv")))
    assert (cells["id"], cells["created"], cells["deliveries"]) == (row["id"], "1", '{"pending": 1}')
    shown = await served.output_of("replays", "show", row["id"][:21])
    assert "startedBy   operate" in shown
    assert "leftOut     -\n" in shown
    unknown = await served.command("replays", "show", "0192")
    assert (unknown.code, "use an id from `usher replays list`" in unknown.err) == (1, True)


async def test_narrow_list_of_replays_shows_whole_selections(served: admin_port.Served) -> None:
    await served.output_of("visits", "replay", "--tenant", "acme", "--state", "dead", "--since", "2025-11-01", "--yes")
    table = await served.output_of("replays", COLUMNS="80")
    assert max(map(len, table.splitlines())) <= 80
    assert table.splitlines()[0].split()[-1] == "SELECTION"
    rest = table.partition("done")[2]
    assert " ".join(rest.split()) == "dead, tenant acme, since 2025-11-01T00:00:00.000Z"


async def start_slow_replay(served: admin_port.Served) -> str:
    """Start a replay that runs for a minute; return its id."""
    skipped = (samples.skip(model.SkipReason.Paused),)
    await served.bench.accept(*[samples.arrival(f"skipped {number}", if_visit=skipped) for number in range(60)])
    _, replay = await served.ask("POST", "/api/replays", json={"reason": "Paused", "perSecond": 1})
    return str(replay["id"])


async def test_cancelling_a_running_replay_first_names_what_it_ends(served: admin_port.Served) -> None:
    identifier = await start_slow_replay(served)
    asked = await served.command("replays", "cancel", identifier)
    assert (asked.code, asked.said.endswith("give --yes to do it")) == (2, True)
    assert "usher: this would end the replay, and cancel " in asked.said
    printed = await served.command("replays", "cancel", identifier, "-o", "json")
    assert (printed.code, json.loads(printed.out)["state"]) == (2, "running")
    cancelled = await served.output_of("replays", "cancel", identifier, "--yes")
    assert f"Replay {identifier} is cancelled since 20" in cancelled


async def test_cancelling_a_done_replay_cancels_what_still_waits(served: admin_port.Served) -> None:
    await served.output_of("visits", "replay", "--tenant", "acme", "--state", "dead", "--yes")
    (row,) = (await served.get("/api/replays"))["rows"]
    since = row["endedAt"].replace("T", " ")[:19]
    asked = await served.command("replays", "cancel", row["id"])
    assert (asked.code, asked.said) == (2, "usher: this would cancel 1 waiting delivery give --yes to do it")
    done = await served.output_of("replays", "cancel", row["id"], "--yes")
    assert f"is done since {since} UTC: 1 delivery created (1 cancelled)." in " ".join(done.split())


async def test_help_of_cancelling_a_replay_says_what_yes_does() -> None:
    run = await command_line.usher("replays", "cancel", "--help")
    assert "show what this would end and cancel" in " ".join(run.out.split())


async def test_resuming_a_replay_that_is_not_cancelled_says_its_state(served: admin_port.Served) -> None:
    await served.output_of("visits", "replay", "--tenant", "acme", "--state", "dead", "--yes")
    (done,) = (await served.get("/api/replays"))["rows"]
    resumed = await served.command("replays", "resume", done["id"])
    refused = "only a cancelled replay can be resumed, and this one"
    assert (resumed.code, resumed.said) == (2, f"usher: {refused} is done")
    await served.output_of("replays", "cancel", done["id"], "--yes")
    resumed = await served.command("replays", "resume", done["id"])
    redrive = f"`usher deliveries redrive --replay {done['id'][:21]} --state cancelled`"
    assert f"{refused} is done {redrive} starts its 1 cancelled delivery again" in resumed.said
    resumed = await served.command("replays", "resume", await start_slow_replay(served))
    assert (resumed.code, resumed.said) == (2, f"usher: {refused} runs")


async def test_preview_counts_the_deliveries_of_several_destinations(served: admin_port.Served) -> None:
    routes = [samples.route(name, destination=f"agency/{name}") for name in ("a", "b", "c", "d", "e", "f", "g")]
    skips = tuple([samples.skip(model.SkipReason.Repeat, route) for route in routes])
    await served.bench.accept(samples.arrival("all", if_visit=skips), samples.arrival("last", if_visit=skips[-1:]))
    run = await served.command("visits", "replay", "--reason", "Repeat", "--ignore-pause")
    assert run.out.splitlines()[:4] == [
        "reasons       Repeat 8",
        "tenants       agency/acme 8",
        "destinations  agency/g 2, agency/a 1, agency/b 1, agency/c 1,",
        "              agency/d 1 and 2 more",
    ]


async def test_preview_says_what_the_filter_means_for_cancelled_deliveries(served: admin_port.Served) -> None:
    await served.output_of("deliveries", "cancel", "--all", "--state", "held", "--yes")
    run = await served.command("visits", "replay", "--all", "--state", "cancelled", "--rate", "1")
    assert "except of those that were cancelled while it failed." in run.said
    assert "this would create 1 delivery, in 1s or more" in run.said


async def test_empty_replay_says_why(served: admin_port.Served) -> None:
    run = await served.command("visits", "replay", "--since", "2024-01-01", "--until", "2024-01-02", "--state", "dead")
    assert (run.code, run.said.endswith("the selection has nothing that can be replayed")) == (2, True)


async def test_replay_that_leaves_all_out_points_to_no_deliveries(served: admin_port.Served) -> None:
    served.paused_routes.add("crm")
    run = await served.command("visits", "replay", "--reason", "Filter", "--yes")
    assert (run.code, run.out) == (0, "leftOut  paused 1\nCreated: 0 deliveries.\n")
    assert "lists them" not in run.err


async def test_replay_is_printed_as_json_without_waiting(served: admin_port.Served) -> None:
    asked = await served.command("visits", "replay", "--all", "-o", "json")
    assert asked.code == 2
    assert json.loads(asked.out)["reasons"] == {"Filter": 1, "dead": 1, "delivered": 1}
    started = await served.output_of("visits", "replay", "--all", "--state", "dead", "--yes", USHER_OUTPUT="json")
    assert json.loads(started)["state"] == "running"


async def test_deliveries_of_a_replay_can_be_listed(served: admin_port.Served) -> None:
    await served.output_of("visits", "replay", "--tenant", "acme", "--state", "delivered", "--yes")
    (replay,) = (await served.get("/api/replays"))["rows"]
    listed = json.loads(await served.output_of("deliveries", "list", "--replay", replay["id"][:21], "-o", "json"))
    assert [row["replay"] for row in listed["rows"]] == [replay["id"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tenant", "acme", "--yes"], "--yes needs to know what to replay"),
        (["--all", "--reason", "", "--yes"], "--yes needs to know what to replay"),
        (["--state", "delivered", "--yes"], "select rows with ids, or with flags"),
        (["--tenant", "acme", "--state", "pending"], "state must be of delivered, dead, cancelled, not 'pending'"),
        (["--tenant", "acme", "--rate", "0"], "should be greater than"),
        (["--reason", "Pause"], "Paused"),
        (
            ["--reason", "Paused", "--since", "2025-11-25", "--until", "2025-11-25", "--yes"],
            "since is not before until",
        ),
    ],
)
async def test_wrong_replay_is_refused(served: admin_port.Served, arguments: list[str], message: str) -> None:
    run = await served.command("visits", "replay", *arguments)
    assert (run.code, message in run.err) == (2, True), run.err
    assert (await served.get("/api/replays"))["rows"] == []
