"""What is built once and kept outside the checkout, so that only the first run pays."""

import contextlib
import fcntl
import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path


def folder() -> Path:
    """Usher's folder in the user's cache (XDG)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "usher"


def key(*sources: Path) -> str:
    """A name for what is made of these files on a machine like this one."""
    digest = hashlib.sha256(f"{platform.system()} {platform.machine()}".encode())
    for source in sources:
        content = source.read_bytes()
        digest.update(f"\n{source.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(entry: Path) -> Iterator[None]:
    """Only one process at a time makes an entry; the others wait for it."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with entry.with_name(f"{entry.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
