"""The search for leaks finds personal data and secrets."""

import base64
import logging

import pytest
import structlog

from support import leaks

SECRET = "wx3secret-of-this-test"


@pytest.fixture(autouse=True)
def nothing_was_found_before() -> None:
    assert leaks.PERSONAL_DATA.take_found() == leaks.SECRETS.take_found() == []


def test_person_in_a_log_is_found() -> None:
    structlog.get_logger("x").info("visit", who=f"Zoë {leaks.PERSON.upper()}")
    (leak,) = leaks.PERSONAL_DATA.take_found()
    assert leak.startswith("log visit: ")


def test_text_of_an_exception_is_not_logged() -> None:
    def fail() -> None:
        raise ValueError(f"cannot read {leaks.PERSON}")

    try:
        fail()
    except ValueError as error:
        structlog.get_logger("x").error("failed", exc_info=error)
        logging.getLogger("asyncio").exception("failed")
    assert leaks.PERSONAL_DATA.take_found() == []


@pytest.mark.parametrize("text", [SECRET, base64.b64encode(SECRET.encode()).decode()], ids=["plain", "base64"])
def test_secret_is_found_and_not_repeated_in_the_report(text: str) -> None:
    leaks.add_secret(f"{SECRET}\n")
    leaks.SECRETS.search("a log", f"sent with {text} to them")
    (leak,) = leaks.SECRETS.take_found()
    assert leak.startswith("a log: …sent with ")
    assert text not in leak
