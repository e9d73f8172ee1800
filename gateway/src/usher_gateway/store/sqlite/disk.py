"""How much disk is left, and what may still be done with it (design §4, Low disk)."""

import os
from pathlib import Path

import msgspec


class Bounds(msgspec.Struct, frozen=True):
    """Free space under which work stops; 0 switches a bound off."""

    accept_above_free_bytes: int = 1024**3
    accept_above_free_ratio: float = 0.10
    attempts_above_free_bytes: int = 256 * 1024**2


class Disk:
    """Looks at the file system of a folder when asked to; between two looks the answer stands."""

    def __init__(self, folder: Path, bounds: Bounds) -> None:
        self._folder = folder
        self._bounds = bounds
        self.free_bytes = 0
        self.may_accept = True
        self.may_attempt = True

    def look(self) -> None:
        """Measure anew (one system call); an unreadable file system stops accepting."""
        bounds = self._bounds
        try:
            status = os.statvfs(self._folder)
        except OSError:
            self.may_accept = self.may_attempt = False
            return
        self.free_bytes = status.f_bavail * status.f_frsize
        size = status.f_blocks * status.f_frsize
        wanted = max(bounds.accept_above_free_bytes, int(size * bounds.accept_above_free_ratio))
        self.may_accept = self.free_bytes >= wanted
        self.may_attempt = self.free_bytes >= bounds.attempts_above_free_bytes
