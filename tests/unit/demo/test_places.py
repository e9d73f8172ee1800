"""Where the programs of a day listen."""

import socket
from pathlib import Path

import pytest

from demo import places
from local_cluster import ports
from usher_gateway import model


def two_neighbours() -> int:
    """Return a free port whose next one is free too."""
    while True:
        port = ports.free()
        try:
            socket.create_server(("127.0.0.1", port + 1)).close()
        except OSError:
            continue
        return port


def test_free_usual_port_is_taken_without_a_word() -> None:
    said: list[str] = []
    usual = ports.free()
    assert places.Ports(said.append).endpoint("--listen", None, usual, "public port") == f"127.0.0.1:{usual}"
    assert said == []


def test_next_free_port_replaces_a_taken_one_and_is_named() -> None:
    said: list[str] = []
    usual = two_neighbours()
    with socket.create_server(("127.0.0.1", usual)):
        endpoint = places.Ports(said.append).endpoint("--listen", None, usual, "public port")
    assert endpoint == f"127.0.0.1:{usual + 1}"
    assert said == [f"Port {usual} is taken, so the public port is at 127.0.0.1:{usual + 1}."]


def test_two_programs_get_different_ports() -> None:
    usual = two_neighbours()
    chosen = places.Ports(lambda _: None)
    given = chosen.endpoint("--listen", f"127.0.0.1:{usual}", 8080, "public port")
    assert [given, chosen.endpoint("--admin", None, usual, "admin port")] == [
        f"127.0.0.1:{usual}",
        f"127.0.0.1:{usual + 1}",
    ]


def test_given_port_that_is_taken_is_an_error_with_its_flag() -> None:
    port = ports.free()
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(model.ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}") as raised,
    ):
        places.Ports(lambda _: None).endpoint("--admin", f"127.0.0.1:{port}", 9090, "admin port")
    assert "--admin" in raised.value.hint


def test_manifests_get_the_free_port_in_every_url_of_a_receiver(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    usual = two_neighbours()
    text = "a: http://127.0.0.1:{0}/crm\nb: http://127.0.0.1:{0}/crm\nc: https://crm.example/crm\n"
    (source / "hotels.yaml").write_text(text.format(usual))
    with socket.create_server(("127.0.0.1", usual)):
        folder = places.Ports(lambda _: None).manifests(source, tmp_path / "copy")
    assert (folder / "hotels.yaml").read_text() == text.format(usual + 1)
