"""Which API server is meant, and what proves who we are."""

import base64
import pathlib
import ssl
from typing import Any

import pytest
import yaml

from support import certificates
from usher_gateway import model
from usher_gateway.config import cluster_access


def kubeconfig(cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, **changes: Any) -> bytes:
    value = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "other", "context": {}}, {"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://k.test:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": "abc"} if user is None else user}],
        **changes,
    }
    return yaml.safe_dump(value).encode()


def parse(content: bytes, folder: pathlib.Path = pathlib.Path("/etc/k")) -> cluster_access.Access:
    return cluster_access.parse_kubeconfig(content, folder)


def test_server_and_token_are_those_of_the_current_context() -> None:
    access = parse(kubeconfig({"tls-server-name": "api.test"}))
    assert access.server == "https://k.test:6443"
    assert access.server_name == "api.test"
    assert access.headers() == {"Authorization": "Bearer abc"}
    assert access.verify


def test_a_context_without_a_user_proves_nothing() -> None:
    content = kubeconfig(contexts=[{"name": "c", "context": {"cluster": "k"}}], users=None)
    assert parse(content).headers() == {}


def test_relative_paths_start_from_the_files_folder(tmp_path: pathlib.Path) -> None:
    (tmp_path / "token").write_text("one\n")
    access = parse(kubeconfig({"certificate-authority": "ca.crt"}, {"tokenFile": "token"}), tmp_path)
    assert access.ca_file == tmp_path / "ca.crt"
    assert access.headers() == {"Authorization": "Bearer one"}
    (tmp_path / "token").write_text("two\n")
    assert access.headers() == {"Authorization": "Bearer two"}


def test_certificates_are_taken_from_data_and_from_files(tmp_path: pathlib.Path) -> None:
    certificate, key = certificates.make("client")
    certificates.write(tmp_path, certificate, key)
    data = base64.b64encode(certificate).decode()
    inline = {"client-certificate-data": data, "client-key-data": base64.b64encode(key).decode()}
    for user in (inline, {"client-certificate": "tls.crt", "client-key": "tls.key"}):
        context = parse(kubeconfig({"certificate-authority-data": data}, user), tmp_path).ssl_context()
        assert context is not None
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname


def test_the_server_is_not_verified_only_where_that_is_said() -> None:
    context = parse(kubeconfig({"insecure-skip-tls-verify": True})).ssl_context()
    assert context is not None
    assert context.verify_mode is ssl.CERT_NONE


def test_plain_http_needs_no_certificates() -> None:
    assert parse(kubeconfig({"server": "http://127.0.0.1:8001"})).ssl_context() is None


@pytest.mark.parametrize(
    "content",
    [
        b"\x00",
        b"[",
        b"- a",
        b"",
        kubeconfig(None, None, **{"current-context": "none"}),
        kubeconfig(contexts=None),
        kubeconfig(clusters=[]),
        kubeconfig(users=[]),
        kubeconfig({"server": "k.test"}),
        kubeconfig({"server": None}),
        kubeconfig({"certificate-authority-data": "***"}),
        kubeconfig(user={"exec": {"command": "aws"}}),
        kubeconfig(user={"auth-provider": {"name": "gcp"}}),
        kubeconfig(user={"username": "a", "password": "b"}),
    ],
)
def test_what_cannot_be_used_says_why(content: bytes) -> None:
    with pytest.raises(model.ConfigurationError, match="kubeconfig file cannot be used") as caught:
        parse(content)
    assert caught.value.hint


@pytest.mark.parametrize(
    "access",
    [
        cluster_access.Access(server="https://k.test", ca_data=b"no certificate"),
        cluster_access.Access(server="https://k.test", ca_data=b"\xff"),
        cluster_access.Access(server="https://k.test", certificate=b"no certificate"),
    ],
)
def test_certificates_that_are_none_are_told(access: cluster_access.Access) -> None:
    with pytest.raises(model.ConfigurationError, match="certificates"):
        access.ssl_context()


def test_a_pod_uses_its_service_account(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_access, "SERVICE_ACCOUNT", tmp_path)
    (tmp_path / "token").write_text("pod-token")
    for host, wanted in (("10.0.0.1", "https://10.0.0.1:6443"), ("fd00::1", "https://[fd00::1]:6443")):
        environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "6443"}
        access = cluster_access.find_access(None, environ)
        assert access.server == wanted
        assert access.headers() == {"Authorization": "Bearer pod-token"}
        assert access.ca_file == tmp_path / "ca.crt"


def test_without_pod_and_file_it_is_said_what_to_do(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(model.ConfigurationError) as caught:
        cluster_access.find_access(None, {})
    assert "--kubeconfig" in caught.value.hint
    monkeypatch.setattr(cluster_access, "SERVICE_ACCOUNT", tmp_path)
    with pytest.raises(model.ConfigurationError, match="cannot be read") as caught:
        cluster_access.find_access(None, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert "automountServiceAccountToken" in caught.value.hint
    with pytest.raises(model.ConfigurationError, match="several"):
        cluster_access.find_access(pathlib.Path("/a:/b"), {})
