"""What the operator takes from events, and what kopf gets to watch them."""

import getpass
from unittest.mock import Mock

import pytest
import structlog.testing

from support import certificates
from usher_gateway import model
from usher_gateway.kube.access import Access, ApiConnection
from usher_operator.run.health import Health, OperatorMetrics
from usher_operator.run.workqueue import Workqueue
from usher_operator.settings import OperatorSettings
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.watch import watches


def test_late_events_of_a_namespace_made_again_change_nothing() -> None:
    cache, queue = Cache(OperatorSettings()), Mock(spec=Workqueue)
    handler = watches.EventHandler(
        cache=cache, queue=queue, health=Mock(spec=Health), metrics=Mock(spec=OperatorMetrics)
    )
    for event_type, uid, version in [
        ("ADDED", "former", "3"),
        ("ADDED", "present", "8"),
        ("MODIFIED", "former", "5"),
        ("DELETED", "former", "7"),
    ]:
        handler.handle(
            kinds.NAMESPACE, event_type, {"metadata": {"name": "agency", "uid": uid, "resourceVersion": version}}
        )
    assert cache.namespace_uid("agency") == "present"


def test_token_and_certificates_reach_kopf() -> None:
    certificate, key = certificates.make("client")
    information = watches.connection_info(
        ApiConnection(
            server="https://127.0.0.1:6443",
            authorization="Bearer t0ken",
            authorities=b"# a comment\n" + certificate,
            certificate=certificate,
            key=key,
        )
    )
    assert information.server == "https://127.0.0.1:6443"
    assert information.as_http_headers() == {"Authorization": "Bearer t0ken"}
    assert information.as_ssl_context().check_hostname


def test_connection_without_credentials_sends_no_header() -> None:
    information = watches.connection_info(ApiConnection(server="http://127.0.0.1:8001"))
    assert information.as_http_headers() == {}


def test_server_name_that_kopf_cannot_check_is_an_error() -> None:
    connection = ApiConnection(server="https://127.0.0.1:6443", server_name="api.test")
    with pytest.raises(model.ConfigurationError, match="tls-server-name"):
        watches.connection_info(connection)


def test_watch_that_fails_once_is_no_warning() -> None:
    with structlog.testing.capture_logs() as logs:
        for failures in (0, 1):
            watches.log_failure(model.UsherError("the connection ended", ""), failures, kind="Listener")
    assert [(line["log_level"], line["failures"]) for line in logs] == [("info", 0), ("warning", 1)]


async def test_kopf_runs_as_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise KeyError("getpwuid(): uid not found: 65532")

    monkeypatch.setattr(getpass, "getuser", fail)
    access = Access(lambda _: ApiConnection(server="http://127.0.0.1:1"))
    runner = watches.KopfRunner(access=access, watched=(), handler=Mock(), crd_handler=Mock())
    started: list[bool] = []

    def stop() -> None:
        started.append(True)
        runner.stop()

    await runner.run(on_started=stop)
    assert started == [True]
