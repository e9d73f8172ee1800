"""Who may have which address: the class's hostname, allowed hostnames, claims of tenants, tokens in paths."""

import datetime
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from usher_gateway import documents, model, resources
from usher_gateway.resources import conditions, listener, listener_class, types

IMPLICIT_HOSTNAME = "localhost"
"""Where listeners answer if the files have no ListenerClass at all."""

_SECRET_LENGTH = 20

Owner = tuple[str, str]
"""(namespace, tenant)."""


class Policy(msgspec.Struct, frozen=True):
    """A ListenerClass as addresses see it; an implicit one allows every hostname."""

    spec: listener_class.ListenerClassSpec
    implicit: bool = False


class Claims:
    """The hostnames and addresses that are taken, while listeners are compiled one after the other."""

    def __init__(self, owners: Mapping[str, Owner], reserved: frozenset[str]) -> None:
        self.owners = owners
        self.reserved = reserved
        self._taken: dict[tuple[str, str, tuple[tuple[str, str], ...]], str] = {}

    def take(self, address: documents.Address, key: str) -> bool:
        """Whether an address is free for a listener; it is the listener's from now on."""
        identity = (address.host, address.path, tuple(sorted(address.query)))
        return self._taken.setdefault(identity, key) == key


def claim_of(
    one: resources.Listener, policy: Policy, labels: Mapping[str, str], reserved: frozenset[str]
) -> resources.Listener | None:
    """A listener with those explicit addresses that its class lets it claim; None without any.

    Whether its tenant exists is the caller's to know.
    """
    if not permits(policy.spec.namespaces, labels):
        return None
    addresses = one.spec.addresses or ()
    allowed = [address for address in addresses if refusal(address.hostname, policy, labels, reserved) is None]
    if not allowed:
        return None
    return msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, addresses=allowed))


def owners_of(listeners: Iterable[resources.Listener], incumbents: Mapping[str, Owner]) -> dict[str, Owner]:
    """Which tenant has each explicit hostname: the incumbent while it still wants it, else the first to ask."""
    wanted: dict[str, list[Owner]] = {}
    for one in listeners:
        for address in one.spec.addresses or ():
            owner = (one.metadata.namespace, one.spec.tenant_ref.name)
            wanted.setdefault(address.hostname, []).append(owner)
    return {host: incumbents[host] if incumbents.get(host) in owners else owners[0] for host, owners in wanted.items()}


def matches(pattern: str, hostname: str) -> bool:
    """Whether a hostname is one that a pattern allows: ``*.x`` stands for one or more labels before ``x``."""
    return hostname.endswith(pattern[1:]) if pattern.startswith("*.") else hostname == pattern


def permits(namespaces: listener_class.Namespaces | None, labels: Mapping[str, str]) -> bool:
    """Whether a namespace with these labels is chosen."""
    if namespaces is None or namespaces.from_ == "All":
        return True
    selector = namespaces.selector or listener_class.LabelSelector()
    if any(labels.get(key) != value for key, value in (selector.match_labels or {}).items()):
        return False
    return all(_meets(requirement, labels) for requirement in selector.match_expressions or ())


def _meets(requirement: listener_class.SelectorRequirement, labels: Mapping[str, str]) -> bool:
    values = requirement.values or []
    match requirement.operator:
        case "In":
            return labels.get(requirement.key) in values
        case "NotIn":
            return labels.get(requirement.key) not in values
        case "Exists":
            return requirement.key in labels
        case "DoesNotExist":
            return requirement.key not in labels


def refusal(
    hostname: str, policy: Policy, labels: Mapping[str, str], reserved: frozenset[str]
) -> conditions.Reason | None:
    """Why a namespace may not claim a hostname explicitly; None if it may."""
    if policy.implicit:
        return None
    if hostname in reserved:
        return conditions.Reason.HostnameReserved
    for allowed in policy.spec.allowed_hostnames or ():
        if matches(allowed.hostname, hostname) and permits(allowed.namespaces, labels):
            return None
    return conditions.Reason.HostnameNotAllowed


class Tokens(msgspec.Struct, frozen=True):
    """The token paths of one listener: the present one first, then those also accepted."""

    paths: tuple[tuple[str, str, int], ...]
    """(path, action, until in microseconds or 0)."""


def tokens_of(one: resources.Listener, install_key: bytes) -> Tokens:
    """Every ``/v1/<token>`` that a listener answers at."""
    token = one.spec.token or listener.Token()
    generation = types.value_or_default(token.generation, "Listener.spec.token.generation")

    def path(number: int) -> str:
        secret = model.url_token(
            install_key, one.metadata.namespace, one.spec.tenant_ref.name, one.metadata.name, number
        )
        return f"/v1/{secret}"

    also = [
        (
            path(old.generation),
            types.value_or_default(old.action, "Listener.spec.token.alsoAccept[].action"),
            _until(old),
        )
        for old in token.also_accept or ()
        if old.generation != generation
    ]
    return Tokens(((path(generation), "Accept", 0), *also))


def _until(old: listener.AlsoAccept) -> int:
    if old.until_time is None or not is_time(old.until_time):
        return 0
    moment = datetime.datetime.fromisoformat(old.until_time)
    return int(moment.timestamp() * model.MICROSECONDS)


def is_time(text: str) -> bool:
    """Whether an RFC 3339 time exists: there is no 30th of February."""
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def addresses_of(
    hostname: str, path: str | None, query: tuple[tuple[str, str], ...], tokens: Tokens
) -> Iterator[documents.Address]:
    """The addresses of one declared address: its own path, or one per token."""
    if path is not None:
        yield documents.Address(hostname, path, query)
        return
    for token_path, action, until in tokens.paths:
        yield documents.Address(hostname, token_path, query, "Hold" if action == "Hold" else "Accept", until)


def has_secret(address: listener.Address) -> bool:
    """Whether a declared address holds something that cannot be guessed: a token, or 20 mixed characters in a row."""
    if address.path is None:
        return True
    parts = [*address.path.split("/"), *(pair.value for pair in address.query or ())]
    return any(
        len(part) >= _SECRET_LENGTH and any(map(str.isdigit, part)) and any(map(str.isalpha, part)) for part in parts
    )
