"""The watch over what is told must see what it is there for."""

import logging

import pytest
import structlog

from support import privacy


@pytest.fixture(autouse=True)
def nothing_was_found_before() -> None:
    assert privacy.take_found() == {}


def test_a_person_in_a_log_is_found() -> None:
    structlog.get_logger("x").info("visit", who=f"Zoë {privacy.PERSON.upper()}")
    assert list(privacy.take_found()) == ["log visit: wx3personal"]


def test_a_person_in_a_library_s_log_is_found() -> None:
    logging.getLogger("aiohttp.server").error("bad line %r", b"zqxjv1n1@visitors.example")
    assert list(privacy.take_found()) == ["library log aiohttp.server: zqxjv"]


def test_a_person_in_metrics_is_found() -> None:
    privacy.search("metrics", 'usher_x{user="+999555123"} 1.0')
    assert list(privacy.take_found()) == ["metrics: +999555"]


def test_the_text_of_an_exception_is_not_logged() -> None:
    def fail() -> None:
        raise ValueError(f"cannot read {privacy.PERSON}")

    try:
        fail()
    except ValueError as error:
        structlog.get_logger("x").error("failed", exc_info=error)
        logging.getLogger("asyncio").exception("failed")
    assert privacy.take_found() == {}
