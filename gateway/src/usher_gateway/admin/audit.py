"""One line in the log for whatever an operator sees or changes: who, what, how many. Nothing personal."""

from collections.abc import Mapping

import structlog
from aiohttp import web

_log = structlog.get_logger("usher_gateway.audit")

WHO: web.RequestKey[str] = web.RequestKey("who", str)
"""The name of the token that a request came with."""


def note(request: web.Request, action: str, selection: Mapping[str, object], count: int) -> None:
    """Write one line."""
    _log.info("audit", who=request[WHO], action=action, selection=dict(selection), count=count, peer=request.remote)
