"""Reads or creates the install key.

URL tokens and digests are derived from the key, so it is created once and never overwritten.
"""

import base64
import binascii
import contextlib
import os
import pathlib
import secrets
from collections.abc import Mapping

from usher_gateway import model
from usher_gateway.store.sqlite import database

FILE_NAME = "install.key"  # File inside `--data`: base64 on one line, readable by the owner only
VARIABLE = "USHER_INSTALL_KEY"  # Environment variable that overrides the file, also in base64


def load_install_key(data: pathlib.Path, environ: Mapping[str, str], *, may_create: bool = True) -> bytes:
    """Return the install key from the environment, else from ``data``.

    If it does not exist, it is created there, unless ``may_create`` is False.

    Raises:
        ConfigurationError: The key does not exist, or it is not valid.
    """
    encoded_key = environ.get(VARIABLE, "")
    if encoded_key:
        return _decode(encoded_key, f"${VARIABLE}")
    path = data / FILE_NAME
    try:
        if not path.exists():
            if not may_create:
                raise model.ConfigurationError(f"there is no install key in {data}", _MISSING_HINT)
            key = secrets.token_bytes(model.keys.INSTALL_KEY_BYTES)
            write_file(path, base64.b64encode(key) + b"\n", may_replace=False)
        return _decode(path.read_text("ascii"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        hint = f"check the permissions of {data}" if data.is_dir() else f"give --data a folder: {data} is not one"
        raise model.ConfigurationError(f"cannot read the install key {path}: {reason}", hint) from error


def check_dependents(data: pathlib.Path, environ: Mapping[str, str], *, from_cluster: bool) -> None:
    """Refuse to create a new install key where a store or an operator already depends on another one.

    Raises:
        InstallKeyError: there is a store, but its key is missing.
        ConfigurationError: the configuration comes from a cluster, but the operator's key is missing.
    """
    path = data / FILE_NAME
    if environ.get(VARIABLE) or path.exists():
        return
    if from_cluster:
        raise model.ConfigurationError(
            "a gateway with --from-cluster needs the operator's install key",
            f"Set {VARIABLE} from the entry {FILE_NAME} of the Secret usher-install-key.",
        )
    if (data / database.FILE_NAME).exists():
        raise model.InstallKeyError(
            f"there is a store in {data}, but not its install key {path}",
            f"Put {FILE_NAME} back, or set {VARIABLE}: URLs and keyed hashes depend on it.",
        )


def _decode(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise model.ConfigurationError(f"the install key in {where} is not base64", _HINT) from error
    if len(key) < model.keys.INSTALL_KEY_BYTES:
        raise model.ConfigurationError(f"the install key in {where} is shorter than 32 bytes", _HINT)
    return key


_HINT = (
    "create one with: openssl rand -base64 32; restore the old key if there was one, because every URL depends on it"
)


_MISSING_HINT = (
    "start `usher run` first, which creates it in its --data folder; give that folder, or set USHER_INSTALL_KEY;"
    " `usher url --new-key` creates a key too, and with it new URLs"
)


def write_file(path: pathlib.Path, content: bytes, *, may_replace: bool) -> None:
    """Write a file with a secret, readable by the owner only: completely and durably, or not at all.

    An existing file stays as it is unless ``may_replace``.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if may_replace:
            draft.replace(path)
        else:
            with contextlib.suppress(FileExistsError):  # another process was first, so its file counts
                os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
