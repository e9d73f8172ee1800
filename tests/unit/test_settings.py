import errno
from pathlib import Path

import msgspec
import pytest

from usher_gateway import model, settings

ENDPOINT = settings.Endpoint("127.0.0.1", 80)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("localhost:80", "localhost", 80), ("[::1]:8443", "::1", 8443), (":9000", "0.0.0.0", 9000), ("h:0", "h", 0)],
)
def test_endpoints_are_parsed(text: str, host: str, port: int) -> None:
    assert settings.parse_endpoint(text) == settings.Endpoint(host, port)


@pytest.mark.parametrize("text", ["", "localhost", "localhost:", "h:70000", "h:x", "[::1]"])
def test_invalid_endpoint_is_rejected(text: str) -> None:
    with pytest.raises(model.ConfigurationError, match="is not HOST:PORT"):
        settings.parse_endpoint(text)


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.EADDRINUSE, "another gateway"),
        (errno.EADDRNOTAVAIL, "address of this machine"),
        (errno.EACCES, "below 1024"),
        (errno.EINVAL, "another --listen"),
    ],
)
def test_unusable_port_has_a_hint(number: int, word: str) -> None:
    error = settings.cannot_listen("--listen", ENDPOINT, OSError(number, "as the loop says it"))
    assert "127.0.0.1:80" in str(error)
    assert word in error.hint
    assert "--listen" in error.hint


def test_invalid_proxy_network_is_refused_before_the_start() -> None:
    settings.check_settings(settings.Settings(files=(Path("usher.yaml"),), trusted_proxies=("10.0.0.1/8", "::1")))
    with pytest.raises(model.ConfigurationError, match="'banana' is not a CIDR"):
        settings.check_settings(
            settings.Settings(files=(Path("usher.yaml"),), trusted_proxies=("10.0.0.0/8", "banana"))
        )


def test_loopback_destinations_need_permission_behind_a_proxy() -> None:
    alone = settings.Settings(files=(Path("x.yaml"),))
    assert alone.has_loopback_exception
    assert not msgspec.structs.replace(alone, trusted_proxies=("127.0.0.1/32",)).has_loopback_exception
    assert not msgspec.structs.replace(alone, listen=settings.Endpoint("0.0.0.0", 80)).has_loopback_exception


def test_configuration_comes_from_files_or_from_a_cluster() -> None:
    settings.check_settings(settings.Settings(from_cluster=True))
    with pytest.raises(model.ConfigurationError, match="exclude") as caught:
        settings.check_settings(settings.Settings(from_cluster=True, files=(Path("usher.yaml"),)))
    assert caught.value.hint
    with pytest.raises(model.ConfigurationError, match="no configuration") as caught:
        settings.check_settings(settings.Settings())
    assert "--from-cluster" in caught.value.hint


@pytest.mark.parametrize("name", ["", "Usher", "a/b", "a b", "-a", "a-", "a" * 64, "..", "a?b"])
def test_invalid_namespace_is_refused(name: str) -> None:
    with pytest.raises(model.ConfigurationError, match="--config-namespace"):
        settings.check_settings(settings.Settings(from_cluster=True, config_namespace=name))


def test_settings_of_a_database_need_a_database() -> None:
    alone = settings.Settings(files=(Path("usher.yaml"),))
    for changed in ({"migrate": False}, {"store_durability": "Replicated"}, {"store_password_file": Path("password")}):
        with pytest.raises(model.ConfigurationError, match="needs --store"):
            settings.check_settings(msgspec.structs.replace(alone, **changed))
        settings.check_settings(msgspec.structs.replace(alone, store="postgresql://usher@db/usher", **changed))


def test_audience_of_tokens_needs_tokens_of_kubernetes() -> None:
    alone = settings.Settings(files=(Path("usher.yaml"),), admin_token_audience="usher.dev")
    with pytest.raises(model.ConfigurationError, match="needs --admin-kubernetes-tokens"):
        settings.check_settings(alone)
    settings.check_settings(msgspec.structs.replace(alone, admin_kubernetes_tokens=True))


def test_proxies_of_pages_need_roles_and_are_checked() -> None:
    valid = settings.Settings(files=(Path("x.yaml"),), page_proxies=("10.0.0.0/8",), page_role=("desk=look",))
    settings.check_settings(valid)
    for changes in ({"page_proxies": ()}, {"page_role": ()}):
        with pytest.raises(model.ConfigurationError, match="go together"):
            settings.check_settings(msgspec.structs.replace(valid, **changes))
    for everybody in ("0.0.0.0/0", "::/0", "10.0.0.0/0"):
        with pytest.raises(model.ConfigurationError, match=f"must not have {everybody}, which is everybody"):
            settings.check_settings(msgspec.structs.replace(valid, page_proxies=("10.0.0.0/8", everybody)))
    with pytest.raises(model.ConfigurationError, match="--page-proxies: 'banana' is not a CIDR"):
        settings.check_settings(msgspec.structs.replace(valid, page_proxies=("banana",)))
