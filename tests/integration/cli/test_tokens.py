"""`usher tokens` creates, lists and revokes tokens, which the gateway knows at once and never in clear text."""

import csv
import io
import json
import re

import pytest

from support import admin_port
from usher_gateway.access import tokens


@pytest.fixture(autouse=True)
def each_request_checks_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_CHECK_SECONDS", 0.0)


async def test_created_token_works_until_it_is_revoked(served: admin_port.Served) -> None:
    asked = (
        "tokens",
        "create",
        "desk",
        "--scope",
        "visits:read, bodies:read",
        "--tenant",
        "agency/acme",
        "--days",
        "9",
    )
    run = await served.command(*asked)
    token = run.out.strip()
    assert (run.code, token.startswith("usher_"), "cannot be shown again" in run.err) == (0, True, True)
    assert token not in (served.data / tokens.TOKENS_FILE).read_text()
    assert (await served.command("visits", USHER_TOKEN=token)).code == 0
    refused = await served.command("dead", "redrive", "--all", "--yes", USHER_TOKEN=token)
    assert (refused.code, "it lacks the scope deliveries:write" in refused.err) == (2, True)
    assert "ask who gave you this token for one with the scope deliveries:write" in " ".join(refused.err.split())
    table = await served.output_of("tokens", COLUMNS="120")
    assert re.search(r"^desk  agency/acme  .*  visits:read, bodies:read", table, re.MULTILINE)
    assert "digest" not in await served.output_of("tokens", "list", "-o", "json")
    asked_only = await served.command("tokens", "revoke", "desk")
    assert (asked_only.code, "this would revoke" in asked_only.err) == (2, True)
    assert await served.output_of("tokens", "revoke", "desk", "--yes") == "Revoked: desk.\n"
    assert (await served.command("visits", USHER_TOKEN=token)).code == 2
    assert "No tokens besides" in await served.output_of("tokens")


@pytest.mark.parametrize("limit", [("--tenant", "agency/acme"), ("--namespace", "agency")])
async def test_scope_about_all_tenants_is_refused_to_a_limited_token(
    served: admin_port.Served, limit: tuple[str, str]
) -> None:
    run = await served.command("tokens", "create", "desk", "--scope", "visits:read,audit:read", *limit)
    assert (run.code, run.out) == (2, "")
    assert "a token with a limit cannot have the scope audit:read" in " ".join(run.err.split())
    assert "No tokens besides" in await served.output_of("tokens")


async def test_narrow_list_has_the_limit_and_the_end_of_each_token(served: admin_port.Served) -> None:
    limits = ("--tenant", "agency/acme,agency/the-very-long-name-of-a-company-119", "--days", "9")
    await served.command(
        "tokens", "create", "desk-anna", "--scope", ",".join(set(tokens.Scope) - tokens.UNLIMITED_SCOPES), *limits
    )
    head, row, *_ = lines = (await served.output_of("tokens", COLUMNS="80")).splitlines()
    assert re.split("  +", head) == ["NAME", "LIMITED TO", "ENDS (UTC)"]
    assert re.fullmatch(r"desk-anna  agency/acme, +\d{4}-\d\d-\d\d \S+", row)
    assert max(map(len, lines)) <= 80


async def test_csv_of_tokens_has_the_names_and_times_of_json(served: admin_port.Served) -> None:
    limits = ("--tenant", "agency/acme", "--namespace", "other", "--days", "9")
    await served.command("tokens", "create", "desk", "--scope", "visits:read,persons:find", *limits)
    (row,) = json.loads(await served.output_of("tokens", "-o", "json"))["rows"]
    (line,) = csv.DictReader(io.StringIO(await served.output_of("tokens", "-o", "csv")))
    assert line == {name: ", ".join(value) if isinstance(value, list) else value for name, value in row.items()}
    for name in ("createdAt", "expiresAt"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row[name])


async def test_entry_for_a_secret_is_printed_and_not_written(served: admin_port.Served) -> None:
    printed = json.loads(await served.output_of("tokens", "create", "desk", "--scope", "audit:read", "--print"))
    assert printed["entry"]["scopes"] == ["audit:read"]
    assert not (served.data / tokens.TOKENS_FILE).exists()
    (served.data / tokens.TOKENS_FILE).write_text(json.dumps([printed["entry"]]))
    assert (await served.command("audit", USHER_TOKEN=printed["token"])).code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["desk", "--scope", "visits:write"], "there is no scope `visits:write`"),
        (["Desk", "--scope", "visits:read"], "lower-case letters"),
        (["operate", "--scope", "visits:read"], "the name operate is taken"),
        (["desk", "--scope", "visits:read", "--tenant", "acme"], "must be NAMESPACE/NAME"),
        (["desk", "--scope", "visits:read", "--days", "0"], "should be greater than or equal to 1"),
        (["desk", "--scope", "visits:read", "--days", "99999999"], "should be less than or equal to 36500"),
        (["desk", "--scope", "visits:read", "--tenant", ""], "the limit of desk is empty"),
        (["desk", "--scope", "visits:read", "--namespace", ","], "the limit of desk is empty"),
    ],
)
async def test_wrong_token_is_refused(served: admin_port.Served, arguments: list[str], message: str) -> None:
    run = await served.command("tokens", "create", *arguments)
    assert (run.code, message in run.err) == (2, True), run.err
    assert not (served.data / tokens.TOKENS_FILE).exists()


async def test_second_token_of_a_name_is_refused(served: admin_port.Served) -> None:
    await served.output_of("tokens", "create", "desk", "--scope", "visits:read")
    run = await served.command("tokens", "create", "desk", "--scope", "visits:read")
    assert (run.code, "the name desk is taken" in run.err) == (2, True)
    unknown = await served.command("tokens", "revoke", "help", "--yes")
    assert (unknown.code, "there is no token `help`" in unknown.err) == (1, True)
