"""Checks whether each hostname leads to a gateway: through DNS, the load balancer and the Ingress controller.

Purple posts from outside, and this asks from inside the cluster, so a problem is a hint for a person and never a part
of Ready. Only a gateway answers `documents.ROUTE_CHECK_PATH` with its header; the request is not an arrival.

A hostname is a tenant's, and so is its DNS: the operator connects only to addresses that Purple could reach too, or
that the Ingress itself has, so that no tenant can look at the platform's private addresses through a condition.
"""

import asyncio
import collections
import concurrent.futures
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
import structlog

from usher_gateway.destinations import address_guard
from usher_gateway.metered_tls import MeteredContext
from usher_operator.plan import hostname as hostname_plan
from usher_operator.plan import reports
from usher_operator.report import route_request
from usher_operator.run.workqueue import Workqueue
from usher_operator.state.cache import Cache
from usher_operator.state.values import Key, Reachability, hostname_key

_log = structlog.get_logger(__name__)

_ANSWER_SECONDS = 20.0  # An Ingress controller gives up on a gateway after 15 to 30 s
_CONNECT_SECONDS = 5.0

# Requests, and lookups, at the same time. Lookups have threads of their own, so that a slow name server delays no
# request to the API server.
_AT_ONCE = 32

# One namespace's hostnames that are checked at the same time, so that its name server or its firewall does not delay
# other namespaces' checks.
_OF_NAMESPACE_AT_ONCE = 2


_TICK_SECONDS = 2.0
_INTERVAL_SECONDS = 600.0
_RETRY_SECONDS = 15.0
# A hostname is asked often for this long after its route changed: its former controller may serve it for a while.
_SETTLING_SECONDS = 120.0
# A hostname is unreachable once it has failed for this long: DNS, a controller and a policy take some seconds.
GRACE_SECONDS = 30.0

_SWITCH_OFF = "`--no-check-routes` (in the chart: `operator.checkRoutes`) must switch this check off"
_HINT_IF_ONLY_HERE = (
    "if Purple's visits arrive nevertheless, only the operator cannot connect: its NetworkPolicy must allow it, or "
    + _SWITCH_OFF
)
_BEHIND = (
    ": the Ingress controller does not reach the gateways: their NetworkPolicy must admit it (in the chart: "
    "`gateway.networkPolicy.ingressFrom`), and a gateway must be ready"
)


class _Check(msgspec.Struct):
    """When a hostname is checked next, and since when it fails."""

    due_at: float = 0.0
    settled_at: float = 0.0
    """Until then, the hostname is asked often."""
    failing_since: float | None = None
    is_running: bool = False


class RouteChecker:
    """Checks every hostname that should lead to a gateway, and puts the results into the cache.

    Args:
        authority: certificates in PEM that Purple is taken to trust; ``""``: the system's.
        lookup_seconds: after this time a name server counts as away. The lookup goes on, because no thread can be
            cancelled.
    """

    def __init__(
        self,
        *,
        cache: Cache,
        queue: Workqueue[Key],
        port: int = 443,
        authority: str = "",
        look_up: Callable[..., Sequence[tuple[Any, ...]]] = socket.getaddrinfo,
        lookup_seconds: float = 5.0,
        connect_seconds: float = _CONNECT_SECONDS,
        answer_seconds: float = _ANSWER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache, self._queue, self._port = cache, queue, port
        self._contexts = route_request.Contexts(authority)
        self._look_up, self._lookup_seconds, self._clock = look_up, lookup_seconds, clock
        self._connect_seconds, self._answer_seconds = connect_seconds, answer_seconds
        self._checks: dict[str, _Check] = {}
        self._lookups = concurrent.futures.ThreadPoolExecutor(_AT_ONCE, "route check")
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._of_namespace: dict[str, asyncio.Semaphore] = collections.defaultdict(
            lambda: asyncio.Semaphore(_OF_NAMESPACE_AT_ONCE)
        )

    async def run(self) -> None:
        """Check until cancelled: each hostname every ten minutes, sooner while it fails and after its route changed."""
        async with asyncio.TaskGroup() as checks:
            while True:
                checks.create_task(self.check_due())  # not awaited, because some checks take long
                await asyncio.sleep(_TICK_SECONDS)

    async def check_due(self) -> None:
        """Check the hostnames that are due and not being checked."""
        of_classes = (listener_class.resource.spec.hostname for listener_class in self._cache.our_classes())
        hostnames = {*self._cache.child_index.by_hostname.groups, *of_classes}
        for gone in self._checks.keys() - hostnames:
            del self._checks[gone]
            self._set(gone, None)
        now = self._clock()
        for changed in self._cache.take_changed_routes() & self._checks.keys():
            check = self._checks[changed]
            check.due_at, check.settled_at, check.failing_since = now, now + _SETTLING_SECONDS, None
        checks = {name: self._checks.setdefault(name, _Check()) for name in hostnames}
        due = {name: check for name, check in checks.items() if check.due_at <= now and not check.is_running}
        for check in due.values():
            check.is_running = True
        await asyncio.gather(*(self._check(hostname, check) for hostname, check in due.items()))

    def _set(self, hostname: str, reachability: Reachability | None) -> None:
        self._queue.add_all(self._cache.set_reachability(hostname, reachability))

    async def _check(self, hostname: str, check: _Check) -> None:
        route_addresses = hostname_plan.checked_addresses(self._cache, hostname)
        if route_addresses is None:
            check.is_running, check.due_at, check.failing_since = False, self._clock() + _RETRY_SECONDS, None
            self._set(hostname, Reachability(is_checked=False))
            return
        async with self._of_namespace[self._cache.lane_of(hostname_key(hostname))]:
            lookup = asyncio.get_running_loop().run_in_executor(
                self._lookups, lambda: self._look_up(hostname, self._port, type=socket.SOCK_STREAM)
            )
            problem = await self._problem(hostname, route_addresses, lookup)
            check.is_running = False
            if self._checks.get(hostname) is check:  # else no document has the hostname any more
                self._note(hostname, check, problem)
            await asyncio.wait({lookup})  # a lookup beyond its time limit goes on to occupy a thread
            lookup.exception()

    def _note(self, hostname: str, check: _Check, problem: str | None) -> None:
        """Note a check's result. ``problem``: see `_problem`."""
        now = self._clock()
        if problem is None:
            if self._cache.reachability(hostname) == Reachability():  # what was known stays
                check.due_at = now + _RETRY_SECONDS
                return
            problem = (
                f"DNS does not answer for `{hostname}` (temporary failure): the cluster's name servers must resolve it"
            )
        if not problem:
            interval = _RETRY_SECONDS if now < check.settled_at else _INTERVAL_SECONDS
            check.due_at, check.failing_since = now + interval, None
            self._set(hostname, Reachability())
            return
        if check.failing_since is None:
            check.failing_since = now
        check.due_at = now + _RETRY_SECONDS
        if now - check.failing_since >= GRACE_SECONDS:
            if self._cache.reachability(hostname) != Reachability(problem):
                _log.warning("route_check_failed", hostname=hostname, problem=problem)
            self._set(hostname, Reachability(problem))

    async def _problem(
        self,
        hostname: str,
        route_addresses: Collection[str],
        lookup: asyncio.Future[Sequence[tuple[Any, ...]]],
    ) -> str | None:
        """Return why Purple could not post to a hostname; ``""`` if it could, None if the name server is away."""
        resolved = await _addresses_of(lookup, self._lookup_seconds)
        if resolved is None:
            return None
        if not resolved:
            where = f" (`{min(route_addresses)}`)" if route_addresses else ""
            return (
                f"DNS has no address for `{hostname}`: it must lead to the load balancer or Ingress controller{where}"
            )
        usable = [address for address in resolved if _is_public(address) or address in route_addresses]
        if not usable:
            return (
                f"DNS leads `{hostname}` to `{min(resolved)}`, which only a private network can reach: it must have a "
                "public address, because Purple posts from the Internet; if Purple's visits arrive nevertheless, only "
                f"the cluster's name servers give this address: {_SWITCH_OFF}"
            )
        # of the preferred family; the first one would change with the order of the answers, and so would the message
        address = min(candidate for candidate in usable if (":" in candidate) == (":" in usable[0]))
        async with self._slots:
            try:
                return await self._ask(hostname, address, self._contexts.verifying)
            except ssl.SSLCertVerificationError as error:
                # without verification, because a route that leads elsewhere often has another certificate
                return await self._ask(hostname, address, self._contexts.trusting_all) or _untrusted(hostname, error)

    def _controller(self, hostname: str) -> str:
        """Name the Ingress controller that serves a hostname."""
        name = hostname_plan.ingress_class(self._cache, hostname)
        return f"the controller of IngressClass `{name}`" if name else "the Ingress controller"

    async def _ask(self, hostname: str, address: str, contexts: list[MeteredContext]) -> str:
        """Ask for a gateway's header; return what is in the way.

        Raises:
            ssl.SSLCertVerificationError: the certificate is not trusted.
        """
        at = f"port {self._port} of `{hostname}` (`{address}`)"
        try:
            async with asyncio.timeout(self._answer_seconds):
                answer = await route_request.ask(hostname, address, self._port, contexts, self._connect_seconds)
            return "" if answer.is_of_gateway else self._wrong_answer(hostname, answer.status)
        except ssl.SSLCertVerificationError:
            raise
        except route_request.NoConnectionError:
            return (
                f"no connection to {at} in time: a firewall must let it through and the Ingress controller must run; "
                + _HINT_IF_ONLY_HERE
            )
        except route_request.NoAnswerError:
            return f"{at} ends the connection without an answer: the Ingress controller must serve this hostname"
        except TimeoutError:
            return f"{at} does not answer in time{self._behind()}"
        except ssl.SSLError:
            return f"{at} does not speak TLS: the Ingress controller must serve this hostname with its certificate"
        except OSError as error:
            controller = self._controller(hostname)
            if isinstance(error, ConnectionRefusedError):
                return (
                    f"{at} refuses connections: {controller}, or its proxy (Contour: Envoy), must run and listen "
                    f"there; {_HINT_IF_ONLY_HERE}"
                )
            secret = hostname_plan.provided_secret(self._cache, hostname)
            or_rejects = f", or it rejects the certificate in Secret `{secret}`" if secret else ""
            return (
                f"{at} accepts connections and closes them: {controller} must serve this hostname with its "
                f"certificate; perhaps another controller has this address{or_rejects}"
            )

    def _wrong_answer(self, hostname: str, status: int) -> str:
        answers = f"`{hostname}` answers {status}"
        if status in {502, 503, 504} or (
            status == 404 and self._cache.reports.ready == ()
        ):  # Traefik's without a gateway
            return answers + self._behind()
        if status == 404:
            return (
                f"{answers}, but not from a gateway: DNS must lead to the Ingress controller that serves the class's "
                "route, no other route may take the paths below `/v1/`, and a gateway must be ready (without one, "
                "Traefik answers 404 too)"
            )
        if 300 <= status < 400:
            return f"{answers}: something in front redirects, and Purple does not follow; it must pass requests on"
        return f"{answers}, but not from a gateway: something in front answers, such as a login or a firewall"

    def _behind(self) -> str:
        """Say why a controller has no answer from a gateway."""
        return f", and {reports.NO_GATEWAY_READY}" if self._cache.reports.ready == () else _BEHIND


async def _addresses_of(lookup: asyncio.Future[Sequence[tuple[Any, ...]]], lookup_seconds: float) -> list[str] | None:
    """Return the addresses that a lookup finds, perhaps none; None if no name server answers in time."""
    try:
        async with asyncio.timeout(lookup_seconds):
            return [str(address[0]) for *_, address in await asyncio.shield(lookup)]
    except socket.gaierror as error:
        return None if error.errno == socket.EAI_AGAIN else []
    except (OSError, UnicodeError):  # a TimeoutError is an OSError
        return None


def _is_public(address: str) -> bool:
    return address_guard.forbidden(ipaddress.ip_address(address)) is None


def _untrusted(hostname: str, error: ssl.SSLCertVerificationError) -> str:
    return (
        f"the certificate of `{hostname}` is not trusted ({error.verify_message}): Purple posts only to a certificate "
        "of a public authority for this name; `spec.tls` of the ListenerClass names the issuer"
    )
