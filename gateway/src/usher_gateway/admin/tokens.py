"""The two bearer tokens of the admin port: created once, never overwritten, compared in constant time."""

import enum
import hashlib
import hmac
import secrets
from pathlib import Path

import msgspec

from usher_gateway import model
from usher_gateway.config.install_key import create_file

OBSERVE_FILE = "observe.token"
"""File in ``--data``: the token for reading."""

OPERATE_FILE = "operate.token"
"""File in ``--data``: the token for showing bodies and for changes."""

_MIN_LENGTH = 16
_HINT = "put a long random text into it, or delete the file: the next start creates a new one"


class Role(enum.IntEnum):
    """The rights of a caller. Each role includes the roles below it."""

    Anybody = 0
    Observe = 1
    """Read configuration, usage and listings."""
    Operate = 2
    """Read bodies, and change rows."""


class Tokens(msgspec.Struct, frozen=True):
    """The tokens in force."""

    observe: str
    operate: str

    def role_of(self, authorization: str) -> Role:
        """Return the role that an Authorization header proves. It takes the same time for every header."""
        scheme, _, given = authorization.partition(" ")
        digest = _digest(given.strip())
        may_observe = hmac.compare_digest(digest, _digest(self.observe))
        may_operate = hmac.compare_digest(digest, _digest(self.operate))
        if scheme.lower() != "bearer":
            return Role.Anybody
        return Role.Operate if may_operate else Role.Observe if may_observe else Role.Anybody


def _digest(token: str) -> bytes:
    """Return a digest, because comparing tokens of different lengths would reveal the length."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def load_or_create(data: Path) -> Tokens:
    """Load the tokens in a data folder, and create missing ones, readable by the owner only.

    Raises:
        ConfigurationError: a token file cannot be read or written, or is too short to protect anything.
    """
    return Tokens(_load_or_create(data / OBSERVE_FILE), _load_or_create(data / OPERATE_FILE))


def load_both(folder: Path) -> Tokens:
    """Load the tokens in a folder that Usher does not write, such as a mounted Secret.

    Raises:
        ConfigurationError: a token is missing or cannot be used.
    """
    return Tokens(load(folder / OBSERVE_FILE), load(folder / OPERATE_FILE))


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
    if not path.exists():
        try:
            create_file(path, f"{secrets.token_urlsafe(32)}\n".encode())
        except OSError as error:
            raise model.ConfigurationError(
                f"cannot write {path}: {error.strerror}", "check the rights on the data folder"
            ) from error
    return load(path)
