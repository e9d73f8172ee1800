"""What the gateways reported last, and the hostnames that they may still serve although no config Secret has them."""

from collections.abc import Sequence
from typing import NamedTuple

from usher_gateway.config_secret import TenantHostnames
from usher_operator.state import kinds
from usher_operator.state.indexes import ChildIndex, HolderIndex
from usher_operator.state.values import GatewayReport, Key


class ChangedHolders(NamedTuple):
    """What differs after a change."""

    keys: frozenset[Key] = frozenset()
    """The Listeners that hold other hostnames by ``GatewayReports.unpublished``."""
    hostnames: frozenset[str] = frozenset()
    """The hostnames that they hold now or held before."""


class GatewayReports:
    """The gateways' last reports. ``child_index`` has the published documents."""

    def __init__(self, child_index: ChildIndex) -> None:
        self._child_index = child_index
        self.ready: tuple[GatewayReport, ...] | None = None
        """The ready gateways; None before the operator first asked them."""
        self.unheard: tuple[str, ...] | None = None
        """The gateways, ready or not, that never said which documents they run. If there is no gateway, the Service
        stands for it. None before the operator first asked them."""
        self.unpublished: dict[Key, TenantHostnames] = {}
        """The hostnames in documents that gateways may run although no config Secret has them any more."""
        self.holders = HolderIndex()  # The tenants that hold hostnames by `unpublished`
        self._newest_last: tuple[GatewayReport, ...] = ()  # Also those of gateways that are not ready
        self._left: dict[Key, TenantHostnames] = {}
        """Hostnames that a document had and its config Secret has no more, until every gateway runs the present one."""

    def take(
        self, ready: tuple[GatewayReport, ...], unready: Sequence[GatewayReport], unheard: tuple[str, ...]
    ) -> ChangedHolders:
        """Take what the gateways report. Of gateways that are not ready only the hostnames count."""
        self.ready, self.unheard = ready, unheard
        self._newest_last = (*unready, *sorted(ready, key=lambda gateway: gateway.reachable))
        self._left = {key: left for key, left in self._left.items() if self._may_run_another(key)}
        return self._set_unpublished()

    def note_document(self, key: Key, previous: kinds.ChildRecord | None) -> ChangedHolders:
        """Note that a key's config Secret changed. Gateways still serve the hostnames that it has no more.

        The Listener dropped them, or somebody deleted or changed the Secret. A tombstone has the hostnames itself.
        """
        left_before, config = self._left.pop(key, None), self._child_index.config_of(key)
        parts = [left_before] if left_before is not None else []
        if previous is not None and previous.key == key and not previous.tombstone and previous.tenant_hostnames.tenant:
            parts.append(previous.tenant_hostnames)
        left = {hostname for part in parts for hostname in part.hostnames}
        if config is not None:
            left.difference_update(config.tenant_hostnames.hostnames)
        if left:
            self._left[key] = TenantHostnames(parts[-1].tenant, tuple(sorted(left)))
        return self._set_unpublished() if self._left.get(key) != left_before else ChangedHolders()

    def may_run(self, key: Key) -> bool:
        """Return whether a gateway may run a key's document: its last report says so, or it never reported."""
        is_run = any(key in report.applied or key in report.vanished for report in self._newest_last)
        return is_run or self.unheard != ()

    def _may_run_another(self, key: Key) -> bool:
        """Return whether a gateway may run another document of a key than the published one."""
        published = self._child_index.published(key)
        expected = {"", published.hash if published is not None else ""}
        is_run = any(
            key in report.vanished or (key in report.applied and report.applied[key].hash not in expected)
            for report in self._newest_last
        )
        return is_run or self.unheard != ()

    def _set_unpublished(self) -> ChangedHolders:
        previous, self.unpublished = self.unpublished, dict(self._left)
        for report in self._newest_last:
            self.unpublished.update(report.vanished)
        present = self.unpublished
        keys = {key for key in previous.keys() | present.keys() if previous.get(key) != present.get(key)}
        hostnames: set[str] = set()
        for key in keys:
            owned = present.get(key, kinds.NO_HOSTNAMES)
            hostnames |= {*self.holders.hostnames_of(key), *owned.hostnames}
            self.holders.set(key, owned.tenant, owned.hostnames)
        return ChangedHolders(frozenset(keys), frozenset(hostnames))

    def stale_uid(self, key: Key) -> str:
        """The owner's uid in a document that a gateway runs without a config Secret; ``""`` if none does."""
        uids = [gateway.stale.get(key, "") for gateway in self.ready or () if gateway.reachable]
        return max(uids, default="")

    def vanished_tenant(self, key: Key) -> str:
        """The Tenant in a Listener's document that gateways run although its Secret is gone; ``""``: they run none."""
        return self.unpublished.get(key, kinds.NO_HOSTNAMES).tenant if self._child_index.published(key) is None else ""
