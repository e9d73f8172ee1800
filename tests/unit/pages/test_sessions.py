"""Hidden fields that only their session can read."""

import string
import time

from aiohttp import test_utils

from usher_gateway.access.seal import Seals
from usher_gateway.pages.sessions import Sessions

KEY = bytes(32)


def test_field_is_read_by_its_session_alone_for_ten_minutes() -> None:
    seconds = 1_000.0
    sessions = Sessions(Seals(KEY, lambda: seconds), time.monotonic)
    first, second = sessions.field_seal("first"), sessions.field_seal("second")
    field = first.seal("ada@example.com")
    assert "ada" not in field
    seconds = 1_599.0
    assert (first.open(field), second.open(field)) == ("ada@example.com", None)
    seconds = 1_600.0
    assert first.open(field) is None


def test_field_is_no_session_and_a_session_is_no_field() -> None:
    seals = Seals(KEY, lambda: 0.0)
    sessions = Sessions(seals, time.monotonic)
    field = sessions.field_seal("first").seal("token")
    request = test_utils.make_mocked_request("POST", "/ui/find", headers={"Cookie": f"usher_session={field}"})
    assert sessions.token(request) is None
    assert sessions.field_seal("first").open(seals.seal("session", "token", 60.0)) is None


def test_seal_with_other_unused_bits_is_refused() -> None:
    seals = Seals(KEY, lambda: 0.0)
    for length in range(3):  # of base64's last group
        sealed = seals.seal("session", "a" * length, 60.0)
        letter = len(sealed.rstrip("=")) - 1
        spellings = [sealed[:letter] + other + sealed[letter + 1 :] for other in string.ascii_letters]
        opened = [spelling for spelling in spellings if seals.open("session", spelling) is not None]
        assert set(opened) <= {sealed}
