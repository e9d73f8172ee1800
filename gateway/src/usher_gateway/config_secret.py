"""Config Secrets: the operator writes one per document into the configuration namespace, and gateways read them. Pure.

A Secret holds an envelope with a document or with its tombstone. A gateway drops a document only when it reads the
tombstone of the same owner (its uid), never because the Secret is absent. It checks the keyed hash in every envelope,
so that only a holder of the install key can configure a gateway or remove a document.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import msgspec

from usher_gateway import documents, model

# Format version for an envelope and its document. A gateway rejects a newer version than it knows.
SCHEMA_VERSION = 1

DATA_KEY = "config.json"  # Key of the envelope in a Secret's data
MAX_BYTES = 1_000_000  # Largest envelope. Source: an API server rejects a Secret with more than 1 MiB of data.
CONFIG_LABEL = "usher.dev/config"  # Label `true` of every config Secret; gateways select by it
MANAGED_LABEL = "usher.dev/managed"  # Label `true` of every object that an operator made

# Label with the install whose operator made the object: install_label() of the class's controllerName.
INSTALL_LABEL = "usher.dev/install"

OWNER_UID_LABEL = "usher.dev/owner-uid"  # Label with the uid of the Listener or Destination
OWNER_ANNOTATION = "usher.dev/owner"  # Annotation with `namespace/name` of the Listener or Destination

# Annotation with the SHA-256 of the desired object. If it is equal, the operator writes nothing.
DESIRED_ANNOTATION = "usher.dev/desired"

# Annotation of a mark: how many Listeners had a document when it was written.
LISTENERS_ANNOTATION = "usher.dev/listeners"

SELECTOR = f"{CONFIG_LABEL}=true"  # Label selector of the config Secrets

Kind = Literal["Listener", "Destination"]
KINDS: tuple[Kind, ...] = ("Listener", "Destination")  # Every kind of document

_Decoded = TypeVar("_Decoded")

Document = documents.ListenerDocument | documents.DestinationDocument
Identity = tuple[Kind, str]  # Kind and `namespace/name` of the resource from which a document was made

_LABEL = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_READ_HINT = "only the operator may write config Secrets; delete the Secret, and the operator writes it again"
_KEY_HINT = "gateway and operator must have the same install key; delete a Secret that another program wrote"


class Owner(msgspec.Struct, frozen=True, omit_defaults=True):
    """The resource from which a document was made."""

    namespace: str
    name: str
    uid: str = ""
    install: str = ""  # install_label() of the install whose operator wrote the document
    namespace_uid: str = ""
    """``metadata.uid`` of the namespace, because another agency may have made it again; ``""``: not known."""

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


class TenantHostnames(msgspec.Struct, frozen=True):
    """Hostnames that belong to a tenant. After a removal no other tenant gets them before the tombstone is deleted."""

    tenant: str
    hostnames: tuple[str, ...]  # Sorted


class Envelope(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A document or a tombstone, with its owner and its hash.

    Unknown fields are allowed, because later releases may add optional ones.
    """

    schema_version: int
    kind: Kind
    owner: Owner
    generation: int  # The owner's `metadata.generation`
    hash: str  # Keyed hash of kind, owner and document, or of the tombstone: 32 hex digits
    document: Document | None = None
    tombstone: str = ""  # Time at which the operator removed the document (RFC 3339); `""` for a document
    held: TenantHostnames | None = None  # Only in a listener's tombstone

    @property
    def identity(self) -> Identity:
        """The document's identity."""
        return self.kind, self.owner.key

    @property
    def tenant_hostnames(self) -> TenantHostnames | None:
        """The hostnames that belong to a tenant by this document or tombstone; None for a destination."""
        if not isinstance(self.document, documents.ListenerDocument):
            return self.held
        return TenantHostnames(self.document.tenant.name, tuple(sorted(self.document.own_hostnames)))


class _SignedParts(msgspec.Struct, frozen=True, kw_only=True):
    """The envelope's parts that its hash covers, the document as it was written."""

    kind: Kind
    owner: Owner
    hash: str
    document: msgspec.Raw = msgspec.Raw(b"")
    tombstone: str = ""
    held: TenantHostnames | None = None


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int


_decode_version = msgspec.json.Decoder(_Version).decode
_decode_signed_parts = msgspec.json.Decoder(_SignedParts).decode
_decode_envelope = msgspec.json.Decoder(Envelope).decode


def _kind_of(document: Document) -> Kind:
    return "Listener" if isinstance(document, documents.ListenerDocument) else "Destination"


def envelope_of(
    document: Document, owner_uid: str, key: bytes, *, install: str = "", namespace_uid: str = ""
) -> Envelope:
    """Return a document's envelope. ``key``: ``Keys.document``; ``install``, ``namespace_uid``: see Owner."""
    kind, owner = _kind_of(document), Owner(document.namespace, document.name, owner_uid, install, namespace_uid)
    return Envelope(
        schema_version=SCHEMA_VERSION,
        kind=kind,
        owner=owner,
        generation=document.generation,
        hash=_hash(kind, owner, msgspec.json.encode(document, order="sorted"), key),
        document=document,
    )


def tombstone_of(
    kind: Kind, owner: Owner, generation: int, removed_at: str, key: bytes, *, held: TenantHostnames | None = None
) -> Envelope:
    """Return a document's tombstone. ``removed_at``: RFC 3339; ``key``: ``Keys.document``."""
    return Envelope(
        schema_version=SCHEMA_VERSION,
        kind=kind,
        owner=owner,
        generation=generation,
        hash=_hash(kind, owner, _tombstone_content(removed_at, held), key),
        tombstone=removed_at,
        held=held,
    )


def encode(envelope: Envelope) -> bytes:
    """Return the bytes of ``config.json``. Equal envelopes give equal bytes.

    Raises:
        DocumentTooLargeError: It does not fit into a Secret.
    """
    content = msgspec.json.encode(envelope, order="sorted")
    if len(content) > MAX_BYTES:
        raise model.DocumentTooLargeError(
            f"the document has {len(content)} bytes, a Secret holds at most {MAX_BYTES}",
            "shorten expressions and headers, or spread the routes over several listeners",
        )
    return content


def secret_data(envelope: Envelope) -> dict[str, str]:
    """Return the config Secret's ``data``.

    Raises:
        DocumentTooLargeError: It does not fit into a Secret.
    """
    return {DATA_KEY: base64.b64encode(encode(envelope)).decode("ascii")}


def envelope_bytes(data: Mapping[str, str]) -> int:
    """Return the size of the envelope in a config Secret's ``data``, to within two bytes."""
    return len(data[DATA_KEY]) * 3 // 4


def decode_data(data: Mapping[str, str] | None, key: bytes, *, known_part: bool = False) -> Envelope:
    """Return the envelope in a Secret's ``data``. The other parameters: see decode().

    Raises:
        DocumentUnreadableError: The envelope is missing or malformed.
        DocumentTooNewError: A later release wrote it.
        DocumentHashError: It was written with another install key.
    """
    text = (data or {}).get(DATA_KEY)
    if text is None:
        raise model.DocumentUnreadableError(f"the Secret has no `{DATA_KEY}`", _READ_HINT)
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise model.DocumentUnreadableError(f"`{DATA_KEY}` is not base64", _READ_HINT) from error
    return decode(content, key, known_part=known_part)


def decode(content: bytes, key: bytes, *, known_part: bool = False) -> Envelope:
    """Return the envelope in the bytes of ``config.json``. ``key``: ``Keys.document``.

    The hash covers the document as it was written, so that it still matches if a later release adds optional fields.
    With ``known_part``, these fields are left out; without, such a document is an error.

    Raises:
        DocumentUnreadableError: It does not have the right form.
        DocumentTooNewError: A later release wrote it.
        DocumentHashError: It was written with another install key.
    """
    version = _decoded(_decode_version, content).schema_version
    if version > SCHEMA_VERSION:
        raise _too_new(f"the document has schema version {version}, this gateway knows {SCHEMA_VERSION}")
    parts = _decoded(_decode_signed_parts, content)
    document, tombstone = bytes(parts.document), parts.tombstone
    if bool(document) == bool(tombstone):
        raise model.DocumentUnreadableError("there must be either a `document` or a `tombstone`", _READ_HINT)
    digest = _hash(parts.kind, parts.owner, document or _tombstone_content(tombstone, parts.held), key)
    if not hmac.compare_digest(digest.encode(), parts.hash.encode()):
        raise model.DocumentHashError("the content does not match its hash", _KEY_HINT)
    try:
        envelope = _decode_envelope(content)
    except UnicodeDecodeError:
        raise model.DocumentUnreadableError(f"`{DATA_KEY}` is not UTF-8", _READ_HINT) from None
    except msgspec.ValidationError as error:  # the hash is right, so a later release of this install wrote it
        if not known_part:
            raise _too_new(f"the document has something that this gateway does not know{_place(error)}") from None
        envelope = _decoded(_decode_known_part, content)
    if envelope.document is None:
        return envelope
    return msgspec.structs.replace(envelope, held=None)  # the hash of a document does not cover it


def _too_new(message: str) -> model.DocumentTooNewError:
    return model.DocumentTooNewError(
        message, "update the gateways before the operator; until then the last good document is in force"
    )


def _decoded(decode: Callable[[bytes], _Decoded], content: bytes) -> _Decoded:
    try:
        return decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message = f"`{DATA_KEY}` is not a valid envelope{_place(error)}"
        raise model.DocumentUnreadableError(message, _READ_HINT) from None


def _place(error: Exception) -> str:
    """Return the place that an error names. The rest of msgspec's message may quote a secret."""
    _, _, path = str(error).partition(" - at `")
    return f" at `{path.rstrip('`')}`" if path else ""


def _decode_known_part(content: bytes) -> Envelope:
    """Decode an envelope, and leave out what a later release added to its document."""
    known = _known_part(msgspec.json.decode(content), msgspec.inspect.type_info(Envelope))
    return msgspec.convert(known, Envelope)


def _known_part(value: Any, described: msgspec.inspect.Type) -> Any:
    match described, value:
        case msgspec.inspect.UnionType(types=alternatives), dict():
            structs = [entry for entry in alternatives if isinstance(entry, msgspec.inspect.StructType)]
            chosen = [struct for struct in structs if struct.tag is None or struct.tag == value.get(struct.tag_field)]
            return _known_part(value, chosen[0]) if chosen else value
        case msgspec.inspect.StructType(fields=fields, tag_field=tag_field), dict():
            types = {field.encode_name: field.type for field in fields}
            return {
                name: _known_part(part, types[name]) if name in types else part
                for name, part in value.items()
                if name in types or name == tag_field
            }
        case msgspec.inspect.VarTupleType(item_type=item), list():
            return [_known_part(part, item) for part in value]
    return value


def _hash(kind: Kind, owner: Owner, content: bytes, key: bytes) -> str:
    parts = (kind, owner.namespace, owner.name, owner.uid, owner.install, owner.namespace_uid, "")
    return hashlib.blake2b("\0".join(parts).encode() + content, key=key, digest_size=16).hexdigest()


def _tombstone_content(removed_at: str, hostnames: TenantHostnames | None) -> bytes:
    """The content of a tombstone for its hash. That of a document begins with a brace."""
    of_tenant = (hostnames.tenant, *hostnames.hostnames) if hostnames else ()
    return "\0".join(("tombstone", removed_at, *of_tenant)).encode()


def secret_name(kind: str, owner_key: str) -> str:
    """Return the name of the config Secret for a ``namespace/name``, which is always the same."""
    return f"{kind.lower()}-{hashlib.sha256(owner_key.encode()).hexdigest()[:32]}"


_MARK_PREFIX = "published-"


def mark_name(install: str) -> str:
    """Return the name of the Secret that says that an install has published everything once. ``install``: see Owner."""
    return f"{_MARK_PREFIX}{hashlib.sha256(install.encode()).hexdigest()[:32]}"


def is_mark(name: str) -> bool:
    """Return whether a config Secret holds no document but says that everything was published once."""
    return name.startswith(_MARK_PREFIX)


def secret_type(kind: Kind) -> str:
    """Return a config Secret's type."""
    return f"usher.dev/{kind.lower()}-config"


def labels(controller_name: str, owner_uid: str) -> dict[str, str]:
    """Return a config Secret's labels."""
    return {
        CONFIG_LABEL: "true",
        MANAGED_LABEL: "true",
        INSTALL_LABEL: install_label(controller_name),
        OWNER_UID_LABEL: owner_uid,
    }


def install_label(controller_name: str) -> str:
    """Return a controllerName as a label value: ``usher.dev/usher`` becomes ``usher.dev_usher``.

    A name that does not fit is shortened, with a hash that keeps it unique.
    """
    text = controller_name.replace("/", "_")
    if _LABEL.fullmatch(text):
        return text
    start = re.sub(r"[^-A-Za-z0-9_.]", "-", text)[:40].strip("-_.")
    return f"{start or 'x'}-{hashlib.sha256(controller_name.encode()).hexdigest()[:16]}"
