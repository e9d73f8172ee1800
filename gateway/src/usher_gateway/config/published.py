"""The documents in the configuration namespace: which are in force, rejected, or without a Secret. Pure.

A document that cannot be used leaves the last good one in force. Only its own tombstone removes a document. If a Secret
just disappears, or holds the tombstone of another object with the name, as after a restore of etcd, the document stays
in force and counts as vanished.
"""

from collections.abc import Callable, Collection, Mapping

import msgspec

from usher_gateway import config_secret, documents, expressions, model
from usher_gateway.config import DocumentStatus

# Raises if a document cannot be run. The result is kept while the document is in force: its compiled expressions.
DocumentCheck = Callable[[config_secret.Document], object]

_OWNER_HINT = "an operator names it by a hash of its owner; delete the Secret, and the operator writes it again"
_RUN_HINT = "see the log of the gateway; the last good document stays in force"


class _SecretMetadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    annotations: dict[str, str] = {}


class PublishedSecret(msgspec.Struct, frozen=True):
    """A config Secret as the API server sends it."""

    metadata: _SecretMetadata
    data: dict[str, str] | None = None

    @property
    def version(self) -> str:
        """Equal versions have equal content, also after a restore of etcd, which can give out a number twice."""
        desired = self.metadata.annotations.get(config_secret.DESIRED_ANNOTATION, "")
        return f"{self.metadata.uid} {self.metadata.resource_version} {desired}"

    @property
    def is_mark(self) -> bool:
        """True if it holds no document, but says that everything was published once."""
        return config_secret.is_mark(self.metadata.name)

    @property
    def marked_listeners(self) -> int:
        """How many Listeners had a document when the mark was written."""
        number = self.metadata.annotations.get(config_secret.LISTENERS_ANNOTATION, "")
        return int(number) if number.isdecimal() else 0


class DecodedSecret(msgspec.Struct, frozen=True):
    """A config Secret with what it holds, or with the reason why that cannot be read."""

    secret: PublishedSecret
    envelope: config_secret.Envelope | None = None
    error: model.ConfigurationError | None = None

    @property
    def namespace(self) -> str:
        """Namespace of the document's resource; `""` if it cannot be read."""
        return self.envelope.owner.namespace if self.envelope is not None else ""

    @property
    def document(self) -> config_secret.Document | None:
        """The document; None without one."""
        return self.envelope.document if self.envelope is not None else None

    @property
    def expressions(self) -> list[expressions.Source]:
        """The document's expressions."""
        document = self.document
        sources: list[expressions.Source] = []
        if isinstance(document, documents.DestinationDocument):
            erasure = document.erasure
            sources += [(document.transform, "transform"), (erasure.transform if erasure else "", "transform")]
            variables = (*document.url_variables, *(erasure.url_variables if erasure else ()))
            sources += [(variable.value, "variable") for variable in variables]
            sources += [(rule.when, "answer") for rule in document.answers]
        for route in document.routes if isinstance(document, documents.ListenerDocument) else ():
            sources += [(route.when, "when"), (route.transform, "transform")]
        return [source for source in sources if source[0]]


def filters_of(document: config_secret.Document | None) -> list[expressions.Source]:
    """Return the expressions that are compiled before a document comes into force."""
    routes = document.routes if isinstance(document, documents.ListenerDocument) else ()
    return [(route.when, "when") for route in routes if route.when]


class RejectedDocument(msgspec.Struct, frozen=True):
    """Why the newest document in a Secret is not in force."""

    secret: str
    identity: config_secret.Identity | None  # None if the Secret does not say whose document it holds
    code: str
    message: str
    hint: str


class PublishedDocuments:
    """Folds the Secrets that were listed and watched into the documents in force."""

    def __init__(self, *, key: bytes, check: DocumentCheck, trusted_proxies: tuple[str, ...] = ()) -> None:
        """Start with nothing in force.

        ``key``: `Keys.document`, which verifies each document's hash. ``check`` tries a document before it comes
        into force. ``trusted_proxies``: this gateway's own, added to each Listener's.
        """
        self._key = key
        self._check = check
        self._trusted_proxies = trusted_proxies
        self._in_force: dict[config_secret.Identity, config_secret.Envelope] = {}
        self._checked: dict[config_secret.Identity, object] = {}  # What the check of each document in force returned
        self._listeners: dict[str, documents.ListenerDocument] = {}
        self._destinations: dict[str, documents.DestinationDocument] = {}
        self._identities: dict[str, config_secret.Identity] = {}
        """Secret name -> its document in force."""
        self._versions: dict[str, str] = {}
        self._rejected: dict[str, RejectedDocument] = {}
        self._vanished: dict[config_secret.Identity, int] = {}
        self._touched: set[config_secret.Identity] = set()
        self.is_changed = False  # True if snapshot() would return a different snapshot than at its last call

    @property
    def rejected(self) -> Collection[RejectedDocument]:
        """Documents that are not in force as written."""
        return self._rejected.values()

    @property
    def lacks_listener(self) -> bool:
        """True if a rejected document may declare an address, and no former version is in force."""
        return any(
            rejected.identity is None
            or (rejected.identity[0] == "Listener" and rejected.identity not in self._in_force)
            for rejected in self._rejected.values()
        )

    @property
    def vanished(self) -> Mapping[config_secret.Identity, int]:
        """Documents in force that no Secret holds any more, and when that was noticed (microseconds)."""
        return self._vanished

    @property
    def versions(self) -> Mapping[str, str]:
        """The last version read of each Secret, by name."""
        return self._versions

    @property
    def vanished_documents(self) -> dict[config_secret.Identity, config_secret.Envelope]:
        """The vanished documents, with their owners."""
        return {identity: self._in_force[identity] for identity in self._vanished}

    @property
    def in_force(self) -> Collection[config_secret.Envelope]:
        """Every document in force."""
        return self._in_force.values()

    def snapshot(self, waiting: Collection[str] = ()) -> documents.Snapshot:
        """The documents in force. Documents that did not change are the same objects as in the previous snapshot.

        ``waiting``: names of the Secrets whose newest document is not in force yet.
        """
        self.is_changed = False
        return documents.Snapshot(self._listeners | self._without_taken_addresses(waiting), dict(self._destinations))

    def _without_taken_addresses(self, waiting: Collection[str]) -> dict[str, documents.ListenerDocument]:
        """The Listeners that may be outdated, without the addresses that another Listener has now.

        Such a Listener's Secret vanished, was not read yet, or holds a newer document that waits or was rejected. The
        operator gives an address to another Listener only after it published the former one without it. So the
        document that came into force last has the address, and the cache keeps this order.
        """
        names = (self._identities.keys() - self._versions.keys()) | self._rejected.keys() | set(waiting)
        outdated = {
            identity
            for identity in (*self._vanished, *map(self._identities.get, names))
            if identity in self._in_force and identity[0] == "Listener"
        }
        if not outdated:
            return {}
        taken, without = _TakenAddresses(), {}
        newest_first = list(reversed(self._in_force))
        newest_first.sort(key=outdated.__contains__)  # the present documents, then the outdated ones
        for identity in newest_first:
            document = self._listeners.get(identity[1]) if identity[0] == "Listener" else None
            if document is None:
                continue
            if identity in outdated:
                document = without[document.key] = taken.remove_from(document)
            taken.add(document)
        return without

    def take_touched(self) -> dict[config_secret.Identity, DocumentStatus | None]:
        """The status of each document that may have changed since the last call; None: removed."""
        rejected = {document.identity: document for document in self._rejected.values()}
        touched = self._touched
        self._touched = set()
        return {identity: self._status(identity, rejected.get(identity)) for identity in touched}

    def _status(self, identity: config_secret.Identity, rejected: RejectedDocument | None) -> DocumentStatus | None:
        envelope = self._in_force.get(identity)
        if envelope is None and rejected is None:
            return None
        return DocumentStatus(
            hash=envelope.hash if envelope else None,
            rejected=f"{rejected.code}: {rejected.message}" if rejected else None,
            vanished=identity in self._vanished,
        )

    def restore(self, envelope: config_secret.Envelope) -> bool:
        """Start with a document from the cache; returns whether this release can run it."""
        try:
            self._try(envelope)
        except model.ConfigurationError:
            return False
        self._enforce(config_secret.secret_name(*envelope.identity), envelope)
        return True

    def is_known(self, secret: PublishedSecret) -> bool:
        """Return whether this version was read before and changes nothing."""
        if self._versions.get(secret.metadata.name) != secret.version:
            return False
        return self._identities.get(secret.metadata.name) not in self._vanished

    def decode(self, secret: PublishedSecret) -> DecodedSecret:
        """Decode a Secret, and change nothing yet."""
        try:
            return DecodedSecret(secret, self._read(secret))
        except model.ConfigurationError as error:
            return DecodedSecret(secret, error=error)

    def take(self, decoded: DecodedSecret, now: int) -> RejectedDocument | None:
        """Take a Secret that was added or changed; return the rejection if its document does not come into force."""
        secret, envelope = decoded.secret, decoded.envelope
        self._versions[secret.metadata.name] = secret.version
        if envelope is None:
            assert decoded.error is not None
            return self._reject(secret, decoded.error)
        try:
            self._try_new(envelope)
        except model.ConfigurationError as error:
            return self._reject(secret, error)
        self._rejected.pop(secret.metadata.name, None)
        current = self._in_force.get(envelope.identity)
        if envelope.document is None and current is not None and current.owner.uid != envelope.owner.uid:
            self._vanished.setdefault(envelope.identity, now)
            self._touched.add(envelope.identity)
        elif envelope.document is None:
            self._remove(secret.metadata.name, envelope.identity)
        else:
            self._enforce(secret.metadata.name, envelope)
        return None

    def _read(self, secret: PublishedSecret) -> config_secret.Envelope:
        envelope = config_secret.decode_data(secret.data, self._key)
        if secret.metadata.name != config_secret.secret_name(*envelope.identity):
            raise model.DocumentUnreadableError("the name of the Secret does not fit its document", _OWNER_HINT)
        return envelope

    def _try_new(self, envelope: config_secret.Envelope) -> None:
        current = self._in_force.get(envelope.identity)
        if current is None or current.hash != envelope.hash:
            self._try(envelope)

    def _try(self, envelope: config_secret.Envelope) -> None:
        if envelope.document is None:
            return
        try:
            self._checked[envelope.identity] = self._check(envelope.document)
        except model.ConfigurationError:
            raise
        except Exception as error:
            raise model.DocumentUnreadableError(f"it cannot be run: {type(error).__name__}", _RUN_HINT) from error

    def remove_secret(self, name: str, now: int) -> config_secret.Identity | None:
        """A Secret was deleted; returns the document that is now in force without a Secret, if there is one."""
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
        """A complete list has only these Secrets; returns the documents that are now in force without a Secret."""
        absent = (self._versions.keys() | self._identities.keys() | self._rejected.keys()) - names
        removed = [self.remove_secret(name, now) for name in sorted(absent)]
        return [identity for identity in removed if identity is not None]

    def _enforce(self, name: str, envelope: config_secret.Envelope) -> None:
        identity, document = envelope.identity, envelope.document
        previous = self._in_force.get(identity)
        self._vanished.pop(identity, None)
        self._touched.add(identity)
        self._identities[name] = identity
        self.is_changed = True  # also by an equal document, which is not outdated any more
        self._in_force.pop(identity, None)  # the order is that in which documents came into force
        if previous is not None and previous.hash == envelope.hash:
            # the owner may be another; the same document object keeps what was built from it
            self._in_force[identity] = msgspec.structs.replace(envelope, document=previous.document)
            return
        self._in_force[identity] = envelope
        if isinstance(document, documents.ListenerDocument):
            self._listeners[document.key] = self._with_trusted_proxies(document)
        elif document is not None:
            self._destinations[document.key] = document

    def _with_trusted_proxies(self, document: documents.ListenerDocument) -> documents.ListenerDocument:
        if not self._trusted_proxies:
            return document
        proxies = tuple(dict.fromkeys((*document.trusted_proxies, *self._trusted_proxies)))
        return msgspec.structs.replace(document, trusted_proxies=proxies, client_address_from="XForwardedFor")

    def _remove(self, name: str, identity: config_secret.Identity) -> None:
        self._identities.pop(name, None)
        self._vanished.pop(identity, None)
        self._touched.add(identity)
        self._checked.pop(identity, None)
        if self._in_force.pop(identity, None) is None:
            return
        kind, key = identity
        if kind == "Listener":
            del self._listeners[key]
        else:
            del self._destinations[key]
        self.is_changed = True

    def _reject(self, secret: PublishedSecret, error: model.ConfigurationError) -> RejectedDocument:
        identity = self._identities.get(secret.metadata.name) or _claimed_identity(secret)
        rejected = RejectedDocument(secret.metadata.name, identity, error.code, str(error), error.hint)
        self._rejected[secret.metadata.name] = rejected
        if identity is not None:
            self._vanished.pop(identity, None)
            self._touched.add(identity)
        return rejected


class _TakenAddresses:
    """The addresses that some Listeners have, and the tenants to which their own hostnames belong."""

    def __init__(self) -> None:
        self._places: set[object] = set()
        self._owners: dict[str, tuple[str, str]] = {}  # Hostname -> namespace and tenant

    def add(self, document: documents.ListenerDocument) -> None:
        """Add a Listener's addresses."""
        self._places.update(address.place for address in document.addresses)
        self._owners |= dict.fromkeys(document.own_hostnames, (document.namespace, document.tenant.name))

    def remove_from(self, document: documents.ListenerDocument) -> documents.ListenerDocument:
        """Return a document without the addresses that are taken, or whose hostname belongs to another tenant."""
        owner = (document.namespace, document.tenant.name)
        foreign = {host for host in document.own_hostnames if self._owners.get(host, owner) != owner}
        return document.without_places(
            {
                address.place
                for address in document.addresses
                if address.host in foreign or address.place in self._places
            }
        )


def _claimed_identity(secret: PublishedSecret) -> config_secret.Identity | None:
    """The document that the owner annotation names, if the Secret's name agrees."""
    owner = secret.metadata.annotations.get(config_secret.OWNER_ANNOTATION, "")
    for kind in config_secret.KINDS:
        if secret.metadata.name == config_secret.secret_name(kind, owner):
            return kind, owner
    return None
