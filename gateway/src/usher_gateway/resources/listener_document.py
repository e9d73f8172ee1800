"""Checks one Listener and builds its document, as far as that depends on the listener alone.

``compiler.py`` adds what depends on other resources: the tenant, the class, addresses, Secrets.
"""

import datetime
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from usher_gateway import documents, model
from usher_gateway.resources import conditions, listener_class, types
from usher_gateway.resources.listener import AddressSpec, AlsoAccept, Dedupe, Fields, Listener, RouteSpec, Token


class TokenPath(msgspec.Struct, frozen=True):
    """One ``/v1/<token>`` of a listener."""

    path: str
    action: Literal["Accept", "Hold"] = "Accept"
    until: int = 0
    """Microseconds; 0 means no limit."""


def token_paths(listener: Listener, install_key: bytes) -> list[TokenPath]:
    """Return every token path that a listener answers at: the present one first, then those also accepted."""
    token = listener.spec.token or Token()
    generation = types.value_or_default(token.generation, "Listener.spec.token.generation")
    action = "Listener.spec.token.alsoAccept[].action"

    def path(number: int) -> str:
        namespace, tenant = listener.owner
        return (
            f"{documents.TOKEN_PREFIX}{model.url_token(install_key, namespace, tenant, listener.metadata.name, number)}"
        )

    also = [
        TokenPath(path(old.generation), types.value_or_default(old.action, action), _until(old))
        for old in token.also_accept or ()
        if old.generation != generation
    ]
    return [TokenPath(path(generation)), *also]


def _until(old: AlsoAccept) -> int:
    if old.until_time is None or not _is_time(old.until_time):
        return 0
    moment = datetime.datetime.fromisoformat(old.until_time)
    return int(moment.timestamp() * model.MICROSECONDS)


def _is_time(text: str) -> bool:
    """Return True if an RFC 3339 time exists; the 30th of February does not."""
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def addresses_of(declared: AddressSpec, tokens: Iterable[TokenPath]) -> Iterator[documents.Address]:
    """Yield the addresses of one declared address: one with its own path, or one per token."""
    if declared.path is not None:
        yield documents.Address(declared.hostname, declared.path, declared.query_pairs)
        return
    for token in tokens:
        yield documents.Address(declared.hostname, token.path, declared.query_pairs, token.action, token.until)


def fixed_addresses(listener: Listener) -> Iterator[documents.Address]:
    """Yield the declared addresses with a path of their own. Other listeners may name them too, unlike tokens."""
    for declared in listener.spec.addresses or ():
        if declared.path is not None:
            yield from addresses_of(declared, ())


def check_listener(listener: Listener) -> list[conditions.Finding]:
    """Return what the schema cannot check in one listener: its times, ranges, periods, guessable paths, expressions."""
    return [
        *_value_findings(listener),
        *_range_findings(listener),
        *_period_findings(listener),
        *conditions.expression_findings(listener),
    ]


def _value_findings(listener: Listener) -> Iterator[conditions.Finding]:
    unsupported = conditions.Reason.UnsupportedValue
    spec = listener.spec
    zone = spec.fields.occurred_at_zone if spec.fields else None
    if zone is not None and not types.is_time_zone(zone):
        message = f"`{zone}` is not an IANA time zone; write one such as Europe/London"
        yield conditions.finding(listener, "spec.fields.occurredAtZone", unsupported, message)
    for index, old in enumerate((spec.token and spec.token.also_accept) or ()):
        if old.until_time is not None and not _is_time(old.until_time):
            path = f"spec.token.alsoAccept[{index}].untilTime"
            message = "this time does not exist; write one such as 2027-01-31T12:00:00Z"
            yield conditions.finding(listener, path, unsupported, message)
    for index, address in enumerate(spec.addresses or ()):
        if spec.authentication is None and not address.has_secret:
            message = "can be guessed: must have `authentication`, or `authentication: {type: None}` spelled out"
            yield conditions.finding(listener, f"spec.addresses[{index}].path", unsupported, message)


def _period_findings(listener: Listener) -> Iterator[conditions.Finding]:
    periods: dict[str | None, str] = {}
    for path, rule in listener.named_rules:
        every = periods.setdefault(rule.name, rule.every)
        if every != rule.every:
            message = f"another rule `{rule.name}` is for {every}: rules that share a name need one period"
            yield conditions.finding(listener, path, conditions.Reason.UnsupportedValue, message)


def _range_findings(listener: Listener) -> Iterator[conditions.Finding]:
    for index, text in enumerate(listener.spec.allowed_sources.ranges if listener.spec.allowed_sources else ()):
        if types.network_of(text) is None:
            path = f"spec.allowedSources.ranges[{index}]"
            message = f"`{text}` is not an address range; write one such as 203.0.113.0/24"
            yield conditions.finding(listener, path, conditions.Reason.UnsupportedValue, message)


def listener_document(
    listener: Listener,
    *,
    tenant: documents.TenantDocument,
    addresses: tuple[documents.Address, ...],
    authentication: documents.Authentication,
    class_spec: listener_class.ListenerClassSpec,
    trusted_proxies: tuple[str, ...],
) -> documents.ListenerDocument:
    """Return the document of a listener, every default filled in.

    Args:
        listener: The listener, without findings of ``check_listener`` that are errors.
        tenant: Its tenant.
        addresses: The addresses that it gets.
        authentication: With its credential resolved.
        class_spec: Of its ListenerClass.
        trusted_proxies: Added to those of the class (``--trusted-proxies``).
    """
    spec = listener.spec
    dedupe = spec.dedupe or Dedupe()
    fields = spec.fields or Fields()
    sources = spec.allowed_sources
    maximums = class_spec.maximums or listener_class.Maximums()
    client = class_spec.client_address
    proxies = (*((client and client.trusted_proxies) or ()), *trusted_proxies)
    pick = types.value_or_default
    address_from = pick(client and client.from_, "ListenerClass.spec.clientAddress.from")
    return documents.ListenerDocument(
        namespace=listener.metadata.namespace,
        name=listener.metadata.name,
        tenant=tenant,
        addresses=addresses,
        generation=listener.metadata.generation,
        state=pick(spec.state, "Listener.spec.state"),
        authentication=authentication,
        source_ranges=tuple(network for network in map(types.network_of, sources.ranges if sources else ()) if network),
        source_policy=pick(sources and sources.policy, "Listener.spec.allowedSources.policy"),
        client_address_from="XForwardedFor" if trusted_proxies else address_from,
        trusted_proxies=tuple(dict.fromkeys(types.network_of(proxy) or proxy for proxy in proxies)),
        max_body_bytes=pick(maximums.max_body_bytes, "ListenerClass.spec.maximums.maxBodyBytes"),
        requests_per_second=pick(maximums.requests_per_second, "ListenerClass.spec.maximums.requestsPerSecond"),
        max_stored_bytes=pick(maximums.stored_bytes_per_tenant, "ListenerClass.spec.maximums.storedBytesPerTenant"),
        fields=_fields(fields),
        occurred_at_zone=pick(fields.occurred_at_zone, "Listener.spec.fields.occurredAtZone"),
        dedupe_per=tuple(pick(dedupe.per, "Listener.spec.dedupe.per")),
        window_seconds=pick(dedupe.window_seconds, "Listener.spec.dedupe.windowSeconds"),
        redelivery_seconds=pick(dedupe.redelivery_seconds, "Listener.spec.dedupe.redeliverySeconds"),
        late_after_seconds=pick(spec.late and spec.late.after_seconds, "Listener.spec.late.afterSeconds"),
        silence_after_seconds=pick(spec.silence and spec.silence.after_seconds, "Listener.spec.silence.afterSeconds"),
        routes=routes_of(listener),
    )


def routes_of(listener: Listener) -> tuple[documents.Route, ...]:
    """Return the routes that a listener declares."""
    return tuple(_route(listener, route) for route in listener.spec.routes or ())


# (attribute, name) of each field of a body that a listener may override; looked up once because that is slow.
_FIELD_NAMES = tuple(
    (field.name, field.encode_name)
    for field in msgspec.structs.fields(Fields)
    if field.encode_name in documents.DEFAULT_FIELDS
)


def _fields(fields: Fields) -> dict[str, tuple[str, ...]]:
    """Return the default places of a body's fields with the listener's overrides."""
    merged = dict(documents.DEFAULT_FIELDS)
    for attribute, name in _FIELD_NAMES:
        pointer = getattr(fields, attribute)
        if pointer is not None:
            merged[name] = (pointer,)
    return merged


def _route(listener: Listener, route: RouteSpec) -> documents.Route:
    once = route.once_per
    pick = types.value_or_default
    return documents.Route(
        name=route.name,
        destination=f"{listener.metadata.namespace}/{route.destination_ref.name}",
        state=pick(route.state, "Listener.spec.routes[].state"),
        when=pick(route.when, "Listener.spec.routes[].when"),
        repeats=pick(route.repeats, "Listener.spec.routes[].repeats"),
        once_per=documents.OncePer(tuple(sorted(once.per)), once.every, once.name or "") if once else None,
        deliver_within_seconds=pick(route.deliver_within_seconds, "Listener.spec.routes[].deliverWithinSeconds"),
        transform=pick(route.transform, "Listener.spec.routes[].transform"),
    )
