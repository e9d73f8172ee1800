"""The recording proxy writes the same entries as an API server's audit log."""

import base64
import json

import pytest

from support import audit, faulty_proxy, recording

TOKEN = ".".join(("e30", base64.urlsafe_b64encode(b'{"sub":"system:serviceaccount:a:b"}').decode().rstrip("="), "x"))
LISTENERS = "/apis/usher.dev/v1alpha1/namespaces/agency/listeners"


def noted(method: str, path: str, query: str = "", status: int = 200, body: bytes = b"") -> audit.Asked:
    asked = faulty_proxy.Asked(1, method, path, query, "agent")
    event = recording.event(faulty_proxy.Answered(asked, f"Bearer {TOKEN}", status, body))
    return audit.parse(json.dumps(event).encode())


@pytest.mark.parametrize(
    ("method", "path", "query", "verb", "resource", "namespace", "name"),
    [
        ("PATCH", f"{LISTENERS}/lobby/status", "force=true", "patch", "listeners/status", "agency", "lobby"),
        ("GET", "/apis/usher.dev/v1alpha1/tenants", "limit=500", "list", "tenants", "", ""),
        ("GET", "/api/v1/secrets", "watch=true", "watch", "secrets", "", ""),
        ("GET", "/api/v1/namespaces/agency", "", "get", "namespaces", "agency", "agency"),
        ("PUT", "/api/v1/namespaces/agency/finalize", "", "update", "namespaces/finalize", "agency", "agency"),
        ("POST", "/api/v1/namespaces/agency/secrets", "", "create", "secrets", "agency", ""),
        ("DELETE", "/api/v1/namespaces/agency/secrets", "", "deletecollection", "secrets", "agency", ""),
        ("DELETE", "/api/v1/namespaces/agency/secrets/key", "", "delete", "secrets", "agency", "key"),
        ("GET", "/apis", "", "get", "", "", ""),
        ("GET", "/version", "", "get", "", "", ""),
    ],
)
def test_request_is_recorded_with_verb_resource_and_name(
    method: str, path: str, query: str, verb: str, resource: str, namespace: str, name: str
) -> None:
    recorded = noted(method, path, query)
    assert (recorded.verb, recorded.resource, recorded.namespace, recorded.name) == (verb, resource, namespace, name)
    assert (recorded.user, recorded.uri) == ("system:serviceaccount:a:b", path + (f"?{query}" if query else ""))


def test_missing_permission_differs_from_refusal_by_admission() -> None:
    message = 'secrets is forbidden: User "system:serviceaccount:a:b" cannot list resource "secrets" in API group ""'
    lacking = json.dumps({"reason": "Forbidden", "message": message}).encode()
    ending = json.dumps({"reason": "Forbidden", "message": "unable to create new content in namespace a"}).encode()
    path = "/api/v1/secrets"
    assert noted("GET", path, "", 403, lacking).lacked_right
    assert not noted("POST", path, "", 403, ending).lacked_right
    assert not noted("GET", path, "", 200, lacking).lacked_right


def test_other_authorization_has_no_user() -> None:
    assert recording.user("") == recording.user("Bearer opaque") == ""
