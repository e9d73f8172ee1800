"""What operators change: redrive, replay, release. Each names the rows it means, and is written down."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from usher_gateway import model
from usher_gateway.admin import audit, problems, questions
from usher_gateway.admin import context as contexts
from usher_gateway.ingest import release as anew
from usher_gateway.store.base import Filter

_SLICE = 20
"""Quarantined arrivals understood between two turns of the event loop: each may cost some milliseconds."""


async def redrive(context: contexts.AdminContext, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/deliveries/redrive``."""
    return await _change(request, "redrive", "redriven", lambda where: context.store.redrive(where, context.now()))


async def replay(context: contexts.AdminContext, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/visits/replay``."""
    return await _change(request, "replay", "replayed", lambda where: context.store.replay(where, context.now()))


async def _change(
    request: web.Request, action: str, word: str, change: Callable[[Filter], Awaitable[int]]
) -> web.StreamResponse:
    with problems.asking():
        selection, where = await _selected(request)
        count = await change(where)
    audit.note(request, action, selection, count)
    return problems.answer({word: count})


async def release(context: contexts.AdminContext, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/quarantine/release``: what is a visit now is delivered; the rest says why it is still none."""
    with problems.asking():
        selection, where = await _selected(request)
        async with context.releasing:
            released = await _release(context, where)
    audit.note(request, "release", selection, released.arrivals)
    return problems.answer({"released": released.arrivals, "deliveries": released.deliveries, "unfit": released.unfit})


class _Released(msgspec.Struct):
    arrivals: int = 0
    deliveries: int = 0
    unfit: dict[str, int] = msgspec.field(default_factory=dict)


async def _release(context: contexts.AdminContext, where: Filter) -> _Released:
    result, after = _Released(), 0
    while found := await context.store.quarantined(where, _SLICE, after):
        after = found[-1].key
        fit = []
        for arrival in found:
            understood = _understand(context, arrival)
            if isinstance(understood, model.Arrival):
                fit.append(understood)
            else:
                result.unfit[understood] = result.unfit.get(understood, 0) + 1
        result.deliveries += await context.store.release(fit, context.now())
        result.arrivals += len(fit)
    return result


def _understand(context: contexts.AdminContext, arrival: model.Arrival) -> model.Arrival | str:
    listener = context.listeners().get(arrival.listener.key)
    if listener is None or listener.name != arrival.listener:
        return "ListenerNotFound"
    understood = anew.understand_anew(listener, arrival, context.now())
    return understood if isinstance(understood, model.Arrival) else understood.name


async def _selected(request: web.Request) -> tuple[dict[str, object], Filter]:
    """The selection as it was said (for the audit), and as the store's filter."""
    selection = questions.selection_of(await request.read())
    said = {name: value for name, value in msgspec.to_builtins(selection).items() if value}
    if "ids" in said:
        said["ids"] = len(selection.ids)
    return said, questions.filter_of_selection(selection)
