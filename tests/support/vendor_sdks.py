"""The SDKs of vendors: each makes its own request, with which the request of a recipe is compared.

``python -m support.vendor_sdks`` installs them into the cache, so that no test waits for that. They stay apart from the
project's environment, because they pin old versions of common packages.
"""

import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import msgspec

from local_cluster import cache
from support.event_sdks import PrepareError, prepare

_PINNED = Path(__file__).parents[2] / "requirements" / "vendors.txt"
_CALLS = Path(__file__).parent / "sdks" / "vendors" / "calls.py"
_CALL_SECONDS = 60

# An answer that all SDKs take for a success.
_ANSWER = {
    "access_token": "t",
    "expires_in": 3600,
    "status": "COMPLETE",
    "results": [],
    "startedAt": "2026-01-01T00:00:00Z",
    "completedAt": "2026-01-01T00:00:00Z",
    "id": 1,
}


class SentRequest(msgspec.Struct, frozen=True):
    """What an SDK sent."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


def packages() -> Path:
    """Return the folder with the SDKs; install them if the cache has none of these versions."""
    entry = cache.folder() / "vendor-sdks" / cache.key(_PINNED)
    with cache.locked(entry):
        if not entry.exists():
            draft = entry.with_name(f"{entry.name}.new")
            shutil.rmtree(draft, ignore_errors=True)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--require-hashes", "--target", str(draft), "--requirement", str(_PINNED)]
            prepare("the SDKs of vendors", command, _PINNED.parent)
            draft.rename(entry)
    return entry


def sent_by(vendor: str, given: str = "") -> SentRequest:
    """Let an SDK make its call to a local server; return the request. ``given`` goes to the call's standard input."""
    with _Recorder() as recorder:
        done = subprocess.run(
            [sys.executable, str(_CALLS), vendor, recorder.url],
            input=given,
            env={**os.environ, "PYTHONPATH": str(packages())},
            capture_output=True,
            text=True,
            check=False,
            timeout=_CALL_SECONDS,
        )
    assert recorder.requests, done.stderr[-2000:]  # an SDK may fail to read the answer, which is not the vendor's
    return recorder.requests[0]


class _Recorder:
    """A local server that keeps what it gets."""

    def __init__(self) -> None:
        self.requests: list[SentRequest] = []
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                recorder.requests.append(SentRequest(self.command, self.path, headers, body))
                text = msgspec.json.encode(_ANSWER)
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_POST = do_PUT = do_PATCH = answer  # noqa: N815 - names of the library

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - inherited
                """Print nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def main() -> int:
    try:
        packages()
    except PrepareError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
