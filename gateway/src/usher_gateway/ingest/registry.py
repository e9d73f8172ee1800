"""The live listeners, and which of them an address belongs to: host and path, and the query for old addresses."""

import functools
import urllib.parse
from collections.abc import Mapping

import msgspec

from usher_gateway import documents, expressions, model
from usher_gateway.ingest import auth, identity, routing
from usher_gateway.ingest.counters import ArrivalCounters, ExpressionCounters
from usher_gateway.ingest.cpu_limits import TenantBudgets
from usher_gateway.timing import EventLoopTurns, TokenBucket

# The rate of a listener is a mean over this time, in which every arrival is answered. After a stall of the gateway all
# posts of that time are read at once, although their sender is below the rate, and Purple repeats a refused one only
# after three hours.
RATE_WINDOW_SECONDS = 8


class LiveListener:
    """A listener's document with everything that is prepared from it; replaced when the document changes.

    Values that each arrival needs are attributes, and equal numbers of many listeners are one object, because with
    thousands of listeners memory is what costs (docs/decisions/0014).
    """

    __slots__ = (
        "body_days",
        "bucket",
        "counters",
        "document",
        "hold",
        "identifier",
        "is_open",
        "late_after",
        "max_body_bytes",
        "max_stored_bytes",
        "name",
        "planner",
        "redelivery",
        "source_ranges",
        "trusted_proxies",
        "user_is_required",
        "window",
    )

    def __init__(
        self,
        document: documents.ListenerDocument,
        *,
        destinations: Mapping[str, documents.DestinationDocument],
        keys: model.Keys,
        expressions: ExpressionCounters,
        counters: ArrivalCounters,
        budgets: TenantBudgets,
        now: float,
    ) -> None:
        """Prepare a listener. ``now``: a monotonic time in seconds, for its rate limit.

        Raises:
            ValueError: a range or an expression in the document is not valid.
        """
        self.document = document
        self.name = document.listener_name
        self.counters = counters.of(self.name)
        self.identifier = identity.Identifier(document, keys)
        self.planner = routing.Planner(
            document, destinations=destinations, identifier=self.identifier, watcher=expressions, budgets=budgets
        )
        self.source_ranges = auth.networks(document.source_ranges)
        self.trusted_proxies = auth.networks(document.trusted_proxies)
        self.is_open = document.authentication.type == "None"
        rate = document.requests_per_second
        self.bucket = TokenBucket(rate, burst=rate * RATE_WINDOW_SECONDS, now=now)
        self.hold = _hold_of(document)
        self.late_after = _shared(document.late_after_seconds * model.MICROSECONDS)
        self.window = _shared(document.window_seconds * model.MICROSECONDS)
        self.redelivery = _shared(document.redelivery_seconds * model.MICROSECONDS)
        self.max_body_bytes = _shared(document.max_body_bytes)
        self.max_stored_bytes = _shared(document.max_stored_bytes)
        self.body_days = document.tenant.body_days
        self.user_is_required = document.fields.get("user") != documents.DEFAULT_FIELDS["user"]


@functools.lru_cache(maxsize=1_024)
def _shared(number: int) -> int:
    """Return one object for equal numbers."""
    return number


def _hold_of(document: documents.ListenerDocument) -> model.HoldReason | None:
    if document.tenant.state == "Suspended":
        return model.HoldReason.TenantSuspended
    return model.HoldReason.ListenerSuspended if document.state == "Suspended" else None


class Match(msgspec.Struct, frozen=True):
    """The listener that a request is for, and the address that matched."""

    listener: LiveListener
    address: documents.Address
    address_id: str
    """``Address.id``, computed once."""


class ListenerRegistry:
    """The listeners in force by name and by address. A lookup costs the same for one listener and for 10,000."""

    def __init__(
        self,
        *,
        keys: model.Keys,
        expressions: ExpressionCounters,
        counters: ArrivalCounters,
        budgets: TenantBudgets,
    ) -> None:
        self._keys = keys
        self._budgets = budgets
        self._expressions = expressions
        self._counters = counters
        self._listeners: dict[str, LiveListener] = {}
        self._snapshot = documents.Snapshot({}, {})
        self._by_host_and_path: dict[tuple[str, str], list[Match]] = {}
        """(host, path) -> its addresses in order of precedence."""
        self.is_complete = False
        """True once a complete configuration was applied, so that an unknown address is not valid."""

    @property
    def listeners(self) -> Mapping[str, LiveListener]:
        """The listeners in force, by ``namespace/name``."""
        return self._listeners

    def prepare(
        self,
        document: documents.ListenerDocument,
        destinations: Mapping[str, documents.DestinationDocument],
        now: float,
    ) -> LiveListener:
        """Build what serves a document, without serving it. Raises: ValueError."""
        return LiveListener(
            document,
            destinations=destinations,
            keys=self._keys,
            expressions=self._expressions,
            counters=self._counters,
            budgets=self._budgets,
            now=now,
        )

    async def prepare_changed(self, snapshot: documents.Snapshot, now: float) -> dict[str, LiveListener]:
        """Build the listeners that `apply` is going to replace, in turns, because it needs up to 15 ms for a filter."""
        turns = EventLoopTurns()
        built: dict[str, LiveListener] = {}
        for key, document in self._changed(snapshot).items():
            programs = []  # so that they are still compiled when the listener is built
            for route in document.routes:
                if route.when:
                    programs.append(expressions.compile_expression(route.when, "when"))
                    await turns.give_way()
            built[key] = self.prepare(document, snapshot.destinations, now)
            await turns.give_way()
        return built

    def apply(
        self, snapshot: documents.Snapshot, now: float, prepared: Mapping[str, LiveListener] | None = None
    ) -> int:
        """Serve a new configuration from the next request on; returns how many listeners were built.

        A listener is kept if neither its document nor its destinations have changed, so the cost depends on how much
        changed.

        Args:
            snapshot: The configuration.
            now: Monotonic seconds.
            prepared: Return value of `prepare_changed` for this configuration; None: build the listeners here.
        """
        previous = self._snapshot
        if prepared is None:
            changed = self._changed(snapshot)
            prepared = {key: self.prepare(document, snapshot.destinations, now) for key, document in changed.items()}
        removed = previous.listeners.keys() - snapshot.listeners.keys()
        for key in prepared.keys() | removed:
            if key in self._listeners:
                self._remove_addresses(self._listeners.pop(key))
        for listener in prepared.values():
            self._add_addresses(listener)
        self._listeners |= prepared
        self._snapshot = snapshot
        self.is_complete = snapshot.is_complete
        return len(prepared)

    def _changed(self, snapshot: documents.Snapshot) -> dict[str, documents.ListenerDocument]:
        """The listeners whose document or destination differs from the configuration in force."""
        previous = self._snapshot
        destinations = set(documents.changed(previous.destinations, snapshot.destinations))
        destinations |= previous.destinations.keys() - snapshot.destinations.keys()
        changed = documents.changed(previous.listeners, snapshot.listeners)
        if destinations:
            for key, document in snapshot.listeners.items():
                if any(route.destination in destinations for route in document.routes):
                    changed[key] = document
        return changed

    def find(self, host: str, target: str, now: int) -> Match | None:
        """Find the listener for a Host header and a request target (path and query as sent); None if there is none.

        Among several addresses at one path, the one with the most matching query pairs wins. ``now``: confirmed
        microseconds, because no clock jump may end an address.
        """
        path, _, query = target.partition("?")
        candidates = self._by_host_and_path.get((host, path)) or self._by_host_and_path.get((host_name(host), path))
        if candidates is None:
            return None
        pairs: set[tuple[str, str]] | None = None
        for match in candidates:
            address = match.address
            if address.until and now >= address.until:
                continue
            if address.query:
                if pairs is None:
                    pairs = set(urllib.parse.parse_qsl(query, keep_blank_values=True))
                if not pairs.issuperset(address.query):
                    continue
            return match
        return None

    def _add_addresses(self, listener: LiveListener) -> None:
        for address in listener.document.addresses:
            matches = self._by_host_and_path.setdefault((address.host, address.path), [])
            matches.append(Match(listener, address, address.id))
            matches.sort(key=_precedence)

    def _remove_addresses(self, listener: LiveListener) -> None:
        for address in listener.document.addresses:
            host_and_path = (address.host, address.path)
            remaining_matches = [
                match for match in self._by_host_and_path.get(host_and_path, ()) if match.listener is not listener
            ]
            if remaining_matches:
                self._by_host_and_path[host_and_path] = remaining_matches
            else:
                self._by_host_and_path.pop(host_and_path, None)


def _precedence(match: Match) -> tuple[int, bool, str]:
    """Most query pairs first, then those not retired, then by key.

    Two listeners share an address only briefly; all replicas pick the same.
    """
    return -len(match.address.query), match.address.retired_at > 0, match.listener.document.key


def host_name(header: str) -> str:
    """The host in a Host header: lower case, without the port and without the root's dot."""
    host = header.lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].rstrip(".")
