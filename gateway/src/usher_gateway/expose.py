"""What the admin port shows of a gateway: its parts, put together for admin/context.py."""

from typing import TYPE_CHECKING
from urllib import parse

from usher_gateway import documents, metrics, model
from usher_gateway.admin import context, server, tokens
from usher_gateway.delivery import circuit
from usher_gateway.resources import problem

if TYPE_CHECKING:
    from usher_gateway import app


def admin_server(gateway: "app.Gateway") -> server.AdminServer:
    """The admin port of a gateway.

    Raises:
        ConfigurationError: the token files cannot be read or made.
    """
    view = _View(gateway)
    parts = context.AdminContext(
        store=gateway.store,
        now=gateway.clock.now,
        tokens=tokens.load_or_create(gateway.settings.data),
        registry=metrics.make_registry([gateway.metrics.collect]),
        ready=view.ready,
        config_state=view.config,
        listeners=lambda: gateway.door.listeners,
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
            reasons.append("no configuration is loaded yet")
        if self._gateway.is_draining:
            reasons.append("draining")
        return reasons

    def config(self) -> context.State:
        """Each document's hash, and everything that is not in force as it is written."""
        gateway = self._gateway
        configuration, hashes = gateway.source.configuration, gateway.source.hashes()
        rejected = [_problem(found) for found in configuration.rejected]
        return {
            "appliedAt": model.format_time(gateway.applied_at) if gateway.applied_at else None,
            "source": "files",
            "complete": configuration.complete,
            "removalsHalted": configuration.halted.digest if configuration.halted else None,
            "rejected": rejected,
            "listeners": {key: self._listener(key, one, hashes) for key, one in gateway.snapshot.listeners.items()},
            "destinations": {
                key: {"applied": hashes.get(f"destination/{key}")} for key in gateway.snapshot.destinations
            },
        }

    def destinations(self) -> dict[str, context.State]:
        """How each destination does. Its host only: a URL may hold a secret."""
        return {key: self._destination(key, one) for key, one in self._gateway.snapshot.destinations.items()}

    def _listener(self, key: str, document: documents.Listener, hashes: dict[str, str]) -> context.State:
        books = self._gateway.door.books
        name = model.ListenerName(document.namespace, document.tenant.name, document.name)
        last = books.last_accepted.get(name)
        live = self._gateway.door.listeners.get(key)
        return {
            "receiving": self._receiving(document, last),
            "companyMismatches": live.company_mismatches if live else 0,
            "applied": hashes.get(f"listener/{key}"),
            "lastArrival": _time(last),
            "verifiedSince": _time(books.first_accepted.get(name)),
        }

    def _receiving(self, document: documents.Listener, last: int | None) -> str:
        """``Receiving``, ``NoVisitYet`` since the start, or ``Silent`` for longer than silence.afterSeconds."""
        silence = document.silence_after_seconds * model.MICROSECONDS
        if self._gateway.clock.now() - (last or self._gateway.started_at) >= silence:
            return "Silent"
        return "Receiving" if last is not None else "NoVisitYet"

    def _destination(self, key: str, document: documents.Destination) -> context.State:
        gateway = self._gateway
        state = gateway.dispatcher.lanes.circuit_of(key)
        return {
            "state": document.state,
            "host": parse.urlsplit(document.url).hostname,
            "circuit": state.state.value,
            "healthy": state.state is not circuit.State.Open and key not in gateway.desk.gone,
            "gone": key in gateway.desk.gone,
            "unresolved": document.unresolved or None,
        }


def _problem(found: problem.Problem) -> context.State:
    return {
        "resource": found.resource,
        "file": found.file,
        "line": found.line,
        "field": found.path,
        "message": found.message,
        "hint": found.hint,
    }


def _time(instant: int | None) -> str | None:
    return None if instant is None else model.format_time(instant)
