"""Counts arrivals for metrics and conditions. The store's meters, which are billed, are separate."""

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import structlog

from usher_gateway import documents, model
from usher_gateway.store.base import ListenerActivity

_log = structlog.get_logger(__name__)

# Addresses of a listener whose first visit and last probe are remembered, and retired ones whose last request is.
_MAX_ADDRESSES = 256

_LONGEST_PAUSE = 15 * 60 * model.MICROSECONDS

_REFUSALS_LOGGED_EVERY = 60 * model.MICROSECONDS


class RecentCounts(NamedTuple):
    """One listener's arrivals in a stretch of time."""

    accepted: int = 0
    quarantined: int = 0
    mismatches: int = 0
    """Arrivals that belong to another company."""
    untrusted_times: int = 0
    """Arrivals with a time in the body that is not trusted."""
    unexpected_sources: int = 0
    """From outside ``allowedSources``, which the policy Report lets in."""

    def plus(self, other: "RecentCounts") -> "RecentCounts":
        """Return the sum."""
        return RecentCounts(*map(operator.add, self, other))

    def minus(self, other: "RecentCounts") -> "RecentCounts":
        """Return the difference."""
        return RecentCounts(*map(operator.sub, self, other))


class Streak:
    """Since when arrivals of a kind come, with pauses of at most 15 minutes, which is the health report's window."""

    __slots__ = ("last", "since")

    def __init__(self) -> None:
        self.since = self.last = 0  # Microseconds; 0: none came yet

    def add(self, at: int) -> None:
        """Note an arrival."""
        if not self.last or at - self.last > _LONGEST_PAUSE:
            self.since = at
        self.last = at


class ListenerCounters:
    """One listener's counts, in one object: with thousands of listeners finding them costs more than counting."""

    __slots__ = (
        "company_mismatches",
        "counted",
        "first_visits",
        "is_unsaved",
        "last_accepted",
        "mismatching",
        "name",
        "other_company",
        "probed",
        "quarantined_reason",
        "quarantined_source",
        "quarantining",
        "recent_accepted",
        "recent_mismatches",
        "recent_quarantined",
        "recent_unexpected_sources",
        "recent_untrusted_times",
        "refusals_logged_at",
        "refused_at",
        "refused_in_a_row",
        "refused_reason",
        "refused_since",
        "retired_arrivals",
        "unexpected",
        "unexpected_source",
        "unlogged_refusals",
        "untrusted_time_reason",
        "untrusted_times",
    )

    def __init__(self, name: model.ListenerName) -> None:
        self.name = name
        self.counted = [0] * (max(model.CountedAs) + 1)  # Arrivals, indexed by `model.CountedAs`
        self.other_company = ""  # The other company that the last accepted mismatch named
        self.mismatching, self.quarantining, self.untrusted_times = Streak(), Streak(), Streak()
        """Streaks: arrivals from another company, quarantined ones, and ones with a time that is not trusted."""
        self.unexpected = Streak()  # Requests from outside `allowedSources` that were let in
        self.untrusted_time_reason: Literal["", "NoOffset", "InFuture"] = ""
        """Why the last such time is not trusted. ``NoOffset``: it has no offset, or is not a time."""
        self.company_mismatches = 0  # Accepted arrivals of another company, which `companyCheck: Warn` lets in
        self.last_accepted = 0  # Time of the last accepted arrival in microseconds; 0: none
        self.first_visits: dict[str, int] = {}  # `Address.id` -> the first visit at that address, in microseconds
        self.probed: dict[str, int] = {}  # `Address.id` -> the last probe there since the start, in microseconds
        self.is_unsaved = False  # True if `ArrivalCounters.take_activity` will return this listener
        self.refused_in_a_row = 0  # Refusals since the last accepted arrival, as far as this gateway knows
        self.refused_since = self.refused_at = 0
        """The first and the last one, by the clock that never goes back (microseconds)."""
        self.refused_reason: model.RefusedReason | None = None  # The last refusal's reason
        self.quarantined_reason: model.QuarantineReason | None = None  # The last quarantined arrival's reason
        self.quarantined_source = ""  # The address that sent it; a sender's, not a visitor's
        self.unexpected_source = ""
        """Sender's address in the last request from outside ``allowedSources``, let in or refused; not a visitor's."""
        self.unlogged_refusals: dict[str, int] = {}  # Reason -> refusals since the last line of the log about them
        self.refusals_logged_at: int | None = None  # When that line was written, by the clock that never goes back
        self.retired_arrivals: dict[str, int] = {}
        """A retired address's ``Address.id`` -> the last request there, in microseconds."""
        self.recent_accepted = self.recent_quarantined = self.recent_mismatches = 0
        """Arrivals since `ArrivalCounters.take_recent` was last called."""
        self.recent_untrusted_times = self.recent_unexpected_sources = 0  # The same


class ArrivalCounters:
    """The counts for all listeners, and those that belong to no listener."""

    def __init__(self) -> None:
        self._listeners: dict[model.ListenerName, ListenerCounters] = {}
        self._by_tenant: dict[tuple[str, str], list[ListenerCounters]] = {}
        self._recent: list[ListenerCounters] = []
        self._unsaved: list[ListenerCounters] = []
        self.refused: dict[str, int] = {}  # Reason -> refused arrivals, including those without a tenant
        self.refused_by_tenant: dict[tuple[str, str, str], int] = {}
        """(namespace, tenant, reason) -> refused arrivals at known addresses."""
        self.unacknowledged = 0
        self.quarantined: dict[str, int] = {}  # Reason -> quarantined arrivals
        self.unexpected_sources: dict[tuple[str, str], int] = {}
        """(namespace, tenant) -> arrivals from outside ``allowedSources`` that the policy Report let in."""
        self.retired: dict[tuple[str, str], int] = {}  # (namespace, tenant) -> arrivals at retired addresses
        self.skipped: dict[tuple[str, str, str], int] = {}
        """(namespace, tenant, reason) -> routes that made no delivery."""

    def of(self, name: model.ListenerName) -> ListenerCounters:
        """A listener's counts. They outlive its document, because counters never fall."""
        counters = self._listeners.get(name)
        if counters is None:
            counters = self._listeners[name] = ListenerCounters(name)
            self._by_tenant.setdefault((name.namespace, name.tenant), []).append(counters)
        return counters

    @property
    def company_mismatches(self) -> Mapping[tuple[str, str], int]:
        """(namespace, tenant) -> accepted arrivals that belong to another company."""
        sums = {
            tenant: sum(counters.company_mismatches for counters in of_tenant)
            for tenant, of_tenant in self._by_tenant.items()
        }
        return {tenant: count for tenant, count in sums.items() if count}

    @property
    def counted(self) -> Mapping[tuple[str, str], list[int]]:
        """(namespace, tenant) -> arrivals, indexed by `model.CountedAs`."""
        return {
            tenant: [sum(counts) for counts in zip(*[counters.counted for counters in of_tenant], strict=True)]
            for tenant, of_tenant in self._by_tenant.items()
        }

    def take_recent(self) -> Iterator[tuple[model.ListenerName, RecentCounts]]:
        """Yield each listener's counts since the last call, and reset them."""
        recent = self._recent
        self._recent = []
        for counters in recent:
            yield (
                counters.name,
                RecentCounts(
                    counters.recent_accepted,
                    counters.recent_quarantined,
                    counters.recent_mismatches,
                    counters.recent_untrusted_times,
                    counters.recent_unexpected_sources,
                ),
            )
            counters.recent_accepted = counters.recent_quarantined = 0
            counters.recent_mismatches = counters.recent_untrusted_times = counters.recent_unexpected_sources = 0

    def restore_activity(self, activity: Mapping[model.ListenerName, ListenerActivity]) -> None:
        """Continue with what an earlier gateway saved."""
        for name, saved in activity.items():
            counters = self.of(name)
            counters.last_accepted = saved.last_arrival_at
            counters.first_visits |= saved.first_visits
            counters.retired_arrivals |= saved.retired_arrivals

    def has_refused(self, times: int) -> bool:
        """Return whether any listener has refused this many arrivals in a row."""
        return any(counters.refused_in_a_row >= times for counters in self._listeners.values())

    def note_accepted_elsewhere(self, activity: Mapping[model.ListenerName, ListenerActivity], ahead: int) -> None:
        """End the refusals in a row at listeners for which another gateway has accepted an arrival since.

        ``ahead``: microseconds by which the time is ahead of the clock that never goes back.
        """
        for name, saved in activity.items():
            counters = self._listeners.get(name)
            if counters is not None and saved.last_arrival_at > counters.refused_at + ahead:
                counters.refused_in_a_row = 0

    def take_activity(self) -> dict[model.ListenerName, ListenerActivity]:
        """Return the activity for each listener that was used since the last call."""
        unsaved, self._unsaved = self._unsaved, []
        for counters in unsaved:
            counters.is_unsaved = False
        return {
            counters.name: ListenerActivity(
                counters.last_accepted, dict(counters.first_visits), dict(counters.retired_arrivals)
            )
            for counters in unsaved
        }

    def save_again(self, names: Iterable[model.ListenerName]) -> None:
        """Return these listeners from `take_activity` again, because their activity could not be saved."""
        for name in names:
            self._save_later(self.of(name))

    def _save_later(self, counters: ListenerCounters) -> None:
        if not counters.is_unsaved:
            counters.is_unsaved = True
            self._unsaved.append(counters)

    def add_probe(self, counters: ListenerCounters, address_id: str, now: int) -> None:
        """Count a probe at the listener that ``counters`` belong to."""
        counters.counted[model.CountedAs.Probe] += 1
        counters.probed.pop(address_id, None)  # so that the one probed longest ago is the first
        _add_bounded(counters.probed, address_id, now)

    def add_refused(
        self, reason: model.RefusedReason, name: model.ListenerName | None, now: int, missing: str = ""
    ) -> None:
        """Count a refusal, and log a known listener's: the first one, then one line a minute with the counts.

        ``now``: microseconds by the clock that never goes back. ``missing``: which Secret the listener lacks.
        """
        self.refused[reason.value] = self.refused.get(reason.value, 0) + 1
        if name is None:
            return
        key = (name.namespace, name.tenant, reason.value)
        self.refused_by_tenant[key] = self.refused_by_tenant.get(key, 0) + 1
        counters = self.of(name)
        counters.counted[model.CountedAs.Refused] += 1
        if not counters.refused_in_a_row:
            counters.refused_since = now
        counters.refused_in_a_row += 1
        counters.refused_reason, counters.refused_at = reason, now
        unlogged = counters.unlogged_refusals
        unlogged[reason.value] = unlogged.get(reason.value, 0) + 1
        logged_at = counters.refusals_logged_at
        if logged_at is None or now - logged_at >= _REFUSALS_LOGGED_EVERY:
            more = {"missing": missing} if missing else {}
            if reason is model.RefusedReason.SourceNotAllowed:
                more["source"] = counters.unexpected_source
            _log.warning("arrivals_refused", listener=name.key, tenant=name.tenant, reasons=unlogged, **more)
            counters.unlogged_refusals, counters.refusals_logged_at = {}, now

    def add_retired(self, counters: ListenerCounters, address: documents.Address, now: int) -> None:
        """Count an arrival at a retired address, and log a warning for the first one."""
        if address.id not in counters.retired_arrivals:
            url, hint = documents.shorten_url(address.url), "enter the listener's present URL in the portal"
            _log.warning("retired_address_used", listener=counters.name.key, address=url, hint=hint)
        counters.retired_arrivals.pop(address.id, None)  # so that the one used longest ago is the first
        _add_bounded(counters.retired_arrivals, address.id, now)
        self._save_later(counters)
        key = (counters.name.namespace, counters.name.tenant)
        self.retired[key] = self.retired.get(key, 0) + 1

    @property
    def retired_arrivals(self) -> dict[str, int]:
        """``Address.id`` for each retired address that was used -> the last request there, in microseconds."""
        return {
            address_id: at
            for counters in self._listeners.values()
            for address_id, at in counters.retired_arrivals.items()
        }

    def add_unexpected_source(self, counters: ListenerCounters, now: int) -> None:
        """Count an arrival from outside ``allowedSources`` that was let in. ``now``: microseconds."""
        key = (counters.name.namespace, counters.name.tenant)
        self.unexpected_sources[key] = self.unexpected_sources.get(key, 0) + 1
        counters.recent_unexpected_sources += 1
        counters.unexpected.add(now)

    def add_committed(self, counters: ListenerCounters, arrival: model.Arrival, accepted: model.Accepted) -> None:
        """Count a committed arrival at the listener that ``counters`` belong to."""
        counters.counted[accepted.counted_as] += 1
        counters.last_accepted = arrival.received_at
        if arrival.quarantine is None and arrival.address not in counters.first_visits:
            _add_bounded(counters.first_visits, arrival.address, arrival.received_at)
        self._save_later(counters)
        counters.refused_in_a_row = 0
        if not counters.recent_accepted:
            self._recent.append(counters)
        counters.recent_accepted += 1
        if arrival.other_company:
            counters.other_company = arrival.other_company
            counters.company_mismatches += 1
            counters.recent_mismatches += 1
            counters.mismatching.add(arrival.received_at)
        if arrival.has_untrusted_time:
            counters.recent_untrusted_times += 1
            counters.untrusted_times.add(arrival.received_at)
            counters.untrusted_time_reason = "InFuture" if arrival.future_time else "NoOffset"
        for skip in accepted.skipped:
            key = (counters.name.namespace, counters.name.tenant, skip.name)
            self.skipped[key] = self.skipped.get(key, 0) + 1
        if arrival.quarantine is not None and accepted.counted_as is model.CountedAs.Quarantined:
            counters.recent_quarantined += 1
            counters.quarantining.add(arrival.received_at)
            counters.quarantined_reason = arrival.quarantine
            self.quarantined[arrival.quarantine.name] = self.quarantined.get(arrival.quarantine.name, 0) + 1


def _add_bounded(times: dict[str, int], address: str, time: int) -> None:
    """Add an address, and forget the oldest one if a listener had very many."""
    if len(times) >= _MAX_ADDRESSES:
        del times[next(iter(times))]
    times[address] = time


def _about(name: model.ListenerName, route: str) -> dict[str, str]:
    """Return what each log line about a route says."""
    return {"listener": name.key, "tenant": name.tenant, "route": route}


class ExpressionCounters:
    """Counts failed evaluations by error code, and keeps each route's last failure."""

    def __init__(self) -> None:
        self.errors: dict[str, int] = {}
        self._last: dict[tuple[str, str], str] = {}

    def last_failure(self, listener: str, route: str) -> str:
        """Return how a route's expression failed last, as in ``NoSuchField (tier)``; ``""`` if none did."""
        return self._last.get((listener, route), "")

    def expression_failed(self, name: model.ListenerName, route: str, code: str, missing_field: str) -> None:
        """Count a filter failure."""
        _log.warning("filter_failed", **_about(name, route), error=code, field=missing_field)
        self._count(name, route, code, missing_field)

    def transform_failed(self, name: model.ListenerName, route: str, code: str, missing_field: str) -> None:
        """Count a failure in a transform or a URL variable."""
        _log.warning("transform_failed", **_about(name, route), error=code, field=missing_field)
        self._count(name, route, code, missing_field)

    def _count(self, name: model.ListenerName, route: str, code: str, missing_field: str) -> None:
        self.errors[code] = self.errors.get(code, 0) + 1
        self._last[name.key, route] = f"{code} ({missing_field})" if missing_field else code

    def expression_held(self, name: model.ListenerName, route: str) -> None:
        """Log that a route is held because its expression is too slow."""
        _log.error("route_held", **_about(name, route), reason="ExpressionTooSlow")
