"""The admin port's bearer tokens: two that the gateway creates, and more that people create in ``tokens.json``.

A token has scopes, which say what its caller may do, and may be limited to some tenants. Tokens are compared in
constant time. ``tokens.json`` has digests and not the tokens; the gateway reads it again when it changes.
"""

import datetime
import enum
import fcntl
import hashlib
import hmac
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from usher_gateway import model

if TYPE_CHECKING:
    from usher_gateway.access.seal import Seals  # late, because commands load tokens without cryptography

_log = structlog.get_logger(__name__)

OBSERVE_FILE = "observe.token"  # File in `--data`: the token for reading
OPERATE_FILE = "operate.token"  # File in `--data`: the token for showing bodies and for changes

_MIN_LENGTH = 16
_HINT = "put a long random text into it, or delete the file: the next start creates a new one"


TOKENS_FILE = "tokens.json"  # File in `--data` or in the folder of `--admin-tokens`: more tokens, as `TokenEntry` each
OBSERVE = "observe"  # The name of the token in `OBSERVE_FILE`

_OPERATE = "operate"
_RESERVED = frozenset({OBSERVE, _OPERATE})
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_CHECK_SECONDS = 1.0  # How often the file is looked at


class Scope(enum.StrEnum):
    """Something that a caller may do."""

    StatusRead = "status:read"
    """See configuration, listeners, tenants and usage."""
    UrlsRead = "urls:read"
    """See listeners' whole URLs: credentials with which anybody can post visits."""
    VisitsRead = "visits:read"
    """See visits, deliveries, destinations, quarantine and replays, without bodies."""
    VisitsTry = "visits:try"
    """Try changed manifests on stored visits: the caller's expressions read bodies, and counts tell what they found."""
    VisitsInitials = "visits:initials"
    """See visitors' initials in the newest visits."""
    BodiesRead = "bodies:read"
    """See bodies and answers: personal data."""
    PersonsFind = "persons:find"
    PersonsExport = "persons:export"
    """Get all that is stored about a person, bodies too."""
    PersonsErase = "persons:erase"
    """Erase, suppress or unsuppress a person, and see erasures."""
    DeliveriesWrite = "deliveries:write"
    """Redrive, cancel, retry, release, replay, and send samples."""
    AuditRead = "audit:read"
    LinksWrite = "links:write"
    """Create, see and revoke links for customers, also links that show initials."""


OBSERVE_SCOPES = frozenset({Scope.StatusRead, Scope.VisitsRead})

# Scopes that are useless to a token with a limit, because each such request is about all tenants.
UNLIMITED_SCOPES = frozenset({Scope.AuditRead})


class Caller(msgspec.Struct, frozen=True):
    """A request's caller, with its token's rights."""

    name: str
    scopes: frozenset[Scope]
    permitted: frozenset[str] | None = None
    """``Filter.permitted``."""
    has_unknown_scopes: bool = False
    """True for a Kubernetes token: ``scopes`` and ``permitted`` are about the request's scope alone."""
    is_link: bool = False
    """True for a customer with a link."""

    @property
    def tenants(self) -> str:
        """A limited token's tenants; ``""`` for others.

        Callers with the same tenants share limits, because there may be any number of service accounts.
        """
        return " ".join(sorted(self.permitted or ()))


_SEALED = "usher_sealed."
_CALLER = "caller"
_CALLER_SECONDS = 60.0


def seal_caller(seals: "Seals", caller: Caller) -> str:
    """Return a token, valid for a minute, with which the pages ask the API for somebody who has no token."""
    return _SEALED + seals.seal(_CALLER, msgspec.json.encode(caller).decode(), _CALLER_SECONDS)


class TokenEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """One token in ``tokens.json``."""

    name: str
    digest: str
    """The token's SHA-256, in hex."""
    scopes: tuple[Scope, ...]
    namespaces: tuple[str, ...] | None = None
    """The token is limited to these namespaces' tenants, and to ``tenants``; with None in both it sees all."""
    tenants: tuple[str, ...] | None = None
    """``namespace/name``."""
    expires_at: str | None = None
    """RFC 3339."""
    created_at: str | None = None

    @property
    def caller(self) -> Caller:
        """The caller that the token proves."""
        if self.namespaces is None and self.tenants is None:
            return Caller(self.name, frozenset(self.scopes))
        permitted = [*[f"{namespace}/*" for namespace in self.namespaces or ()], *(self.tenants or ())]
        return Caller(self.name, frozenset(self.scopes), frozenset(permitted))

    def is_expired(self, now: datetime.datetime) -> bool:
        """True if the token has expired."""
        return self.expires_at is not None and now >= datetime.datetime.fromisoformat(self.expires_at)


class Tokens(msgspec.Struct, frozen=True):
    """The two tokens that the gateway creates."""

    observe: str
    operate: str


class TokenBook:
    """Finds a request's caller.

    Args:
        folder: where ``tokens.json`` is, if there are more tokens.
        tokens: the two that always exist.
        seals: opens what `seal_caller` made; None: such tokens are not valid.

    Raises:
        ConfigurationError: ``tokens.json`` cannot be used.
    """

    def __init__(self, folder: Path, tokens: Tokens, seals: "Seals | None" = None) -> None:
        self._file, self._seals = folder / TOKENS_FILE, seals
        self._callers = {
            digest_of(tokens.observe): Caller(OBSERVE, OBSERVE_SCOPES),
            digest_of(tokens.operate): Caller(_OPERATE, frozenset(Scope)),
        }
        self._entries: dict[bytes, TokenEntry] = {}
        self._version: tuple[int, ...] | None = None
        self._checked_at = -math.inf
        self._read()

    def caller_of(self, authorization: str) -> Caller | None:
        """Return the caller that an Authorization header proves, or None; compares digests in constant time."""
        self._reread()
        scheme, _, credentials = authorization.partition(" ")
        digest = digest_of(credentials.strip())
        proven: Caller | TokenEntry | None = None
        holders: dict[bytes, Caller | TokenEntry] = {**self._callers, **self._entries}
        for valid_digest, holder in holders.items():
            if hmac.compare_digest(digest, valid_digest):
                proven = holder
        if scheme.lower() != "bearer":
            return None
        if proven is None and self._seals is not None and credentials.startswith(_SEALED):
            content = self._seals.open(_CALLER, credentials.removeprefix(_SEALED))
            return None if content is None else msgspec.json.decode(content, type=Caller)
        if isinstance(proven, TokenEntry):
            return None if proven.is_expired(datetime.datetime.now(datetime.UTC)) else proven.caller
        return proven

    def _reread(self) -> None:
        """Read the file again if it has changed. A file that cannot be used changes nothing."""
        if time.monotonic() - self._checked_at < _CHECK_SECONDS:
            return
        previous_entries = set(self._entries.values())
        try:
            self._read()
        except model.ConfigurationError as error:
            _log.error("tokens_rejected", reason=str(error), hint=error.hint)
        current_entries = set(self._entries.values())
        if current_entries != previous_entries:
            added, removed = [
                sorted(entry.name for entry in entries)
                for entries in (current_entries - previous_entries, previous_entries - current_entries)
            ]
            _log.info("tokens_changed", added=added, removed=removed)

    def _read(self) -> None:
        self._checked_at = time.monotonic()
        version = _version_of(self._file)
        if version != self._version:
            try:
                entries = read_entries(self._file)
            except model.ConfigurationError as error:
                if not isinstance(error.__cause__, OSError):  # that may end without a change of the file
                    self._version = version
                raise
            self._entries = {bytes.fromhex(entry.digest): entry for entry in entries}
            self._version = version


def _version_of(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def read_entries(file: Path) -> list[TokenEntry]:
    """Return the tokens in ``tokens.json``; none if it does not exist.

    Raises:
        ConfigurationError: the file cannot be read, or an entry is not valid.
    """
    hint = "`usher tokens` writes this file; mend it, or delete it and create the tokens again"
    try:
        entries = msgspec.json.decode(file.read_bytes(), type=list[TokenEntry])
    except FileNotFoundError:
        return []
    except OSError as error:
        raise model.ConfigurationError(f"cannot read {file}: {error.strerror}", hint) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise model.ConfigurationError(f"{file} is not a list of tokens: {error}", hint) from error
    for number, entry in enumerate(entries):
        check_entry(entry, entries[:number])
    return entries


def check_entry(entry: TokenEntry, others: Collection[TokenEntry]) -> None:
    """Check a token beside the other ones.

    Raises:
        ConfigurationError: it is not valid.
    """
    problem = ""
    if not _NAME.fullmatch(entry.name):
        problem = "a name has up to 63 lower-case letters, digits and hyphens"
    elif entry.name in _RESERVED or entry.name in {other.name for other in others}:
        problem = f"the name {entry.name} is taken"
    elif not re.fullmatch("[0-9a-f]{64}", entry.digest):
        problem = f"the digest of {entry.name} is not SHA-256 in hex"
    elif entry.digest in {other.digest for other in others}:
        problem = f"{entry.name} has the digest of another token"
    elif () in (entry.namespaces, entry.tenants) or "" in (entry.namespaces or ()):
        problem = f"the limit of {entry.name} is empty: name a tenant or a namespace"
    elif not entry.scopes:
        problem = f"the token {entry.name} has no scope"
    elif any(tenant.count("/") != 1 or not all(tenant.split("/")) for tenant in entry.tenants or ()):
        problem = f"the tenants of {entry.name} must be NAMESPACE/NAME"
    elif entry.expires_at is not None:
        try:
            is_valid = datetime.datetime.fromisoformat(entry.expires_at).tzinfo is not None
        except ValueError:
            is_valid = False
        problem = "" if is_valid else f"expiresAt of {entry.name} is not a time with an offset (RFC 3339)"
    if problem:
        raise model.ConfigurationError(problem, "see `usher tokens create --help`")


def change_entries(file: Path, change: Callable[[list[TokenEntry]], Sequence[TokenEntry]]) -> None:
    """Replace ``tokens.json``, readable by its owner only; it is durable afterwards. Changes wait for each other.

    A new file belongs to its folder's owner, so that the gateway can read what root wrote.

    Args:
        file: the file.
        change: returns the new tokens, given the present ones.

    Raises:
        ConfigurationError: the file cannot be read or written.
    """
    draft = file.with_name(f".{file.name}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # until the folder is closed
            entries = change(read_entries(file))
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as opened:
                if os.geteuid() == 0:
                    owner = file.parent.stat()
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
                opened.write(msgspec.json.format(msgspec.json.encode(entries)) + b"\n")
                opened.flush()
                os.fsync(descriptor)
            draft.replace(file)
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise model.ConfigurationError(
            f"cannot write {file}: {error.strerror}", "check the rights on the folder"
        ) from error


def new_token() -> tuple[str, str]:
    """Return a new token with 256 random bits, and its digest in hex."""
    token = f"usher_{secrets.token_urlsafe(32)}"
    return token, digest_of(token).hex()


def digest_of(token: str) -> bytes:
    """Return a token's digest: the store has only this, and comparing tokens would reveal their lengths."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def load_book(data: Path, folder: Path | None, seals: "Seals") -> TokenBook:
    """Return the tokens from a folder that Usher does not write, or else from the data folder.

    Raises:
        ConfigurationError: a token is missing or cannot be used.
    """
    if folder is None:
        return TokenBook(data, load_or_create(data), seals)
    return TokenBook(folder, Tokens(load(folder / OBSERVE_FILE), load(folder / OPERATE_FILE)), seals)


def load_or_create(data: Path) -> Tokens:
    """Load the tokens in a data folder, and create missing ones, readable by the owner only.

    Raises:
        ConfigurationError: a token file cannot be read or written, or is too short to protect anything.
    """
    return Tokens(_load_or_create(data / OBSERVE_FILE), _load_or_create(data / OPERATE_FILE))


def load(path: Path) -> str:
    """Load the token in a file.

    Raises:
        ConfigurationError: the file has no usable token.
    """
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not ASCII"
        raise model.ConfigurationError(
            f"cannot read the token in {path}: {reason}",
            "see --admin-tokens, or else --data: the folder that the gateway runs on",
        ) from error
    if len(token) < _MIN_LENGTH:
        raise model.ConfigurationError(f"the token in {path} has less than {_MIN_LENGTH} characters", _HINT)
    return token


def _load_or_create(path: Path) -> str:
    from usher_gateway.config.install_key import write_file  # late, because commands only load tokens

    if not path.exists():
        try:
            write_file(path, f"{secrets.token_urlsafe(32)}\n".encode(), may_replace=False)
        except OSError as error:
            raise model.ConfigurationError(
                f"cannot write {path}: {error.strerror}", "check the rights on the data folder"
            ) from error
    return load(path)
