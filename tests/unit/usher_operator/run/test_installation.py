"""The operator reads the install's Secrets as they are, and never stops because of what is in them."""

import base64
from typing import Any, cast

import pytest
import structlog

from support.planning import Cluster
from usher_operator.run.installation import Installation
from usher_operator.run.workqueue import PauseGate


class Server:
    """Stands in for the client: has the two Secrets of an install."""

    def __init__(self, token: bytes) -> None:
        key = base64.b64encode(b"k" * 32)
        self.data = {"usher-install-key": {"install.key": key}, "usher-admin-tokens": {"observe.token": token}}

    async def get(self, path: str, *, missing_ok: bool) -> dict[str, Any]:
        assert missing_ok
        entries = self.data[path.rpartition("/")[2]]
        return {"data": {name: base64.b64encode(value).decode() for name, value in entries.items()}}


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (b"abcDEF-_0123456789\n", "abcDEF-_0123456789"),
        (b"first\nsecond\n", ""),
        (b"with blanks", ""),
        ("umläut".encode(), ""),
        (b" \n", ""),
    ],
)
async def test_token_that_fits_into_no_header_counts_as_none(token: bytes, expected: str) -> None:
    cluster = Cluster()

    async def read_documents() -> str:
        return "version"

    installation = Installation(
        api=cast("Any", Server(token)),
        cache=cluster.cache,
        queue=cast("Any", None),
        gate=PauseGate(),
        read_documents=read_documents,
    )
    with structlog.testing.capture_logs() as logs:
        assert await installation.ensure()
    assert installation.observe_token == expected
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["observe_token_not_found"] * (
        not expected
    )
