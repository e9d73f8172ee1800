"""What the admin port shows of a gateway: its parts, put together for admin/context.py."""

from typing import TYPE_CHECKING
from urllib import parse

import msgspec

from usher_gateway import config_secret, documents, metrics, model, report
from usher_gateway.admin import context, server, tokens
from usher_gateway.resources import problem

if TYPE_CHECKING:
    from usher_gateway import app


def admin_server(gateway: "app.Gateway") -> server.AdminServer:
    """The admin port of a gateway.

    Raises:
        ConfigurationError: the token files cannot be read or made.
    """
    view, folder = _View(gateway), gateway.settings.admin_tokens
    parts = context.AdminContext(
        store=gateway.store,
        now=gateway.clock.now,
        tokens=tokens.load_both(folder) if folder is not None else tokens.load_or_create(gateway.settings.data),
        registry=metrics.make_registry([gateway.metrics.collect]),
        ready=view.ready,
        config_state=view.config,
        listeners=lambda: gateway.door.listeners,
        listeners_state=view.listeners,
        destinations_state=view.destinations,
    )
    endpoint = gateway.settings.admin
    return server.AdminServer(parts, endpoint.host, endpoint.port)


class _View:
    def __init__(self, gateway: "app.Gateway") -> None:
        self._gateway = gateway

    def ready(self) -> list[str]:
        """Why the gateway is not ready. A store that cannot commit now is no reason: arrivals wait for it."""
        reasons = []
        if not self._gateway.door.is_configured:
            reason = self._gateway.source.status().waits_for
            reasons.append(f"no configuration is loaded yet: {reason}" if reason else "no configuration is loaded yet")
        elif not self._gateway.started.is_set():
            reasons.append("the public port is not open yet")
        if self._gateway.is_draining:
            reasons.append("draining")
        return reasons

    def config(self, cursor: str | None) -> context.State:
        """Each document's hash, and everything that is not in force as it is written: all, or what changed."""
        gateway, status = self._gateway, self._gateway.source.status()
        changes = gateway.report.since(cursor)
        listeners = report.select(changes, report.ListenerState)
        destinations = report.select(changes, report.DestinationState)
        return {
            "cursor": changes.cursor,
            "complete": changes.complete,
            "documents": report.select_documents(changes),
            "removed": [{"kind": kind, "key": key} for what, kind, key in changes.removed if what == "document"],
            "now": _time(gateway.clock.now()),
            "source": status.origin,
            "appliedAt": _time(gateway.applied_at),
            "heardAt": _time(status.heard_at or 0),
            "everythingRead": status.everything_read,
            "removalsHalted": status.removals_halted,
            "rejected": [_problem(found) for found in status.rejected],
            "vanished": [
                {"kind": kind, "key": key, "since": _time(since)} for (kind, key), since in status.vanished.items()
            ],
            "listeners": {key: self._listener(key, state) for key, state in listeners.items()},
            "destinations": {
                key: {"applied": self._applied("Destination", key), **_shown(state)}
                for key, state in destinations.items()
            },
        }

    def listeners(self) -> dict[str, context.State]:
        """How each listener does now."""
        gateway = self._gateway
        return {
            key: self._listener(key, gateway.report.listener(key, one))
            for key, one in gateway.snapshot.listeners.items()
        }

    def destinations(self) -> dict[str, context.State]:
        """How each destination does. Its host only: a URL may hold a secret."""
        return {key: self._destination(key, one) for key, one in self._gateway.snapshot.destinations.items()}

    def _listener(self, key: str, state: report.ListenerState) -> context.State:
        live = self._gateway.door.listeners.get(key)
        return {
            "applied": self._applied("Listener", key),
            "lastArrival": _time(live.books.last_accepted) if live else None,
            "companyMismatches": live.company_mismatches if live else 0,
            **_shown(state),
        }

    def _applied(self, kind: config_secret.Kind, key: str) -> str | None:
        found = self._gateway.report.document(kind, key)
        return found.hash if found else None

    def _destination(self, key: str, document: documents.Destination) -> context.State:
        return {
            "state": document.state,
            "host": parse.urlsplit(document.url).hostname,
            **_shown(self._gateway.report.destination(key, document)),
        }


def _shown(state: report.State) -> dict[str, object]:
    shown: dict[str, object] = msgspec.to_builtins(state)
    return shown


def _problem(found: problem.Problem) -> context.State:
    return {
        "resource": found.resource,
        "file": found.file,
        "line": found.line,
        "field": found.path,
        "message": found.message,
        "hint": found.hint,
    }


def _time(instant: int) -> str | None:
    return model.format_time(instant) if instant else None
