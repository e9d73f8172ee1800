import concurrent.futures
import hashlib
import json
import stat
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
import structlog.testing

from usher_gateway import model
from usher_gateway.access import tokens
from usher_gateway.access.seal import Seals


def test_missing_tokens_are_created_for_the_owner_only(tmp_path: Path) -> None:
    new_tokens = tokens.load_or_create(tmp_path / "data")
    assert new_tokens.observe != new_tokens.operate
    for name in (tokens.OBSERVE_FILE, tokens.OPERATE_FILE):
        assert stat.S_IMODE((tmp_path / "data" / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["observe.token", "operate.token"]


def test_existing_tokens_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / tokens.OPERATE_FILE).write_text("a-token-of-our-own-making\n")
    first, second = tokens.load_or_create(tmp_path), tokens.load_or_create(tmp_path)
    assert first == second
    assert first.operate == "a-token-of-our-own-making"


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff\xfe" * 20])
def test_weak_token_is_rejected_with_a_hint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / tokens.OBSERVE_FILE).write_bytes(content)
    with pytest.raises(model.ConfigurationError) as raised:
        tokens.load_or_create(tmp_path)
    assert raised.value.hint


GIVEN = tokens.Tokens("o" * 20, "p" * 30)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (f"Bearer {'o' * 20}", "observe"),
        (f"bearer  {'p' * 30} ", "operate"),
        (f"Basic {'p' * 30}", None),
        ("p" * 30, None),
        (f"Bearer {'o' * 19}", None),
        ("Bearer ", None),
        ("Bearer \udcff", None),
        ("", None),
    ],
)
def test_caller_is_proven_by_its_token_only(tmp_path: Path, header: str, name: str | None) -> None:
    caller = tokens.TokenBook(tmp_path, GIVEN).caller_of(header)
    assert (caller.name if caller is not None else None) == name


def test_tokens_of_before_may_do_what_they_could() -> None:
    assert {tokens.Scope.StatusRead, tokens.Scope.VisitsRead} == tokens.OBSERVE_SCOPES


def entry(token: str, name: str = "desk", **changes: Any) -> tokens.TokenEntry:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return tokens.TokenEntry(name=name, digest=digest, scopes=(tokens.Scope.PersonsFind,), **changes)


def write(folder: Path, entries: list[tokens.TokenEntry]) -> None:
    tokens.change_entries(folder / tokens.TOKENS_FILE, lambda _: entries)


def test_created_token_has_its_scopes_and_its_limit(tmp_path: Path) -> None:
    limited = entry("usher_one", namespaces=("north",), tenants=("agency/acme",))
    write(tmp_path, [limited, entry("usher_two", "second")])
    assert stat.S_IMODE((tmp_path / tokens.TOKENS_FILE).stat().st_mode) == 0o600
    book = tokens.TokenBook(tmp_path, GIVEN)
    permitted = frozenset({"north/*", "agency/acme"})
    assert book.caller_of("Bearer usher_one") == tokens.Caller("desk", frozenset(limited.scopes), permitted)
    second = book.caller_of("Bearer usher_two")
    assert second is not None
    assert second.permitted is None


@pytest.mark.parametrize(
    ("expires_at", "is_valid"), [("2020-01-01T00:00:00+00:00", False), ("9999-01-01T00:00:00Z", True)]
)
def test_token_ends_at_its_time(tmp_path: Path, expires_at: str, *, is_valid: bool) -> None:
    write(tmp_path, [entry("usher_one", expires_at=expires_at)])
    assert (tokens.TokenBook(tmp_path, GIVEN).caller_of("Bearer usher_one") is not None) is is_valid


def test_changed_file_is_read_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_CHECK_SECONDS", 0.0)
    file = tmp_path / tokens.TOKENS_FILE
    book = tokens.TokenBook(tmp_path, GIVEN)
    assert book.caller_of("Bearer usher_one") is None
    write(tmp_path, [entry("usher_one")])
    assert book.caller_of("Bearer usher_one") is not None
    file.write_text("[{")
    with structlog.testing.capture_logs() as logs:
        assert book.caller_of("Bearer usher_one") is not None
        book.caller_of("Bearer usher_one")
    assert [line["event"] for line in logs] == ["tokens_rejected"]
    file.unlink()
    write(tmp_path, [])
    assert book.caller_of("Bearer usher_one") is None
    assert book.caller_of(f"Bearer {GIVEN.operate}") is not None


def test_added_changed_and_removed_tokens_are_logged_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_CHECK_SECONDS", 0.0)
    write(tmp_path, [entry("usher_one"), entry("usher_two", "second")])
    book = tokens.TokenBook(tmp_path, GIVEN)
    write(tmp_path, [entry("usher_two", "second", tenants=("agency/acme",)), entry("usher_three", "third")])
    with structlog.testing.capture_logs() as logs:
        book.caller_of("Bearer usher_three")
        book.caller_of("Bearer usher_three")
    assert logs == [
        {"event": "tokens_changed", "log_level": "info", "added": ["second", "third"], "removed": ["desk", "second"]}
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "Desk"}, "lower-case"),
        ({"name": "operate"}, "is taken"),
        ({"digest": "ab"}, "SHA-256"),
        ({"scopes": []}, "no scope"),
        ({"scopes": ["visits:write"]}, "not a list of tokens"),
        ({"tenants": ["acme"]}, "NAMESPACE/NAME"),
        ({"expiresAt": "tomorrow"}, "not a time"),
        ({"expiresAt": "2027-01-01T00:00:00"}, "not a time"),
        ({"tenant": "agency/acme"}, "not a list of tokens"),
        ({"tenants": []}, "limit of desk is empty"),
        ({"namespaces": []}, "limit of desk is empty"),
        ({"namespaces": [""]}, "limit of desk is empty"),
    ],
)
def test_entry_that_is_not_valid_is_an_error(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    file = tmp_path / tokens.TOKENS_FILE
    file.write_text(json.dumps([{**msgspec.to_builtins(entry("usher_one")), **changes}]))
    with pytest.raises(model.ConfigurationError, match=problem):
        tokens.TokenBook(tmp_path, GIVEN)


def test_token_folder_of_another_owner_is_only_read(tmp_path: Path) -> None:
    for name in (tokens.OBSERVE_FILE, tokens.OPERATE_FILE):
        with pytest.raises(model.ConfigurationError, match=name) as caught:
            tokens.load_book(tmp_path / "data", tmp_path, Seals(bytes(32)))
        assert "--admin-tokens" in caught.value.hint
        (tmp_path / name).write_text(f"long-enough-{name}\n")
    book = tokens.load_book(tmp_path / "data", tmp_path, Seals(bytes(32)))
    caller = book.caller_of("Bearer long-enough-operate.token")
    assert caller is not None
    assert caller.scopes == set(tokens.Scope)
    assert sorted(file.name for file in tmp_path.iterdir()) == [tokens.OBSERVE_FILE, tokens.OPERATE_FILE]


@pytest.mark.parametrize("content", [b"\xff\xfe", b'[{"name": "\xff"}]'])
def test_file_that_is_not_utf_8_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / tokens.TOKENS_FILE).write_bytes(content)
    with pytest.raises(model.ConfigurationError, match="not a list of tokens"):
        tokens.TokenBook(tmp_path, GIVEN)


def test_two_names_for_one_token_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, [entry("usher_one"), entry("usher_one", "second")])
    with pytest.raises(model.ConfigurationError, match="second has the digest of another token"):
        tokens.TokenBook(tmp_path, GIVEN)


def test_file_that_could_not_be_read_once_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_CHECK_SECONDS", 0.0)
    book = tokens.TokenBook(tmp_path, GIVEN)
    write(tmp_path, [entry("usher_one")])
    with mock.patch.object(Path, "read_bytes", side_effect=PermissionError):
        assert book.caller_of("Bearer usher_one") is None
    assert book.caller_of("Bearer usher_one") is not None


def test_changes_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / tokens.TOKENS_FILE

    def add(number: int) -> None:
        tokens.change_entries(file, lambda others: [*others, entry(f"usher_{number}", f"desk-{number}")])

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(40)))
    assert {each.name for each in tokens.read_entries(file)} == {f"desk-{number}" for number in range(40)}
    assert [path.name for path in tmp_path.iterdir()] == [tokens.TOKENS_FILE]
