"""Measures for how long a URL is not served, by a request after the other."""

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from support import tls_endpoint


class GapMeter:
    """Asks a URL without a pause for the duration of a ``with`` block."""

    def __init__(self, url: str, authority: Path) -> None:
        address = urlsplit(url)
        self._hostname, self._path, self._authority = address.hostname or "", address.path, authority
        self._thread, self._stop = threading.Thread(target=self._run), threading.Event()
        self.longest_seconds = 0.0  # The longest time between two good answers with a bad one in between
        self.slowest_seconds = 0.0  # The longest time that a good answer took

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        good_at, failed = time.monotonic(), False
        while not self._stop.is_set():
            asked_at = time.monotonic()
            if not tls_endpoint.serves(self._hostname, self._path, self._authority):
                failed = True
                continue
            now = time.monotonic()
            self.slowest_seconds = max(self.slowest_seconds, now - asked_at)
            if failed:
                self.longest_seconds = max(self.longest_seconds, now - good_at)
            good_at, failed = now, False
