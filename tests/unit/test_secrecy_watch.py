"""The watch over secrets must see what it is there for."""

import base64

import pytest

from support import secrecy

VALUE = "wx3secret-of-the-watch"


@pytest.fixture(autouse=True)
def kept() -> None:
    secrecy.keep(f"{VALUE}\n")
    assert secrecy.take_found() == []


@pytest.mark.parametrize("text", [VALUE, base64.b64encode(VALUE.encode()).decode()], ids=["plain", "in base64"])
def test_a_secret_that_is_told_is_found_and_not_told_again(text: str) -> None:
    secrecy.search("a log", f"sent with {text} to them")
    (found,) = secrecy.take_found()
    assert found.startswith("a log: ")
    assert "sent with" in found
    assert text not in found


def test_a_piece_of_a_document_is_found() -> None:
    data = base64.b64encode(bytes(range(256))).decode()
    secrecy.keep_data(data)
    secrecy.search("a log", f"applied {data[100:300]}")
    assert secrecy.take_found() != []


def test_a_run_that_told_a_secret_fails_at_its_end() -> None:
    watching = secrecy.watching()
    next(watching)
    secrecy.search("an Event", VALUE)
    with pytest.raises(AssertionError, match="an Event"):
        next(watching)
