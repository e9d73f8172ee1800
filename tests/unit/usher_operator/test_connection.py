"""How the API server is found: a kubeconfig that is read anew each time, or a message that says what to do."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from usher_gateway import model
from usher_operator import connection


def kubeconfig(folder: Path, user: dict[str, Any], **cluster: Any) -> Path:
    content = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content), "utf-8")
    return path


def test_a_token_and_an_authority_are_read(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"token": "t0ken"}, **{"certificate-authority": "ca.crt"})
    found = connection.load(path, {})
    assert found.server == "https://127.0.0.1:6443"
    assert found.as_http_headers() == {"Authorization": "Bearer t0ken"}
    assert found.ca_path == str(tmp_path / "ca.crt")


def test_a_token_in_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"tokenFile": "token"})
    for token in ("first", "second"):
        (tmp_path / "token").write_text(f"{token}\n", "ascii")
        assert connection.load(path, {}).token == token


def test_the_environment_names_the_kubeconfig(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"token": "t"})
    assert connection.load(None, {"KUBECONFIG": f"{path}:/elsewhere"}).token == "t"


@pytest.mark.parametrize(
    ("user", "cluster", "told"),
    [
        ({"exec": {"command": "aws"}}, {}, "`exec`"),
        ({"token": "t"}, {"proxy-url": "http://proxy"}, "`proxy-url`"),
    ],
)
def test_what_is_not_supported_is_said(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any], told: str
) -> None:
    with pytest.raises(model.ConfigurationError, match=told):
        connection.load(kubeconfig(tmp_path, user, **cluster), {})


@pytest.mark.parametrize("content", ["{}", "[]", "a: [", "current-context: x\ncontexts: []"])
def test_a_file_that_is_no_kubeconfig_is_said_to_be_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content, "utf-8")
    with pytest.raises(model.ConfigurationError, match="kubeconfig"):
        connection.load(path, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(model.ConfigurationError, match="No such file"):
        connection.load(tmp_path / "absent", {})


def test_a_certificate_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"token": "t"}, **{"certificate-authority-data": "bm90aGluZw=="})
    with pytest.raises(model.ConfigurationError, match="certificates or keys"):
        connection.tls_context(connection.load(path, {}))
