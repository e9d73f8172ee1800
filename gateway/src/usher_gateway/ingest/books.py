"""What the door counts beside the store, for metrics and conditions: plain numbers, touched for every arrival."""

from collections.abc import Iterator, Mapping

import structlog

from usher_gateway import model

_log = structlog.get_logger(__name__)

_WORDS = {word: word.name.lower() for word in model.CountedAs}


class ListenerBooks:
    """One listener's numbers, in one place: with thousands of listeners finding them costs more than counting."""

    __slots__ = (
        "counted",
        "first_accepted",
        "last_accepted",
        "name",
        "recent_accepted",
        "recent_quarantined",
        "refused_in_a_row",
    )

    def __init__(self, name: model.ListenerName) -> None:
        self.name = name
        self.counted = [0] * (max(model.CountedAs) + 1)
        """Arrivals by what they were counted as."""
        self.first_accepted = self.last_accepted = 0
        """When something was accepted first since the start, and last (microseconds); 0: not yet."""
        self.refused_in_a_row = 0
        """Refusals since something was accepted last."""
        self.recent_accepted = self.recent_quarantined = 0
        """What take_recent() will tell."""


class Books:
    """The numbers of all listeners, and those that belong to none."""

    def __init__(self) -> None:
        self._listeners: dict[model.ListenerName, ListenerBooks] = {}
        self._recent: list[ListenerBooks] = []
        self.refused: dict[str, int] = {}
        """reason -> arrivals, those without a tenant included"""
        self.unacknowledged = 0
        self.quarantined: dict[str, int] = {}
        self.unexpected_sources: dict[tuple[str, str], int] = {}
        """(namespace, tenant) -> arrivals let in from outside of ``allowedSources``: the policy is only to report."""
        self.skipped: dict[tuple[str, str, str], int] = {}
        """(namespace, tenant, reason) -> routes that made no delivery"""

    def of(self, name: model.ListenerName) -> ListenerBooks:
        """The numbers of a listener; they outlive its document, because counters never fall."""
        books = self._listeners.get(name)
        if books is None:
            books = self._listeners[name] = ListenerBooks(name)
        return books

    @property
    def counted(self) -> Mapping[tuple[str, str, str], int]:
        """(namespace, tenant, counted as) -> arrivals."""
        sums: dict[tuple[str, str, str], int] = {}
        for books in self._listeners.values():
            for word, count in zip(_WORDS.values(), books.counted[1:], strict=True):
                if count:
                    key = (books.name.namespace, books.name.tenant, word)
                    sums[key] = sums.get(key, 0) + count
        return sums

    def take_recent(self) -> Iterator[tuple[model.ListenerName, int, int]]:
        """(listener, arrivals accepted, quarantined) since the last call."""
        recent, self._recent = self._recent, []
        for books in recent:
            yield books.name, books.recent_accepted, books.recent_quarantined
            books.recent_accepted = books.recent_quarantined = 0

    def add(self, name: model.ListenerName, counted_as: model.CountedAs) -> None:
        """Count an arrival of which nothing was committed."""
        books = self.of(name)
        books.counted[counted_as] += 1
        books.refused_in_a_row += counted_as is model.CountedAs.Refused

    def add_refused(self, reason: model.RefusedReason) -> None:
        """Count a refusal's reason."""
        self.refused[reason.value] = self.refused.get(reason.value, 0) + 1

    def add_committed(self, books: ListenerBooks, arrival: model.Arrival, accepted: model.Accepted) -> None:
        """Count an arrival of the listener that these books are of."""
        books.counted[accepted.counted_as] += 1
        books.last_accepted = arrival.received_at
        if not books.first_accepted:
            books.first_accepted = arrival.received_at
        books.refused_in_a_row = 0
        if not books.recent_accepted:
            self._recent.append(books)
        books.recent_accepted += 1
        for skip in accepted.skipped:
            key = (books.name.namespace, books.name.tenant, skip.name)
            self.skipped[key] = self.skipped.get(key, 0) + 1
        if arrival.quarantine is not None and accepted.counted_as is model.CountedAs.Quarantined:
            books.recent_quarantined += 1
            self.quarantined[arrival.quarantine.name] = self.quarantined.get(arrival.quarantine.name, 0) + 1


class ExpressionCounters:
    """Counts failed filter evaluations by error code; implements ``route.Watch``."""

    def __init__(self) -> None:
        self.errors: dict[str, int] = {}

    def expression_failed(self, listener: str, route: str, code: str) -> None:
        """Count a failure. Only the first one of each code is logged, because a broken filter fails for every visit."""
        if code not in self.errors:
            _log.warning("filter_failed", listener=listener, route=route, error=code)
        self.errors[code] = self.errors.get(code, 0) + 1

    def expression_held(self, listener: str, route: str) -> None:
        """Log that a route is held because its expression is too slow."""
        _log.error("route_held", listener=listener, route=route, reason="ExpressionTooSlow")
