"""A client of the API server, for frequent reads and for requests that kubectl does not offer."""

import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from local_cluster import kubeconfigs
from support import waiting

OURS = "/apis/usher.dev/v1alpha1"
# Kind -> its path at the API server.
COLLECTIONS = {
    "ListenerClass": (OURS, "listenerclasses"),
    "Tenant": (OURS, "tenants"),
    "Listener": (OURS, "listeners"),
    "Destination": (OURS, "destinations"),
    "Namespace": ("/api/v1", "namespaces"),
    "Secret": ("/api/v1", "secrets"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Service": ("/api/v1", "services"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices"),
    "Event": ("/apis/events.k8s.io/v1", "events"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
    "Ingress": ("/apis/networking.k8s.io/v1", "ingresses"),
    "IngressClass": ("/apis/networking.k8s.io/v1", "ingressclasses"),
    "Gateway": ("/apis/gateway.networking.k8s.io/v1", "gateways"),
    "HTTPRoute": ("/apis/gateway.networking.k8s.io/v1", "httproutes"),
    "Certificate": ("/apis/cert-manager.io/v1", "certificates"),
    "Issuer": ("/apis/cert-manager.io/v1", "issuers"),
    "ClusterIssuer": ("/apis/cert-manager.io/v1", "clusterissuers"),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1", "clusterroles"),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    "CustomResourceDefinition": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
}

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
MANAGER = "usher-tests"


class ApiError(Exception):
    """The API server refused a request; ``status`` and ``reason`` are those of its answer."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body.get('message', body) if isinstance(body, Mapping) else body}")
        self.status = status
        self.reason = body.get("reason", "") if isinstance(body, Mapping) else ""


@dataclass(frozen=True)
class Resource:
    """One object, or without a name all objects of a kind, in one namespace or in all."""

    kind: str
    name: str = ""
    namespace: str = ""

    @property
    def path(self) -> str:
        group, plural = COLLECTIONS[self.kind]
        namespaced = f"/namespaces/{self.namespace}" if self.namespace else ""
        return f"{group}{namespaced}/{plural}" + (f"/{self.name}" if self.name else "")


def of(document: Mapping[str, Any]) -> Resource:
    """Return the reference to a document's object."""
    metadata = document["metadata"]
    return Resource(document["kind"], metadata["name"], metadata.get("namespace", ""))


class Api:
    """A client of an API server with a token."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session, self._server = session, server

    async def get(self, resource: Resource) -> Any:
        """Return the object, or None if it does not exist."""
        try:
            return await self.request("GET", resource.path)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    async def list(self, resource: Resource, labels: str = "") -> list[Any]:
        """Return all objects of a kind, or those that match a label selector."""
        answer = await self.request("GET", resource.path, parameters={"labelSelector": labels} if labels else None)
        return list(answer["items"])

    async def create(self, document: Mapping[str, Any]) -> Any:
        named = of(document)
        return await self.request("POST", Resource(named.kind, "", named.namespace).path, document)

    async def apply(self, document: Mapping[str, Any], subresource: str = "") -> Any:
        """Apply a document with the tests' field manager."""
        path = of(document).path + (f"/{subresource}" if subresource else "")
        return await self.request("PATCH", path, document, {"fieldManager": MANAGER, "force": "true"}, APPLY)

    async def merge(self, resource: Resource, change: Mapping[str, Any], subresource: str = "") -> Any:
        """Send a merge patch for the object or its ``status``."""
        path = resource.path + (f"/{subresource}" if subresource else "")
        return await self.request("PATCH", path, change, {"fieldManager": MANAGER}, MERGE)

    async def delete(self, resource: Resource) -> None:
        """Delete an object, or without a name all objects of a kind in a namespace; ignore a missing one."""
        try:
            await self.request("DELETE", resource.path)
        except ApiError as error:
            if error.status != 404:
                raise

    async def wait(
        self, resource: Resource, satisfied: Callable[[Any], Any], limit_seconds: float = waiting.LIMIT_SECONDS
    ) -> Any:
        """Wait until the object satisfies a check; the check gets None while the object does not exist."""
        return await waiting.until(lambda: self.get(resource), satisfied, limit_seconds=limit_seconds)

    async def token(self, account: Resource, seconds: int = 3600, audience: str | None = None) -> str:
        """Create a token for a service account; without an audience it is for the API server."""
        wish = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds} | ({} if audience is None else {"audiences": [audience]}),
        }
        answer = await self.request("POST", f"{account.path}/token", wish)
        return str(answer["status"]["token"])

    async def may(self, user: str, asked: Mapping[str, str]) -> bool:
        """Ask the API server whether a user has a right; ``asked`` has the attributes of the resource."""
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": asked},
        }
        answer = await self.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    async def request(
        self,
        method: str,
        path: str,
        document: Any = None,
        parameters: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """Send any request and return the JSON or text of the answer.

        Raises:
            ApiError: The API server refused the request.
        """
        data = None if document is None else json.dumps(document)
        headers = {"Content-Type": content_type}
        url = self._server + path
        async with self._session.request(method, url, data=data, params=parameters, headers=headers) as answer:
            text = await answer.text()
            body = json.loads(text) if "json" in answer.content_type else text
            if answer.status >= 400:
                raise ApiError(answer.status, body)
            return body


def trusting(endpoint: kubeconfigs.Endpoint) -> ssl.SSLContext:
    """Build a TLS context that trusts only this API server's authority."""
    return ssl.create_default_context(cadata=endpoint.authority.decode())


@contextlib.asynccontextmanager
async def connected(endpoint: kubeconfigs.Endpoint, token: str) -> AsyncIterator[Api]:
    """Connect to an API server for the duration of a ``with`` block."""
    connector = aiohttp.TCPConnector(ssl=trusting(endpoint))
    headers = {"Authorization": f"Bearer {token}", "User-Agent": MANAGER}
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        yield Api(session, endpoint.server)


def condition(resource: Any, kind: str) -> Any:
    """Return a condition of an object by its type, or an empty dict."""
    conditions = ((resource or {}).get("status") or {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == kind), {})
