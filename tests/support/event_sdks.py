"""The CloudEvents SDKs of PyPI, Go and npm: each reads an event from the bytes of an HTTP request.

``python -m support.event_sdks`` prepares the readers of Go and npm, so that no test waits for a build.
"""

import base64
import datetime
import http.client
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from cloudevents.core.bindings import http as http_binding
from cloudevents.v1 import http as http_binding_v1

from local_cluster import cache, toolchain

SOURCES = Path(__file__).parent / "sdks"
NODE, NPM = shutil.which("node"), shutil.which("npm")
_PREPARE_SECONDS = 600
_READ_SECONDS = 30


class ReadEvent(msgspec.Struct, frozen=True):
    """An event as a SDK read it. Data that is not JSON is in ``data_base64``."""

    attributes: dict[str, Any]
    data: Any = None
    data_base64: str = ""

    @property
    def time(self) -> datetime.datetime:
        """The time, which the SDKs print in different forms."""
        return datetime.datetime.fromisoformat(self.attributes["time"])


class PrepareError(Exception):
    """A reader could not be built or installed; the message ends with the tool's output."""


def python(request: bytes) -> ReadEvent:
    """Read with PyPI's ``cloudevents``."""
    event = http_binding.from_http_event(http_binding.HTTPMessage(*_split(request)))
    attributes = event.get_attributes()
    return _read_event(attributes | {"time": attributes["time"].isoformat()}, event.get_data())


def python_v1(request: bytes) -> ReadEvent:
    """Read with the interface of version 1 of PyPI's ``cloudevents``, which most receivers still use."""
    event = http_binding_v1.from_http(*_split(request))
    return _read_event(dict(event.get_attributes()), event.get_data())


def go(request: bytes) -> ReadEvent:
    """Read with Go's ``github.com/cloudevents/sdk-go/v2``."""
    return _run([str(go_reader())], request)


def node(request: bytes) -> ReadEvent:
    """Read with npm's ``cloudevents``."""
    return _run([str(NODE), str(node_reader())], request)


READERS: dict[str, Callable[[bytes], ReadEvent]] = {"python": python, "python_v1": python_v1, "go": go, "node": node}


def go_reader() -> Path:
    """Return the program with Go's SDK; build it if the cache has none of these sources."""
    module = SOURCES / "go"
    files = [module / name for name in ("go.mod", "go.sum", "main.go")]
    entry = cache.folder() / "event-readers" / f"go-{cache.key(*files)}"
    with cache.locked(entry):
        if not entry.exists():
            draft = entry.with_name(f"{entry.name}.new")
            command = [toolchain.find(), "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", draft, "."]
            prepare("the reader with Go's CloudEvents SDK", command, module, toolchain.environment())
            draft.rename(entry)
    return entry


def node_reader() -> Path:
    """Return the script beside npm's SDK; install them if the cache has none of these sources."""
    return node_folder("npm's CloudEvents SDK", "event-readers/node", SOURCES / "node", "reader.js") / "reader.js"


def node_folder(what: str, name: str, sources: Path, *more: str) -> Path:
    """Return a folder of the cache with the packages that a ``package-lock.json`` pins; install them once.

    Args:
        what: the packages, for a message.
        name: of the folder.
        sources: the folder with ``package.json`` and ``package-lock.json``.
        more: names of files there that are copied beside the packages.
    """
    files = [sources / file for file in ("package.json", "package-lock.json", *more)]
    entry = cache.folder() / f"{name}-{cache.key(*files)}"
    with cache.locked(entry):
        if not entry.exists():
            draft = entry.with_name(f"{entry.name}.new")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            for file in files:
                shutil.copy(file, draft)
            # Scripts of packages are not needed, and run as the user who runs the tests.
            command = [str(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            prepare(what, command, draft)
            draft.rename(entry)
    return entry


def prepare(what: str, command: list[Any], folder: Path, environment: dict[str, str] | None = None) -> None:
    """Run a command that fills a part of the cache. Raises PrepareError."""
    print(f"Preparing {what} in the cache: once, under a minute on 2 cores ...", file=sys.stderr, flush=True)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=_PREPARE_SECONDS
    )
    if done.returncode != 0:
        raise PrepareError(f"could not prepare {what}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _run(command: list[str], request: bytes) -> ReadEvent:
    done = subprocess.run(command, input=request, capture_output=True, check=False, timeout=_READ_SECONDS)
    assert done.returncode == 0, f"the SDK refused the request: {done.stderr.decode(errors='replace')}"
    return msgspec.json.decode(done.stdout, type=ReadEvent)


def _split(request: bytes) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body, as a server gives them to a handler."""
    head, _, body = request.partition(b"\r\n\r\n")
    fields = head.partition(b"\r\n")[2]
    return dict(http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))), body


def _read_event(attributes: dict[str, Any], data: Any) -> ReadEvent:
    if isinstance(data, str | bytes):
        raw = data.encode() if isinstance(data, str) else data
        return ReadEvent(attributes, data_base64=base64.b64encode(raw).decode())
    return ReadEvent(attributes, data)


def main() -> int:
    """Prepare the readers that need preparation."""
    try:
        go_reader()
        if NODE and NPM:
            node_reader()
    except (PrepareError, toolchain.ToolchainError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
