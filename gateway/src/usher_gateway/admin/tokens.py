"""The two bearer tokens of the admin port: made once, never overwritten, compared in constant time."""

import contextlib
import enum
import hashlib
import hmac
import os
import secrets
from pathlib import Path

import msgspec

from usher_gateway import model

OBSERVE_FILE = "observe.token"
"""Inside ``--data``: the token of those who look."""

OPERATE_FILE = "operate.token"
"""Inside ``--data``: the token of those who see bodies and change something."""

_SHORTEST = 16
_HINT = "put a long random text into it, or delete the file: a new one is made at the next start"


class Role(enum.IntEnum):
    """What somebody may do; each includes those below it."""

    Anybody = 0
    Observe = 1
    """Look at configuration, usage and listings."""
    Operate = 2
    """See bodies, and change something."""


class Tokens(msgspec.Struct, frozen=True):
    """The tokens in force."""

    observe: str
    operate: str

    def role_of(self, authorization: str) -> Role:
        """The role that an Authorization header proves. Takes the same time whatever it says."""
        scheme, _, given = authorization.partition(" ")
        digest = _digest(given.strip())
        may_observe = hmac.compare_digest(digest, _digest(self.observe))
        may_operate = hmac.compare_digest(digest, _digest(self.operate))
        if scheme.lower() != "bearer":
            return Role.Anybody
        return Role.Operate if may_operate else Role.Observe if may_observe else Role.Anybody


def _digest(token: str) -> bytes:
    """All of one length: comparing tokens of different lengths would tell theirs."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def load_or_create(data: Path) -> Tokens:
    """The tokens in a data folder; those that are missing are made, readable by the owner only.

    Raises:
        ConfigurationError: a token file cannot be read or written, or is too short to protect anything.
    """
    return Tokens(_load_or_create(data / OBSERVE_FILE), _load_or_create(data / OPERATE_FILE))


def load_both(folder: Path) -> Tokens:
    """The tokens in a folder that somebody else fills, such as a mounted Secret.

    Raises:
        ConfigurationError: a token is missing, or cannot be used.
    """
    return Tokens(load(folder / OBSERVE_FILE), load(folder / OPERATE_FILE))


def load(path: Path) -> str:
    """The token in a file.

    Raises:
        ConfigurationError: there is none that can be used.
    """
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not ASCII"
        raise model.ConfigurationError(
            f"cannot read the token in {path}: {reason}",
            "see --admin-tokens, or else --data: the folder that the gateway runs on",
        ) from error
    if len(token) < _SHORTEST:
        raise model.ConfigurationError(f"the token in {path} has less than {_SHORTEST} characters", _HINT)
    return token


def _load_or_create(path: Path) -> str:
    if not path.exists():
        try:
            _create(path)
        except OSError as error:
            raise model.ConfigurationError(
                f"cannot write {path}: {error.strerror}", "check the rights on the data folder"
            ) from error
    return load(path)


def _create(path: Path) -> None:
    """Make a token: complete before it has its name, and never over one that is there."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        with contextlib.suppress(FileExistsError):  # another process was first: its token counts
            os.link(draft, path)
    finally:
        draft.unlink()
