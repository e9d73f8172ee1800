import stat
from pathlib import Path

import pytest

from usher_gateway import model
from usher_gateway.admin import tokens

Role = tokens.Role


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
    ("header", "role"),
    [
        (f"Bearer {'o' * 20}", Role.Observe),
        (f"bearer  {'p' * 30} ", Role.Operate),
        (f"Basic {'p' * 30}", Role.Anybody),
        ("p" * 30, Role.Anybody),
        (f"Bearer {'o' * 19}", Role.Anybody),
        ("Bearer ", Role.Anybody),
        ("Bearer \udcff", Role.Anybody),
        ("", Role.Anybody),
    ],
)
def test_role_is_proven_by_its_token_only(header: str, role: tokens.Role) -> None:
    assert GIVEN.role_of(header) is role


def test_token_folder_of_another_owner_is_only_read(tmp_path: Path) -> None:
    for name in (tokens.OBSERVE_FILE, tokens.OPERATE_FILE):
        with pytest.raises(model.ConfigurationError, match=name) as caught:
            tokens.load_both(tmp_path)
        assert "--admin-tokens" in caught.value.hint
        (tmp_path / name).write_text(f"long-enough-{name}\n")
    loaded_tokens = tokens.load_both(tmp_path)
    assert loaded_tokens.role_of("Bearer long-enough-operate.token") is tokens.Role.Operate
    assert sorted(file.name for file in tmp_path.iterdir()) == [tokens.OBSERVE_FILE, tokens.OPERATE_FILE]
