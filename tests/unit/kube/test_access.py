"""Which API server a program talks to, and how it logs in."""

import asyncio
import base64
import datetime
import json
import os
import pathlib
import ssl
import sys
from typing import Any

import pytest
import yaml

from support import certificates
from usher_gateway import model
from usher_gateway.kube import access


def kubeconfig(
    folder: pathlib.Path, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, **changes: Any
) -> pathlib.Path:
    value = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "other", "context": {}}, {"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://k.test:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": "abc"} if user is None else user}],
        **changes,
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(value))
    return path


def load(path: pathlib.Path) -> access.ApiConnection:
    return access.Kubeconfig(str(path)).load()


def plugin(folder: pathlib.Path, status: str) -> dict[str, Any]:
    """A user who logs in by an exec plugin; it appends a line to `runs`, then prints `status`, a Python expression."""
    path = folder / "plugin"
    credential = "{'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential', 'status': status}"
    lines = [
        f"#!{sys.executable}",
        "import json, pathlib",
        f"folder = pathlib.Path({str(folder)!r})",
        "with (folder / 'runs').open('a') as runs: print('run', file=runs)",
        f"status = {status}",
        f"print(json.dumps({credential}))",
    ]
    path.write_text("\n".join(lines))
    path.chmod(0o700)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(path), "interactiveMode": "Never"}}


def runs(folder: pathlib.Path) -> int:
    return len((folder / "runs").read_text().splitlines())


def test_server_and_token_come_from_the_current_context(tmp_path: pathlib.Path) -> None:
    connection = load(kubeconfig(tmp_path, {"tls-server-name": "api.test"}))
    assert connection.server == "https://k.test:6443"
    assert connection.server_name == "api.test"
    assert connection.headers() == {"Authorization": "Bearer abc"}
    assert connection.verify


def test_context_without_user_sends_no_credentials(tmp_path: pathlib.Path) -> None:
    path = kubeconfig(tmp_path, contexts=[{"name": "c", "context": {"cluster": "k"}}], users=None)
    assert load(path).headers() == {}


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: pathlib.Path) -> None:
    certificate, _ = certificates.make("ca")
    (tmp_path / "ca.crt").write_bytes(certificate)
    (tmp_path / "token").write_text("one\n")
    loader = access.Kubeconfig(str(kubeconfig(tmp_path, {"certificate-authority": "ca.crt"}, {"tokenFile": "token"})))
    connection = loader.load()
    assert connection.authorities == certificate
    assert connection.headers() == {"Authorization": "Bearer one"}
    (tmp_path / "token").write_text("two\n")
    assert loader.load().headers() == {"Authorization": "Bearer two"}


def test_certificates_are_read_from_data_and_from_files(tmp_path: pathlib.Path) -> None:
    certificate, key = certificates.make("client")
    certificates.write(tmp_path, certificate, key)
    data = base64.b64encode(certificate).decode()
    inline = {"client-certificate-data": data, "client-key-data": base64.b64encode(key).decode()}
    for user in (inline, {"client-certificate": "tls.crt", "client-key": "tls.key"}):
        connection = load(kubeconfig(tmp_path, {"certificate-authority-data": data}, user))
        assert (connection.certificate, connection.key) == (certificate, key)
        context = connection.ssl_context()
        assert context is not None
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname


def test_no_key_stays_on_disk(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    certificate, key = certificates.make("client")
    data = {"client-certificate-data": certificate, "client-key-data": key}
    user = {name: base64.b64encode(value).decode() for name, value in data.items()}
    for _ in range(2):
        load(kubeconfig(tmp_path, user=user)).ssl_context()
        assert list(scratch.iterdir()) == []


def test_server_is_unverified_only_if_the_file_says_so(tmp_path: pathlib.Path) -> None:
    context = load(kubeconfig(tmp_path, {"insecure-skip-tls-verify": True})).ssl_context()
    assert context is not None
    assert context.verify_mode is ssl.CERT_NONE


def test_plain_http_needs_no_certificates(tmp_path: pathlib.Path) -> None:
    assert load(kubeconfig(tmp_path, {"server": "http://127.0.0.1:8001"})).ssl_context() is None


def test_user_name_and_password_are_basic_authentication(tmp_path: pathlib.Path) -> None:
    connection = load(kubeconfig(tmp_path, user={"username": "a", "password": "b"}))
    assert connection.headers() == {"Authorization": "Basic YTpi"}


def test_several_files_are_merged(tmp_path: pathlib.Path) -> None:
    (tmp_path / "first").mkdir()
    users = kubeconfig(tmp_path / "first", contexts=[], clusters=[])
    rest = kubeconfig(tmp_path, users=[])
    assert load(pathlib.Path(f"{users}{os.pathsep}{rest}")).headers() == {"Authorization": "Bearer abc"}


@pytest.mark.parametrize(("minutes", "is_reused"), [(60, True), (1, False)])
def test_token_of_an_exec_plugin_is_reused_until_shortly_before_it_expires(
    tmp_path: pathlib.Path, minutes: int, is_reused: bool
) -> None:
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes)
    user = plugin(tmp_path, f"{{'token': 'a-token', 'expirationTimestamp': {end.strftime('%Y-%m-%dT%H:%M:%SZ')!r}}}")
    loader = access.Kubeconfig(str(kubeconfig(tmp_path, user=user)))
    for _ in range(2):
        assert loader.load().headers() == {"Authorization": "Bearer a-token"}
    assert (runs(tmp_path) == 1) is is_reused


def test_exec_plugin_runs_again_if_its_token_is_rejected(tmp_path: pathlib.Path) -> None:
    user = plugin(tmp_path, "{'token': 'token-' + str(len((folder / 'runs').read_text()))}")
    loader = access.Kubeconfig(str(kubeconfig(tmp_path, user=user)))
    first = loader.load().headers()
    assert loader.load().headers() == first
    assert loader.load(is_rejected=True).headers() != first


def test_exec_plugin_may_give_a_client_certificate(tmp_path: pathlib.Path) -> None:
    certificate, key = certificates.make("client")
    status = {"clientCertificateData": certificate.decode(), "clientKeyData": key.decode()}
    loader = access.Kubeconfig(str(kubeconfig(tmp_path, user=plugin(tmp_path, json.dumps(status)))))
    for _ in range(2):
        connection = loader.load()
        assert (connection.certificate, connection.key) == (certificate, key)
    assert runs(tmp_path) == 1


@pytest.mark.parametrize("status", ["{}", "1 / 0", "{'token': ''}"])
def test_exec_plugin_without_credentials_is_an_error(tmp_path: pathlib.Path, status: str) -> None:
    with pytest.raises(model.ConfigurationError, match="kubeconfig file cannot be used") as caught:
        load(kubeconfig(tmp_path, user=plugin(tmp_path, status)))
    assert caught.value.hint


async def test_slow_exec_plugin_does_not_block_the_event_loop(tmp_path: pathlib.Path) -> None:
    user = plugin(tmp_path, "[__import__('time').sleep(0.1) for _ in range(100) if not (folder / 'go').exists()]")
    cluster_access = access.Access(access.Kubeconfig(str(kubeconfig(tmp_path, user=user))).load)
    loading = asyncio.create_task(cluster_access.connection())
    while not (tmp_path / "runs").exists():  # noqa: ASYNC110 - the plugin is another process
        await asyncio.sleep(0.01)
    assert not loading.done()
    (tmp_path / "go").touch()
    with pytest.raises(model.ConfigurationError):
        await loading


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("\x00", "not YAML"),
        ("[", "not YAML"),
        ("- a", "not a mapping"),
        ("", "not a mapping"),
    ],
)
def test_file_that_is_not_a_kubeconfig_is_an_error(tmp_path: pathlib.Path, content: str, told: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    with pytest.raises(model.ConfigurationError, match=told):
        load(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"current-context": "none"}, "no context 'none'"),
        ({"contexts": None}, "no context 'c'"),
        ({"clusters": []}, "no cluster 'k'"),
        ({"users": []}, "no user 'u'"),
        ({"cluster": {"server": "k.test"}}, "no `server`"),
        ({"cluster": {"server": None}}, "no `server`"),
        ({"cluster": {"proxy-url": "http://proxy"}}, "`proxy-url`"),
        ({"cluster": {"certificate-authority-data": "a"}}, "cannot be loaded"),
        ({"user": {}}, "no token and no client certificate"),
        ({"user": {"auth-provider": {"name": "azure"}}}, "no token and no client certificate"),
    ],
)
def test_unusable_kubeconfig_says_why(tmp_path: pathlib.Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(model.ConfigurationError, match=told) as caught:
        load(kubeconfig(tmp_path, **changes))
    assert caught.value.hint


def test_error_does_not_repeat_the_credentials(tmp_path: pathlib.Path) -> None:
    path = kubeconfig(tmp_path, user={"token": "s3cret", "client-certificate-data": "s3cret"})
    with pytest.raises(model.ConfigurationError) as caught:
        load(path)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "connection",
    [
        access.ApiConnection(server="https://k.test", authorities=b"no certificate"),
        access.ApiConnection(server="https://k.test", authorities=b"\xff"),
        access.ApiConnection(server="https://k.test", certificate=b"no certificate"),
    ],
)
def test_invalid_certificate_is_an_error(connection: access.ApiConnection) -> None:
    with pytest.raises(model.ConfigurationError, match="certificates"):
        connection.ssl_context()


@pytest.fixture
def pod(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The folder of a pod's service account."""
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", tmp_path)
    (tmp_path / "token").write_text("pod-token\n")
    (tmp_path / "ca.crt").write_bytes(certificates.make("ca")[0])
    return tmp_path


@pytest.mark.parametrize(
    ("host", "server"), [("10.0.0.1", "https://10.0.0.1:6443"), ("fd00::1", "https://[fd00::1]:6443")]
)
def test_pod_uses_its_service_account(pod: pathlib.Path, host: str, server: str) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "6443"}
    connection = access.find_access(None, environ, default_kubeconfig="/elsewhere").load()
    assert connection.server == server
    assert connection.headers() == {"Authorization": "Bearer pod-token"}
    assert connection.authorities == (pod / "ca.crt").read_bytes()


async def test_token_of_a_pod_is_read_again(pod: pathlib.Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    cluster_access = access.Access(lambda _: access.load_service_account(environ), refresh_seconds=0.0)
    for token in ("first", "second"):
        (pod / "token").write_text(token)
        assert (await cluster_access.connection()).headers() == {"Authorization": f"Bearer {token}"}


async def test_failed_reload_keeps_the_previous_connection(pod: pathlib.Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    cluster_access = access.Access(lambda _: access.load_service_account(environ), refresh_seconds=0.0)
    previous_connection = await cluster_access.connection()
    (pod / "token").unlink()
    assert await cluster_access.connection() == previous_connection


def test_outside_a_pod_the_default_kubeconfig_is_used(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", tmp_path / "none")
    default_access = access.find_access(None, {}, default_kubeconfig=str(kubeconfig(tmp_path)))
    assert default_access.load().headers() == {"Authorization": "Bearer abc"}


def test_missing_access_says_what_to_do(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(model.ConfigurationError, match="outside a pod") as caught:
        access.find_access(None, {})
    assert "--kubeconfig" in caught.value.hint
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", tmp_path)
    with pytest.raises(model.ConfigurationError, match="cannot be read") as caught:
        access.find_access(None, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert "automountServiceAccountToken" in caught.value.hint
    with pytest.raises(model.ConfigurationError, match="No such file"):
        access.find_access(tmp_path / "absent", {})
