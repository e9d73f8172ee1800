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
    """The Listeners by which tenants hold other hostnames in ``GatewayReports.holders``."""
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
        self.holders = HolderIndex()
        """The tenants of the hostnames in documents that gateways may run although no config Secret has them."""
        self._newest_last: tuple[GatewayReport, ...] = ()  # Also those of gateways that are not ready
        self._vanished: dict[Key, TenantHostnames] = {}  # As the gateways report
        self._left: dict[Key, dict[str, str]] = {}
        """Hostname -> tenant, of those that a config Secret had and has no more, until every gateway runs the present
        document."""

    def take(
        self, ready: tuple[GatewayReport, ...], unready: Sequence[GatewayReport], unheard: tuple[str, ...]
    ) -> ChangedHolders:
        """Take what the gateways report. Of gateways that are not ready only the hostnames count."""
        self.ready, self.unheard = ready, unheard
        self._newest_last = (*unready, *sorted(ready, key=lambda gateway: gateway.reachable))
        vanished = {key: owned for report in self._newest_last for key, owned in report.vanished.items()}
        changed = {key for key in self._vanished | vanished if self._vanished.get(key) != vanished.get(key)}
        not_left = {key for key in self._left if not self._may_run_another(key)}
        self._vanished = vanished
        for key in not_left:
            del self._left[key]
        return self._set_holders(changed | not_left)

    def note_document(self, key: Key, previous: kinds.ChildRecord | None) -> ChangedHolders:
        """Note that a key's config Secret changed. Gateways may still serve the hostnames that it has no more.

        The Listener dropped them or came again after its tombstone, or somebody deleted or changed the Secret.
        """
        config, left_before = self._child_index.config_of(key), self._left.get(key, {})
        had = previous.tenant_hostnames if previous is not None and previous.key == key else kinds.NO_HOSTNAMES
        present = config.tenant_hostnames.hostnames if config is not None else ()
        left = {
            hostname: tenant
            for hostname, tenant in (dict.fromkeys(had.hostnames, had.tenant) | left_before).items()
            if hostname not in present
        }
        if left == left_before:
            return ChangedHolders()
        self._left[key] = left
        if not left:
            del self._left[key]
        return self._set_holders({key})

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

    def _set_holders(self, keys: set[Key]) -> ChangedHolders:
        hostnames: set[str] = set()
        for key in keys:
            vanished = self._vanished.get(key, kinds.NO_HOSTNAMES)
            tenants = self._left.get(key, {}) | dict.fromkeys(vanished.hostnames, vanished.tenant)
            hostnames |= {*self.holders.hostnames_of(key), *tenants}
            self.holders.set(key, tenants)
        return ChangedHolders(frozenset(keys), frozenset(hostnames))

    def stale_uid(self, key: Key) -> str:
        """The owner's uid in a document that a gateway runs without a config Secret; ``""`` if none does."""
        uids = [gateway.stale.get(key, "") for gateway in self.ready or () if gateway.reachable]
        return max(uids, default="")

    def vanished_tenant(self, key: Key) -> str:
        """The Tenant in a Listener's document that gateways run although its Secret is gone; ``""``: they run none."""
        if self._child_index.published(key) is not None:
            return ""
        return (
            self._vanished[key].tenant if key in self._vanished else min(self._left.get(key, {}).values(), default="")
        )
