"""How documents, listeners and destinations stand, for whoever asks again and again: the operator's conditions.

Looked over in slices every few seconds, so that an answer costs what has changed and no arrival waits for it.
"""

import asyncio
import collections
import math
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from usher_gateway import config_secret, documents, model
from usher_gateway.config import journal, published
from usher_gateway.delivery import circuit

if TYPE_CHECKING:
    from usher_gateway import app

WINDOW_MINUTES = 15
"""What quarantining and mismatches of companies are judged by."""

QUARANTINING_FROM = 0.05
"""A larger part of the accepted arrivals being quarantined is worth a condition (design §7)."""

REFUSING_FROM = 3
"""So many refusals in a row, and nothing accepted in between, are no accident."""

_SWEEP_SECONDS = 5.0
_ASKED_SECONDS = 300.0
"""Nobody has asked for so long: nobody is there who would, and 10,000 listeners take a fiftieth of a core."""

_SLICE = 200
_MINUTE = 60.0


class ListenerState(msgspec.Struct, frozen=True, rename="camel"):
    """What an operator's informational conditions say of a listener."""

    receiving: Literal["Receiving", "NoVisitYet", "Silent"]
    """Since the gateway's start; ``Silent``: nothing for longer than the listener's ``silence.afterSeconds``, and the
    listener has been here for so long."""
    verified_since: str | None
    """When something was accepted first since the gateway's start (RFC 3339)."""
    refusing: bool
    """What comes is refused, and nothing was accepted in between."""
    quarantined_share: float
    """Of the arrivals accepted in the last 15 minutes, to a thousandth."""
    quarantining: bool
    company_mismatch: bool
    """An arrival of another company was accepted in the last 15 minutes."""
    degraded_routes: tuple[dict[str, str], ...]
    """``route`` and ``reason`` of routes that are held for what they are."""


class DestinationState(msgspec.Struct, frozen=True, rename="camel"):
    """What an operator's informational conditions say of a destination."""

    circuit: str
    error: str | None
    """What its last attempt came to, while the circuit is open."""
    gone: bool
    healthy: bool
    unresolved: str | None
    """Why secrets are missing."""


class DocumentState(msgspec.Struct, frozen=True):
    """One document: ``hash`` is of the one that runs (None: none does), ``rejected`` why a newer one does not."""

    kind: config_secret.Kind
    key: str
    hash: str | None
    rejected: str | None
    vanished: bool


State = DocumentState | ListenerState | DestinationState
Key = tuple[str, config_secret.Kind, str]
"""``document`` or ``observed``, kind, ``namespace/name``."""


class Window:
    """What happened per listener in the last 15 minutes. Pure: whoever uses it says when a minute is over."""

    def __init__(self) -> None:
        self._minutes: collections.deque[dict[str, tuple[int, int, int]]] = collections.deque()
        self._present: dict[str, tuple[int, int, int]] = {}
        self._totals: dict[str, tuple[int, int, int]] = {}

    def add(self, key: str, accepted: int, quarantined: int, mismatched: int) -> None:
        """Count arrivals of the present minute."""
        more = (accepted, quarantined, mismatched)
        self._present[key] = _plus(self._present.get(key, _NOTHING), more)
        self._totals[key] = _plus(self._totals.get(key, _NOTHING), more)

    def turn(self) -> None:
        """A minute is over."""
        self._minutes.append(self._present)
        self._present = {}
        if len(self._minutes) < WINDOW_MINUTES:
            return
        for key, (accepted, quarantined, mismatched) in self._minutes.popleft().items():
            left = _plus(self._totals[key], (-accepted, -quarantined, -mismatched))
            if left == _NOTHING:
                del self._totals[key]
            else:
                self._totals[key] = left

    def share(self, key: str) -> float:
        """Part of the accepted arrivals that was quarantined."""
        accepted, quarantined, _ = self._totals.get(key, _NOTHING)
        return quarantined / accepted if accepted else 0.0

    def mismatched(self, key: str) -> bool:
        """Whether an arrival of another company was accepted."""
        return self._totals.get(key, _NOTHING)[2] > 0


_NOTHING = (0, 0, 0)


def _plus(left: tuple[int, int, int], right: tuple[int, int, int]) -> tuple[int, int, int]:
    return left[0] + right[0], left[1] + right[1], left[2] + right[2]


class Report:
    """Follows a gateway."""

    def __init__(self, gateway: "app.Gateway") -> None:
        self._gateway = gateway
        self._journal: journal.Journal[Key, State] = journal.Journal(secrets.token_hex(8))
        self._window = Window()
        self._mismatches: dict[str, tuple[object, int]] = {}
        self._asked_at = self._swept_at = -math.inf
        self._here_since: dict[str, int] = {}
        """Of each listener: one that has just come is not silent yet."""

    async def run(self) -> None:
        """Look over everything, now and then, as long as somebody asks. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        turned = loop.time()
        while True:
            if loop.time() - turned >= _MINUTE:
                turned = loop.time()
                self._window.turn()
            if loop.time() - self._asked_at < _ASKED_SECONDS:
                await self.sweep()
            else:
                self._count()
            await asyncio.sleep(_SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Look over everything once, and let others work in between."""
        for _ in self._slices():
            await asyncio.sleep(0)

    def _slices(self) -> Iterator[None]:
        """Look over every listener and destination once, in slices."""
        self._count()
        self._swept_at = asyncio.get_running_loop().time()
        snapshot = self._gateway.snapshot
        self._here_since = {key: since for key, since in self._here_since.items() if key in snapshot.listeners}
        for index, (key, listener) in enumerate(snapshot.listeners.items()):
            if self._gateway.snapshot.listeners.get(key) is listener:
                self._journal.note(("observed", "Listener", key), self.listener(key, listener))
            if index % _SLICE == 0:
                yield
        for index, (key, destination) in enumerate(snapshot.destinations.items()):
            if self._gateway.snapshot.destinations.get(key) is destination:
                self._journal.note(("observed", "Destination", key), self.destination(key, destination))
            if index % _SLICE == 0:
                yield

    def since(self, cursor: str | None) -> journal.Changes[Key, State]:
        """What changed after a cursor, or everything."""
        self._asked_at = asyncio.get_running_loop().time()
        if self._asked_at - self._swept_at > 2 * _SWEEP_SECONDS:  # nobody had asked for long
            collections.deque(self._slices(), maxlen=0)
        self._take()
        return self._journal.since(cursor)

    def document(self, kind: config_secret.Kind, key: str) -> DocumentState | None:
        """How a document stands."""
        self._take()
        found = self._journal.get(("document", kind, key))
        return found if isinstance(found, DocumentState) else None

    def _take(self) -> None:
        """Note what the source tells of documents, and look at once at what they are of."""
        for (kind, key), state in self._gateway.source.take_touched().items():
            self._journal.note(("document", kind, key), _document(kind, key, state))
            known = self._gateway.snapshot
            observed: State | None = None
            if kind == "Listener" and key in known.listeners:
                observed = self.listener(key, known.listeners[key])
            elif kind == "Destination" and key in known.destinations:
                observed = self.destination(key, known.destinations[key])
            self._journal.note(("observed", kind, key), observed)

    def _count(self) -> None:
        """Move what the door counted since the last sweep into the window."""
        for name, accepted, quarantined in self._gateway.door.books.take_recent():
            self._window.add(name.key, accepted, quarantined, 0)
        for key, live in self._gateway.door.listeners.items():
            if live.company_mismatches:
                known, count = self._mismatches.get(key, (None, 0))
                new = live.company_mismatches - (count if known is live else 0)
                self._mismatches[key] = (live, live.company_mismatches)
                if new:
                    self._window.add(key, 0, 0, new)

    def listener(self, key: str, document: documents.Listener) -> ListenerState:
        """How a listener does now."""
        gateway = self._gateway
        books = gateway.door.books.of(model.ListenerName(document.namespace, document.tenant.name, document.name))
        last, first = books.last_accepted, books.first_accepted
        share = self._window.share(key)
        silence = document.silence_after_seconds * model.MICROSECONDS
        receiving: Literal["Receiving", "NoVisitYet", "Silent"]
        receiving = "Receiving" if last else "NoVisitYet"
        now = gateway.clock.now()
        if now - (last or self._here_since.setdefault(key, now)) >= silence:
            receiving = "Silent"
        slow = [route.name for route in document.routes if self._is_too_slow(key, route.name)]
        return ListenerState(
            receiving=receiving,
            verified_since=model.format_time(first) if first else None,
            refusing=books.refused_in_a_row >= REFUSING_FROM,
            quarantined_share=round(share, 3),
            quarantining=share > QUARANTINING_FROM,
            company_mismatch=self._window.mismatched(key),
            degraded_routes=tuple({"route": route, "reason": "ExpressionTooSlow"} for route in slow),
        )

    def _is_too_slow(self, listener: str, route: str) -> bool:
        live = self._gateway.door.listeners.get(listener)
        return (live is not None and route in live.planner.too_slow) or self._gateway.desk.is_too_slow(listener, route)

    def destination(self, key: str, document: documents.Destination) -> DestinationState:
        """How a destination does now."""
        gateway = self._gateway
        state, gone = gateway.dispatcher.lanes.circuit_of(key).state, key in gateway.desk.gone
        return DestinationState(
            circuit=state.value,
            error=gateway.dispatcher.open_circuits.get(key),
            gone=gone,
            healthy=state is not circuit.State.Open and not gone,
            unresolved=document.unresolved or None,
        )


_S = TypeVar("_S", bound=State)


def select(changes: journal.Changes[Key, State], type_: type[_S]) -> dict[str, _S]:
    """The states of one type, by ``namespace/name``."""
    return {key: state for (_, _, key), state in changes.present.items() if isinstance(state, type_)}


def select_documents(changes: journal.Changes[Key, State]) -> list[DocumentState]:
    """The states of documents; a listener and a destination may have the same name."""
    return [state for state in changes.present.values() if isinstance(state, DocumentState)]


def _document(kind: config_secret.Kind, key: str, state: published.State | None) -> DocumentState | None:
    return None if state is None else DocumentState(kind, key, state.hash, state.rejected, state.vanished)
