"""Checks one Listener and builds its document, as far as that depends on the listener alone.

``compiler.py`` adds what depends on other resources: the tenant, the class, addresses, Secrets.
"""

import datetime
from collections.abc import Iterator
from typing import Literal

import msgspec

from usher_gateway import documents, model
from usher_gateway.resources import conditions, listener_class, types
from usher_gateway.resources.listener import AddressSpec, AlsoAccept, Fields, Listener, RouteSpec

CLASS_ADDRESS = "class"  # Name of the only address of a listener without `addresses`: it is on the class's hostname


def token_addresses(
    listener: Listener,
    install_key: bytes,
    hostname: str,
    query: tuple[tuple[str, str], ...] = (),
    *,
    is_class_address: bool = False,
) -> list[documents.Address]:
    """Return an address for every token that a listener has: the present one first, then those also accepted."""
    token = listener.spec.token

    def address(number: int, action: Literal["Accept", "Hold"] = "Accept", until: int = 0) -> documents.Address:
        secret = model.url_token(install_key, *listener.owner, listener.metadata.name, number)
        path = f"{documents.TOKEN_PREFIX}{secret}"
        return documents.Address(hostname, path, query, action, until, is_class_address=is_class_address)

    also = [
        address(old.generation, old.action, _until(old))
        for old in token.also_accept
        if old.generation != token.generation
    ]
    return [address(token.generation), *also]


def _until(old: AlsoAccept) -> int:
    if not _is_time(old.until_time):
        return 0
    return max(1, model.instant_at(datetime.datetime.fromisoformat(old.until_time)))  # 0 means no end


def _is_time(text: str) -> bool:
    """Return True if an RFC 3339 time exists; the 30th of February does not."""
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def declared_addresses(listener: Listener, install_key: bytes, declared: AddressSpec) -> list[documents.Address]:
    """Return one declared address's addresses: one if it has a path, else one per token."""
    if declared.path is None:
        return token_addresses(listener, install_key, declared.hostname, declared.query_pairs)
    return [documents.Address(declared.hostname, declared.path, declared.query_pairs)]


def fixed_addresses(listener: Listener) -> list[documents.Address]:
    """Return the declared addresses with their own path. Other listeners may name them too, unlike tokens."""
    return [
        documents.Address(declared.hostname, declared.path, declared.query_pairs)
        for declared in listener.spec.addresses
        if declared.path is not None
    ]


def check_listener(listener: Listener) -> list[conditions.Finding]:
    """Return what the schema cannot check in one listener: its times, ranges, periods, guessable paths, expressions."""
    unsupported = conditions.Reason.UnsupportedValue
    values = [conditions.finding(listener, path, unsupported, message) for path, message in _value_problems(listener)]
    return [*values, *conditions.expression_findings(listener)]


def _value_problems(listener: Listener) -> Iterator[tuple[str, str]]:
    """Yield each unsupported value's path, and why."""
    spec = listener.spec
    zone = spec.fields.occurred_at_zone
    if zone and not types.is_time_zone(zone):
        yield "spec.fields.occurredAtZone", f"`{zone}` is not an IANA time zone; write one such as Europe/London"
    for index, old in enumerate(spec.token.also_accept):
        if old.until_time and not _is_time(old.until_time):
            message = "this time does not exist; write one such as 2027-01-31T12:00:00Z"
            yield f"spec.token.alsoAccept[{index}].untilTime", message
    for index, address in enumerate(spec.addresses):
        if address.name == CLASS_ADDRESS:
            message = f"`{CLASS_ADDRESS}` is the name of the address that a listener without `addresses` has"
            yield f"spec.addresses[{index}].name", f"{message}; choose another"
        if spec.authentication is None and not address.has_secret:
            message = "can be guessed: must have `authentication`, or `authentication: {type: None}` spelled out"
            yield f"spec.addresses[{index}].path", message
    for index, text in enumerate(spec.allowed_sources.ranges):
        if types.network_of(text) is None:
            message = f"`{text}` is not an address range; write one such as 203.0.113.0/24"
            yield f"spec.allowedSources.ranges[{index}]", message
    periods: dict[str, str] = {}
    for path, rule in listener.named_rules:
        every = periods.setdefault(rule.name, rule.every)
        if every != rule.every:
            yield path, f"another rule `{rule.name}` is for {every}: rules that share a name need one period"


def listener_document(
    listener: Listener,
    *,
    tenant: documents.TenantDocument,
    addresses: tuple[documents.Address, ...],
    authentication: documents.Authentication,
    class_spec: listener_class.ListenerClassSpec,
    trusted_proxies: tuple[str, ...],
) -> documents.ListenerDocument:
    """Return the document for a listener for which ``check_listener`` returned no error, every default filled in.

    ``trusted_proxies`` (``--trusted-proxies``) are added to the class's.
    """
    spec, dedupe, maximums = listener.spec, listener.spec.dedupe, class_spec.maximums
    proxies = (*class_spec.client_address.trusted_proxies, *trusted_proxies)
    return documents.ListenerDocument(
        namespace=listener.metadata.namespace,
        name=listener.metadata.name,
        tenant=tenant,
        addresses=addresses,
        generation=listener.metadata.generation,
        state=spec.state,
        authentication=authentication,
        source_ranges=tuple(network for network in map(types.network_of, spec.allowed_sources.ranges) if network),
        source_policy=spec.allowed_sources.policy,
        client_address_from="XForwardedFor" if trusted_proxies else class_spec.client_address.from_,
        trusted_proxies=tuple(dict.fromkeys(types.network_of(proxy) or proxy for proxy in proxies)),
        max_body_bytes=maximums.max_body_bytes,
        requests_per_second=maximums.requests_per_second,
        max_stored_bytes=maximums.stored_bytes_per_tenant,
        fields=_fields(spec.fields),
        occurred_at_zone=spec.fields.occurred_at_zone,
        dedupe_per=tuple(dedupe.per),
        window_seconds=dedupe.window_seconds,
        redelivery_seconds=dedupe.redelivery_seconds,
        late_after_seconds=spec.late.after_seconds,
        silence_after_seconds=spec.silence.after_seconds,
        routes=routes_of(listener),
    )


def routes_of(listener: Listener) -> tuple[documents.Route, ...]:
    """Return the routes that a listener declares."""
    return tuple(_route(listener, route) for route in listener.spec.routes)


# (attribute, name) for each body field that a listener may override; looked up once because that is slow.
_FIELD_NAMES = tuple(
    (field.name, field.encode_name)
    for field in msgspec.structs.fields(Fields)
    if field.encode_name in documents.DEFAULT_FIELDS
)


def _fields(fields: Fields) -> dict[str, tuple[str, ...]]:
    """Return the default places for a body's fields with the listener's overrides."""
    merged = dict(documents.DEFAULT_FIELDS)
    for attribute, name in _FIELD_NAMES:
        pointer = getattr(fields, attribute)
        if pointer is not None:
            merged[name] = (pointer,)
    return merged


def _route(listener: Listener, route: RouteSpec) -> documents.Route:
    once = route.once_per
    return documents.Route(
        name=route.name,
        destination=f"{listener.metadata.namespace}/{route.destination_ref.name}",
        state=route.state,
        when=route.when,
        repeats=route.repeats,
        once_per=documents.OncePer(tuple(sorted(once.per)), once.every, once.name) if once else None,
        deliver_within_seconds=route.deliver_within_seconds,
        transform=route.transform,
    )
