"""What stands in the configuration namespace, and what of it is in force. Pure.

A document that cannot be used leaves the last good one in force. Only a tombstone removes: a Secret that is just not
there any more is served on, and told.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from usher_gateway import config_secret, documents, model

Check = Callable[[config_secret.Document], None]
"""Raises where a document cannot be run."""

_OWNER_HINT = "an operator names it by a hash of its owner; delete the Secret, and the operator writes it anew"
_RUN_HINT = "see the log of the gateway; the last good document is in force"


class Secret(msgspec.Struct, frozen=True):
    """A config Secret, as much of it as matters."""

    name: str
    version: str
    """resourceVersion: equal ones mean equal content."""
    owner: str = ""
    """The annotation: tells whose an unreadable document is."""
    data: dict[str, str] | None = None


class Rejected(msgspec.Struct, frozen=True):
    """Why the newest document of somebody is not in force."""

    secret: str
    identity: config_secret.Identity | None
    """None where nobody can tell whose it is."""
    code: str
    message: str
    hint: str


class State(msgspec.Struct, frozen=True):
    """How one document stands."""

    hash: str | None
    """Of the one in force; None: there is none."""
    rejected: str | None = None
    """Why a newer one is not."""
    vanished: bool = False
    """Its Secret went without a tombstone."""


class Published:
    """The fold over everything that was read of the namespace."""

    def __init__(self, key: bytes, check: Check, trusted_proxies: tuple[str, ...] = ()) -> None:
        """``key``: ``Keys.document``; ``trusted_proxies`` are this gateway's own, beside those of documents."""
        self._key, self._check, self._trusted_proxies = key, check, trusted_proxies
        self._in_force: dict[config_secret.Identity, config_secret.Envelope] = {}
        self._listeners: dict[str, documents.Listener] = {}
        self._destinations: dict[str, documents.Destination] = {}
        self._identities: dict[str, config_secret.Identity] = {}
        """Secret -> whose document of it is in force."""
        self._versions: dict[str, str] = {}
        self._rejected: dict[str, Rejected] = {}
        self._vanished: dict[config_secret.Identity, int] = {}
        self._touched: set[config_secret.Identity] = set()
        self.is_changed = False
        """Whether another snapshot would be had than at the last call of snapshot()."""

    @property
    def rejected(self) -> Collection[Rejected]:
        """What is not in force as it is written."""
        return self._rejected.values()

    @property
    def vanished(self) -> Mapping[config_secret.Identity, int]:
        """What is served on without its Secret, and since when (microseconds)."""
        return self._vanished

    @property
    def in_force(self) -> Collection[config_secret.Envelope]:
        """Every document in force."""
        return self._in_force.values()

    def snapshot(self) -> documents.Snapshot:
        """The documents in force; those that did not change are the same objects as before."""
        self.is_changed = False
        return documents.Snapshot(self._listeners | self._giving_way(), dict(self._destinations))

    def _giving_way(self) -> dict[str, documents.Listener]:
        """What vanished and has addresses that somebody else was given since: without them."""
        vanished = {key for kind, key in self._vanished if kind == "Listener"}
        if not vanished:
            return {}
        taken = {
            (one.host, one.path, one.query)
            for key, document in self._listeners.items()
            if key not in vanished
            for one in document.addresses
        }
        found = {}
        for key in vanished:
            document = self._listeners[key]
            free = tuple(one for one in document.addresses if (one.host, one.path, one.query) not in taken)
            if len(free) < len(document.addresses):
                found[key] = msgspec.structs.replace(document, addresses=free)
        return found

    def take_touched(self) -> dict[config_secret.Identity, State | None]:
        """How each document stands that may stand otherwise than at the last call; None: removed."""
        rejected = {one.identity: one for one in self._rejected.values()}
        touched, self._touched = self._touched, set()
        return {identity: self._state(identity, rejected.get(identity)) for identity in touched}

    def _state(self, identity: config_secret.Identity, rejected: Rejected | None) -> State | None:
        envelope = self._in_force.get(identity)
        if envelope is None and rejected is None:
            return None
        return State(
            hash=envelope.hash if envelope else None,
            rejected=f"{rejected.code}: {rejected.message}" if rejected else None,
            vanished=identity in self._vanished,
        )

    def restore(self, kept: Iterable[config_secret.Envelope]) -> list[config_secret.Identity]:
        """Begin with what was in force when the gateway ran last; tells what of it this release cannot run."""
        unfit = []
        for envelope in kept:
            try:
                self._try(envelope.document)
            except model.ConfigurationError:
                unfit.append(envelope.identity)
            else:
                self._enforce(config_secret.secret_name(*envelope.identity), envelope)
        return unfit

    def is_known(self, secret: Secret) -> bool:
        """Whether this very version was read already, and nothing is to be done."""
        if self._versions.get(secret.name) != secret.version:
            return False
        return self._identities.get(secret.name) not in self._vanished

    def put(self, secret: Secret) -> Rejected | None:
        """Take in a Secret that was added or changed; tells why its document does not come into force."""
        self._versions[secret.name] = secret.version
        try:
            envelope = self._read(secret)
        except model.ConfigurationError as error:
            return self._reject(secret, error)
        self._rejected.pop(secret.name, None)
        if envelope.document is None:
            self._remove(secret.name, envelope.identity)
        else:
            self._enforce(secret.name, envelope)
        return None

    def _read(self, secret: Secret) -> config_secret.Envelope:
        envelope = config_secret.decode_data(secret.data, self._key)
        if secret.name != config_secret.secret_name(*envelope.identity):
            raise model.DocumentUnreadableError("the Secret does not have the name of its document", _OWNER_HINT)
        known = self._in_force.get(envelope.identity)
        if known is None or known.hash != envelope.hash:
            self._try(envelope.document)
        return envelope

    def _try(self, document: config_secret.Document | None) -> None:
        if document is None:
            return
        try:
            self._check(document)
        except model.ConfigurationError:
            raise
        except Exception as error:
            raise model.DocumentUnreadableError(f"it cannot be run: {type(error).__name__}", _RUN_HINT) from error

    def take_away(self, name: str, now: int) -> config_secret.Identity | None:
        """A Secret is gone; tells whose document is in force without one from now on."""
        self._versions.pop(name, None)
        rejected = self._rejected.pop(name, None)
        if rejected is not None and rejected.identity is not None:
            self._touched.add(rejected.identity)
        identity = self._identities.get(name)
        if identity is None or identity in self._vanished:
            return None
        self._vanished[identity] = now
        self._touched.add(identity)
        return identity

    def retain(self, names: set[str], now: int) -> list[config_secret.Identity]:
        """What a complete list does not hold is gone; tells whose documents are in force without a Secret now."""
        absent = (self._versions.keys() | self._identities.keys() | self._rejected.keys()) - names
        found = [self.take_away(name, now) for name in sorted(absent)]
        return [identity for identity in found if identity is not None]

    def _enforce(self, name: str, envelope: config_secret.Envelope) -> None:
        identity, document = envelope.identity, envelope.document
        before = self._in_force.get(identity)
        self._vanished.pop(identity, None)
        self._touched.add(identity)
        self._identities[name] = identity
        if before is not None and before.hash == envelope.hash:
            return  # the same objects stay, so that what was built from them does
        self._in_force[identity] = envelope
        if isinstance(document, documents.Listener):
            self._listeners[document.key] = self._trusting(document)
        elif document is not None:
            self._destinations[document.key] = document
        self.is_changed = True

    def _trusting(self, document: documents.Listener) -> documents.Listener:
        if not self._trusted_proxies:
            return document
        proxies = tuple(dict.fromkeys((*document.trusted_proxies, *self._trusted_proxies)))
        return msgspec.structs.replace(document, trusted_proxies=proxies, client_address_from="XForwardedFor")

    def _remove(self, name: str, identity: config_secret.Identity) -> None:
        self._identities.pop(name, None)
        self._vanished.pop(identity, None)
        self._touched.add(identity)
        if self._in_force.pop(identity, None) is None:
            return
        kind, key = identity
        if kind == "Listener":
            del self._listeners[key]
        else:
            del self._destinations[key]
        self.is_changed = True

    def _reject(self, secret: Secret, error: model.ConfigurationError) -> Rejected:
        identity = self._identities.get(secret.name) or _claimed(secret)
        rejected = Rejected(secret.name, identity, error.code, str(error), error.hint)
        self._rejected[secret.name] = rejected
        if identity is not None:
            self._vanished.pop(identity, None)
            self._touched.add(identity)
        return rejected


def _claimed(secret: Secret) -> config_secret.Identity | None:
    """Whose document a Secret says it holds; believed only where its name agrees."""
    for kind in config_secret.KINDS:
        if secret.name == config_secret.secret_name(kind, secret.owner):
            return kind, secret.owner
    return None
