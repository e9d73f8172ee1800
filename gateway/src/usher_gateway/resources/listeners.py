"""A Listener to its document: addresses, authentication, routes, defaults filled in."""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from usher_gateway import documents, expressions, model, resources
from usher_gateway.resources import conditions, hostnames, listener, listener_class, secret, tenant, types

_REFUSED = {
    conditions.Reason.HostnameReserved: "is the class's own hostname; leave `addresses` out to be served there",
    conditions.Reason.HostnameNotAllowed: "is not among the class's allowedHostnames for this namespace",
    conditions.Reason.HostnameConflict: "belongs to another tenant; choose another one, or ask the platform's owner",
    conditions.Reason.PathConflict: "with this path and query is another listener's; change one of the two",
}


_FIELD_NAMES = tuple(
    (field.name, field.encode_name)
    for field in msgspec.structs.fields(listener.Fields)
    if field.encode_name in documents.DEFAULT_FIELDS
)


class Surroundings(msgspec.Struct, frozen=True):
    """What a listener needs to know besides itself."""

    keys: model.Keys
    policy: hostnames.Policy
    tenant: resources.Tenant
    labels: Mapping[str, str]
    """Of the listener's namespace."""
    claims: hostnames.Claims
    destinations: Mapping[str, resources.Destination]
    trusted_proxies: tuple[str, ...] = ()
    previous: documents.Listener | None = None


def compile_listener(
    one: resources.Listener, around: Surroundings, resolution: secret.SecretResolver
) -> tuple[documents.Listener | None, list[conditions.Finding]]:
    """The document and what is wrong; no document where no address is left.

    What is not valid leaves the previous document in force. A new listener whose expressions are not valid is
    published: its visits are accepted, and their deliveries held.
    """
    report = Report(one.key)
    authentication = _authentication(one, around, resolution)
    addresses = _addresses(one, around, report)
    _check(one, report)
    sources, policy = _sources(one.spec.allowed_sources, report)
    _check_routes(one, around.destinations, report)
    findings = [*report.findings, *resolution.findings]
    reasons = {found.reason for found in findings if found.severity == "error"}
    if around.previous is not None and reasons & {
        conditions.Reason.UnsupportedValue,
        conditions.Reason.ExpressionInvalid,
    }:
        return refreshed(around.previous, around.tenant, around.claims), findings
    if not addresses or conditions.Reason.UnsupportedValue in reasons:
        return None, findings
    base = documents.Listener(
        namespace=one.metadata.namespace,
        name=one.metadata.name,
        tenant=tenant.compile_tenant(around.tenant),
        addresses=addresses,
        generation=one.metadata.generation,
        state=types.value_or_default(one.spec.state, "Listener.spec.state"),
        authentication=authentication,
        source_ranges=sources,
        source_policy=policy,
        routes=tuple(_route(one, route) for route in one.spec.routes or ()),
    )
    return _with_class(_with_times(base, one.spec), around), findings


class Report:
    """Gathers findings about one listener."""

    def __init__(self, key: str) -> None:
        self._key = key
        self.findings: list[conditions.Finding] = []

    def add(
        self, path: str, reason: conditions.Reason, message: str, *, warning: bool = False, missing: str = ""
    ) -> None:
        """Note one finding. ``missing``: key of a Destination that is not there."""
        severity: Literal["warning", "error"] = "warning" if warning else "error"
        absent = (resources.Destination.kind_name, missing) if missing else None
        self.findings.append(conditions.Finding("Listener", self._key, path, reason, message, severity, absent))


def refreshed(
    previous: documents.Listener, owner_tenant: resources.Tenant, claims: hostnames.Claims
) -> documents.Listener | None:
    """The last good document with the tenant as it is now (suspending always works), less addresses lost since."""
    owner = (previous.namespace, previous.tenant.name)
    kept = tuple(
        address
        for address in previous.addresses
        if claims.owners.get(address.host, owner) == owner and claims.take(address, previous.key)
    )
    compiled = tenant.compile_tenant(owner_tenant)
    return msgspec.structs.replace(previous, tenant=compiled, addresses=kept) if kept else None


def _with_times(document: documents.Listener, spec: listener.ListenerSpec) -> documents.Listener:
    dedupe = spec.dedupe or listener.Dedupe()
    fields = spec.fields or listener.Fields()
    pick = types.value_or_default
    return msgspec.structs.replace(
        document,
        fields=_fields(fields),
        occurred_at_zone=pick(fields.occurred_at_zone, "Listener.spec.fields.occurredAtZone"),
        dedupe_per=tuple(pick(dedupe.per, "Listener.spec.dedupe.per")),
        window_seconds=pick(dedupe.window_seconds, "Listener.spec.dedupe.windowSeconds"),
        redelivery_seconds=pick(dedupe.redelivery_seconds, "Listener.spec.dedupe.redeliverySeconds"),
        late_after_seconds=pick(spec.late and spec.late.after_seconds, "Listener.spec.late.afterSeconds"),
        silence_after_seconds=pick(spec.silence and spec.silence.after_seconds, "Listener.spec.silence.afterSeconds"),
    )


def _with_class(document: documents.Listener, around: Surroundings) -> documents.Listener:
    spec = around.policy.spec
    maximums = spec.maximums or listener_class.Maximums()
    declared = spec.client_address
    proxies = (*((declared and declared.trusted_proxies) or ()), *around.trusted_proxies)
    source = types.value_or_default(declared and declared.from_, "ListenerClass.spec.clientAddress.from")
    return msgspec.structs.replace(
        document,
        client_address_from="XForwardedFor" if around.trusted_proxies else source,
        trusted_proxies=tuple(dict.fromkeys(_network(proxy) or proxy for proxy in proxies)),
        max_body_bytes=types.value_or_default(maximums.max_body_bytes, "ListenerClass.spec.maximums.maxBodyBytes"),
        requests_per_second=types.value_or_default(
            maximums.requests_per_second, "ListenerClass.spec.maximums.requestsPerSecond"
        ),
    )


def _fields(fields: listener.Fields) -> dict[str, tuple[str, ...]]:
    """Overrides merged over the defaults of purple.md."""
    merged = dict(documents.DEFAULT_FIELDS)
    for attribute, name in _FIELD_NAMES:
        pointer = getattr(fields, attribute)
        if pointer is not None:
            merged[name] = (pointer,)
    return merged


def _route(one: resources.Listener, route: listener.Route) -> documents.Route:
    once = route.once_per
    pick = types.value_or_default
    return documents.Route(
        name=route.name,
        destination=f"{one.metadata.namespace}/{route.destination_ref.name}",
        state=pick(route.state, "Listener.spec.routes[].state"),
        when=pick(route.when, "Listener.spec.routes[].when"),
        repeats=pick(route.repeats, "Listener.spec.routes[].repeats"),
        once_per=documents.OncePer(tuple(once.per), once.every) if once else None,
        deliver_within_seconds=pick(route.deliver_within_seconds, "Listener.spec.routes[].deliverWithinSeconds"),
        transform=pick(route.transform, "Listener.spec.routes[].transform"),
    )


def _check_routes(one: resources.Listener, destinations: Mapping[str, resources.Destination], report: Report) -> None:
    for index, route in enumerate(one.spec.routes or ()):
        path = f"spec.routes[{index}]"
        name = route.destination_ref.name
        found = destinations.get(f"{one.metadata.namespace}/{name}")
        owner = found.spec.tenant_ref if found else None
        message, missing = "", ""
        if found is None:
            missing = f"{one.metadata.namespace}/{name}"
            message = f"Destination `{name}` must exist in this namespace for this tenant; until then deliveries wait"
        elif owner is not None and owner.name != one.spec.tenant_ref.name:
            message = (
                f"Destination `{name}` is Tenant `{owner.name}`'s: name another one; until then deliveries must wait"
            )
        if message:
            report.add(f"{path}.destinationRef.name", conditions.Reason.DestinationNotFound, message, missing=missing)
        if route.when is not None:
            for wrong in expressions.check_expression(route.when, "when"):
                report.add(f"{path}.when", conditions.Reason.ExpressionInvalid, wrong)
        if route.transform is not None:
            for wrong in expressions.check_expression(route.transform, "transform"):
                report.add(f"{path}.transform", conditions.Reason.ExpressionInvalid, wrong)


def _check(one: resources.Listener, report: Report) -> None:
    """What the schema cannot say."""
    zone = one.spec.fields.occurred_at_zone if one.spec.fields else None
    if zone is not None and not tenant.is_time_zone(zone):
        message = f"`{zone}` is no IANA time zone; write one such as Europe/London"
        report.add("spec.fields.occurredAtZone", conditions.Reason.UnsupportedValue, message)
    for index, old in enumerate((one.spec.token and one.spec.token.also_accept) or ()):
        if old.until_time is not None and not hostnames.is_time(old.until_time):
            path = f"spec.token.alsoAccept[{index}].untilTime"
            report.add(path, conditions.Reason.UnsupportedValue, "there is no such time; write 2027-01-31T12:00:00Z")
    if one.spec.authentication is None:
        for index, address in enumerate(one.spec.addresses or ()):
            if not hostnames.has_secret(address):
                message = "can be guessed: must have `authentication`, or `authentication: {type: None}` spelled out"
                report.add(f"spec.addresses[{index}].path", conditions.Reason.UnsupportedValue, message)


def _addresses(one: resources.Listener, around: Surroundings, report: Report) -> tuple[documents.Address, ...]:
    """Every address that the listener gets; those it may not have are reported and left out."""
    tokens = hostnames.Tokens(())
    if not one.spec.addresses or any(address.path is None for address in one.spec.addresses):
        tokens = hostnames.tokens_of(one, around.keys.install)
    if not one.spec.addresses:
        given = list(hostnames.addresses_of(around.policy.spec.hostname, None, (), tokens))
        return tuple(address for address in given if around.claims.take(address, one.key))
    granted: list[documents.Address] = []
    for index, address in enumerate(one.spec.addresses):
        path = f"spec.addresses[{index}]"
        reason = _refused(one, address, around)
        if reason is not None:
            report.add(f"{path}.hostname", reason, f"`{address.hostname}` {_REFUSED[reason]}")
            continue
        query = tuple((pair.name, pair.value) for pair in address.query or ())
        wanted = list(hostnames.addresses_of(address.hostname, address.path, query, tokens))
        free = [entry for entry in wanted if entry not in granted and around.claims.take(entry, one.key)]
        if len(free) < len(wanted):
            conflict = conditions.Reason.PathConflict
            report.add(path, conflict, f"`{address.hostname}` {_REFUSED[conflict]}")
        granted.extend(free)
        _warn_of_guessable(one, address, path, report)
    return tuple(granted)


def _refused(one: resources.Listener, address: listener.Address, around: Surroundings) -> conditions.Reason | None:
    reason = hostnames.refusal(address.hostname, around.policy, around.labels, around.claims.reserved)
    if reason is not None:
        return reason
    owner = (one.metadata.namespace, one.spec.tenant_ref.name)
    if around.policy.implicit and address.hostname == around.policy.spec.hostname:
        return None
    return None if around.claims.owners.get(address.hostname, owner) == owner else conditions.Reason.HostnameConflict


def _warn_of_guessable(one: resources.Listener, address: listener.Address, path: str, report: Report) -> None:
    authentication = one.spec.authentication
    if authentication and authentication.type == "None" and not hostnames.has_secret(address):
        message = "anybody who guesses this path can post visits; give it authentication where Purple can send it"
        report.add(path, conditions.Reason.NoSecretInAddress, message, warning=True)


def _authentication(
    one: resources.Listener, around: Surroundings, resolution: secret.SecretResolver
) -> documents.Authentication:
    """Fail closed: a secret that was never there is ``Unresolved``; one that went away leaves the last good one."""
    declared = one.spec.authentication
    header = value = ""
    if declared and declared.basic:
        header = "authorization"
        value = resolution.basic(declared.basic.secret_ref, "spec.authentication.basic.secretRef")
    elif declared and declared.header:
        header = declared.header.name.lower()
        value = resolution.text(declared.header.secret_ref, "spec.authentication.header.secretRef")
    if declared is None or declared.type == "None":
        return documents.Authentication()
    if value and resolution.missing is None:
        digest = documents.credential_digest(value.encode(), around.keys.credential)
        return documents.Authentication(declared.type, header, digest)
    last = around.previous.authentication if around.previous else documents.Authentication()
    return last if last.digest else documents.Authentication("Unresolved")


def _sources(
    declared: listener.AllowedSources | None, report: Report
) -> tuple[tuple[str, ...], Literal["Report", "Enforce"]]:
    networks = []
    for index, text in enumerate(declared.ranges if declared else ()):
        network = _network(text)
        if network is None:
            message = f"`{text}` is no address range; write one such as 203.0.113.0/24"
            report.add(f"spec.allowedSources.ranges[{index}]", conditions.Reason.UnsupportedValue, message)
        else:
            networks.append(network)
    return tuple(networks), types.value_or_default(declared and declared.policy, "Listener.spec.allowedSources.policy")


def _network(text: str) -> str | None:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return None


def bad_networks(texts: Iterable[str]) -> list[int]:
    """Where in a list something is no address range."""
    return [index for index, text in enumerate(texts) if _network(text) is None]
