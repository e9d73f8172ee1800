"""From a parsed body to a committed arrival: put together what the store needs, hand it in, wait until the deadline."""

import asyncio
from collections.abc import Callable, Mapping

from usher_gateway import model
from usher_gateway.ingest import answers, find, identify, route, validate
from usher_gateway.store.base import Store

TRUNCATED_BYTES = 64 * 1024
"""What is kept of a body that is too large."""

MAX_HOPS = 2
"""An arrival that has passed so many Ushers already is a loop."""

_TICK_SECONDS = 0.1


def understand(
    found: find.Found, headers: Mapping[str, str], raw: bytes, parsed: validate.Parsed, now: int
) -> model.Arrival:
    """The arrival as the store gets it: identity, plans, limits (pure)."""
    listener, body = found.listener, parsed.body
    planner = listener.planner
    hops = _hops(headers.get("Usher-Hops", ""))
    quarantine = parsed.quarantine
    fields: dict[str, object] = {}
    if body is not None:
        fields = listener.identifier.extract(body)
        quarantine = quarantine or _unfit(listener, body, fields, hops)
    if body is None or quarantine in {model.QuarantineReason.Truncated, model.QuarantineReason.NoUser}:
        identity = listener.identifier.identify_raw(raw, now, fields)
    else:
        identity = listener.identifier.identify(body, parsed.plain, fields, now)
    late = now - identity.visit_time > listener.late_after
    if_visit: route.Plans = ()
    if_repeat: route.Plans = ()
    if quarantine is None and body is not None:
        hold = model.HoldReason.TokenHeld if found.address.action == "Hold" else listener.hold
        if planner.is_constant:
            if_visit, if_repeat = planner.constant(hold)
        else:
            if_visit, if_repeat = planner.plan(route.Occasion(body, fields, identity, now, late, hold))
    is_truncated = quarantine is model.QuarantineReason.Truncated
    quota = listener.quota
    return model.Arrival(
        listener=listener.name,
        received_at=now,
        visit_time=identity.visit_time,
        time_trusted=identity.time_trusted,
        late=late,
        fingerprint=identity.fingerprint,
        visitor_key=identity.visitor_key,
        person_keys=identity.person_keys,
        body=raw[:TRUNCATED_BYTES] if is_truncated else raw,
        content_type=headers.get("Content-Type", "").encode("utf-8", "surrogateescape")[:200],
        future_time=identity.future_time,
        hops=min(hops, 255),
        body_days=listener.body_days,
        window=listener.window,
        redelivery=listener.redelivery,
        if_visit=if_visit,
        if_repeat=if_repeat,
        quarantine=quarantine,
        has_marks=planner.has_marks,
        quota=quota,
        quota_month=listener.month(now) if quota else (0, 0),
        token_held=found.address.action == "Hold",
        body_size=len(raw),
    )


def _unfit(
    listener: find.LiveListener, body: dict[str, object], fields: dict[str, object], hops: int
) -> model.QuarantineReason | None:
    """Why an understood body is no visit of this listener."""
    if listener.user_is_required:
        if "user" not in fields:
            return model.QuarantineReason.NoUser
    elif not isinstance(body.get("user"), dict):
        return model.QuarantineReason.NoUser
    if hops >= MAX_HOPS:
        return model.QuarantineReason.Loop
    tenant = listener.document.tenant
    if tenant.company_id and tenant.company_check != "Off" and "company" in fields:
        if identify.as_text(fields["company"]) == tenant.company_id:
            return None
        if tenant.company_check == "Quarantine":
            return model.QuarantineReason.CompanyMismatch
        listener.company_mismatches += 1
    return None


def _hops(text: str) -> int:
    """What is no number says nothing; a number however long is one."""
    digits = text.lstrip("0")
    if not digits.isdecimal():
        return 0
    return int(digits) if len(digits) < 4 else 255


class Deadlines:
    """Ends waits at their deadline: one clock for all, instead of a timer for each arrival."""

    def __init__(self, abandon: Callable[["asyncio.Future[model.Accepted]", model.Arrival], None]) -> None:
        self._abandon = abandon
        self.waiting: dict[asyncio.Future[model.Accepted], tuple[float, model.Arrival]] = {}
        """Future -> its deadline (the event loop's clock), and whose it is."""

    def begin(self, future: "asyncio.Future[model.Accepted]", deadline: float, arrival: model.Arrival) -> None:
        """Watch a wait; one whose deadline is over already ends at once: others may be pipelined behind it."""
        self.waiting[future] = (deadline, arrival)
        if deadline <= asyncio.get_running_loop().time():
            self._abandon(future, arrival)

    async def watch(self) -> None:
        """Look ten times a second. Runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            soon = loop.time() + _TICK_SECONDS
            for future, (deadline, arrival) in list(self.waiting.items()):
                if deadline <= soon:
                    self._abandon(future, arrival)


async def commit(store: Store, deadlines: Deadlines, arrival: model.Arrival, deadline: float) -> model.Accepted:
    """Hand an arrival to the store and wait until it is durable.

    Raises:
        RefusedError: QueueFull, LowDisk, Deadline: nothing is committed that the sender is told of.
    """
    try:
        future = store.accept(arrival)
    except model.StoreFullError:
        raise answers.RefusedError(model.RefusedReason.LowDisk) from None
    except model.StoreBusyError:
        raise answers.RefusedError(model.RefusedReason.QueueFull) from None
    except model.StoreUnavailableError:
        raise answers.RefusedError(model.RefusedReason.StoreUnavailable) from None
    deadlines.begin(future, deadline, arrival)
    try:
        return await future
    except asyncio.CancelledError:
        if not future.cancelled():
            raise
        raise answers.RefusedError(model.RefusedReason.Deadline) from None
    finally:
        del deadlines.waiting[future]
