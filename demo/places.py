"""Where the programs of a day listen: at their usual ports, or at the next free ones if another program has those."""

import re
import socket
from collections.abc import Callable
from pathlib import Path

from usher_gateway import settings

HOST = "127.0.0.1"
_TRIES = 100
_RECEIVER = re.compile(rf"(?<=http://{re.escape(HOST)}:)(\d+)(/\w+)")


class Ports:
    """Chooses the ports of a day.

    Args:
        say: Called with a sentence for each port that is not the usual one.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._chosen: set[int] = set()

    def endpoint(self, flag: str, given: str | None, usual: int, what: str) -> str:
        """Return HOST:PORT of a program: the given one, or the usual port, or the next free one.

        Raises:
            ConfigurationError: the given HOST:PORT is invalid, or another program uses it.
        """
        if given is None:
            return f"{HOST}:{self._near(usual, what)}"
        endpoint = settings.parse_endpoint(given)
        try:
            _open(endpoint.host, endpoint.port)
        except OSError as error:
            raise settings.cannot_listen(flag, endpoint, error) from error
        self._chosen.add(endpoint.port)
        return given

    def manifests(self, source: Path, folder: Path) -> Path:
        """Copy manifests into a new folder, with free ports in the URLs of receivers, and return the folder."""
        ports: dict[str, int] = {}

        def replace(url: re.Match[str]) -> str:
            if url[1] not in ports:
                ports[url[1]] = self._near(int(url[1]), f"receiver of {url[2]}")
            return f"{ports[url[1]]}{url[2]}"

        folder.mkdir()
        for file in sorted(source.glob("*.yaml")):
            (folder / file.name).write_text(_RECEIVER.sub(replace, file.read_text("utf-8")), "utf-8")
        return folder

    def _near(self, usual: int, what: str) -> int:
        for port in range(usual, usual + _TRIES):
            if port not in self._chosen and _is_free(port):
                self._chosen.add(port)
                if port != usual:
                    self._say(f"Port {usual} is taken, so the {what} is at {HOST}:{port}.")
                return port
        raise OSError(f"no port from {usual} to {usual + _TRIES - 1} is free")


def _is_free(port: int) -> bool:
    try:
        _open(HOST, port)
    except OSError:
        return False
    return True


def _open(host: str, port: int) -> None:
    """Listen for a moment.

    Raises:
        OSError: another program has the port, or this machine does not have the address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    socket.create_server((host, port), family=family).close()
