"""Input of a user is parsed or refused with a hint, and never repeated if it may be a secret."""

from pathlib import Path

import pytest

from usher_gateway import model
from usher_gateway.simulator import settings


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("1.5m", 90), ("24h", 86_400), ("2d", 172_800), ("5s", 5)])
def test_durations_are_parsed(text: str, value: float) -> None:
    assert settings.seconds(text, "--duration") == value


@pytest.mark.parametrize("text", ["", "0", "-3", "h", "1w", "1 h 2", "nan", "inf"])
def test_invalid_duration_is_rejected(text: str) -> None:
    with pytest.raises(model.ConfigurationError, match="--duration"):
        settings.seconds(text, "--duration")


def test_credentials_come_from_the_environment_and_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("from a file\n")
    monkeypatch.setenv("ACME_BASIC", "purple:secret")
    headers = settings.credentials("env:ACME_BASIC", [f"X-Key=file:{tmp_path / 'key'}"])
    assert headers == (("Authorization", "Basic cHVycGxlOnNlY3JldA=="), ("X-Key", "from a file"))
    assert settings.credentials("", []) == ()


@pytest.mark.parametrize("source", ["hunter2", "env:USHER_NO_SUCH_VARIABLE", "file:/nowhere/at/all", "env:", ""])
def test_missing_credential_is_rejected_without_printing_it(source: str) -> None:
    with pytest.raises(model.ConfigurationError) as caught:
        settings.secret(source, "--header")
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("value", ["", "two\nlines", "\x00"])
def test_credential_with_control_characters_is_rejected(value: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(value)
    with pytest.raises(model.ConfigurationError, match="printable"):
        settings.secret(f"file:{tmp_path / 'key'}", "--header")


@pytest.mark.parametrize("header", ["X-Key", "=env:HOME", "X Key=env:HOME", "X-Key\n=env:HOME"])
def test_header_without_a_name_is_rejected(header: str) -> None:
    with pytest.raises(model.ConfigurationError, match="--header"):
        settings.credentials("", [header])
