"""A webhook on an installed release: class, tenant, listener, destination, a receiver in the cluster, and a sender."""

import base64
import json
import secrets
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

from local_cluster import kubectl as kubectls
from support import releases, sites, tls_endpoint, waiting

RECEIVER = "receiver"
_PORT = 9000
_READ_COUNTS = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{_PORT}/_counts').read().decode())"
_API = "usher.dev/v1alpha1"
INGRESS = {"exposure": {"type": "Ingress", "scope": "Path", "ingress": {"className": "traefik"}}}
ISSUED = {"tls": {"mode": "PerHostname", "issuerRef": {"name": "authority", "kind": "ClusterIssuer"}}}


class Webhook:
    """A listener whose visits go to one receiver, which checks every signature and counts."""

    def __init__(self, release: releases.Release) -> None:
        self.release = release
        self.namespace = f"agency-{secrets.token_hex(3)}"
        self.hostname = f"{self.namespace}.test"
        self._senders: list[Sender] = []
        self._secret = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"

    @property
    def site(self) -> sites.Site:
        return self.release.site

    @property
    def tenant(self) -> str:
        return f"{self.namespace}/acme"

    def wait_visits(self, count: int) -> None:
        """Wait until the gateway has counted this many visits."""
        waiting.poll(lambda: self.books()["visits"], lambda visits: visits >= count, limit_seconds=150)

    def create(self, exposure: dict[str, Any] | None = None) -> None:
        """Create the agency's namespace with a receiver, and apply class, tenant, listener and destination.

        Args:
            exposure: Fields of the class about exposure and TLS; by default Ingress with an issued certificate.
        """
        self.site.make_namespace(self.namespace)
        self.release.admit(self.namespace)
        self.site.apply(*self._receiver())
        self.apply_class(exposure or INGRESS | ISSUED)
        self.site.apply(*self._resources())

    def apply_class(self, exposure: dict[str, Any]) -> None:
        spec = {
            "controllerName": "usher.dev/usher",
            "hostname": self.hostname,
            "allowedHostnames": [{"hostname": f"*.{self.hostname}"}],
            **exposure,
        }
        metadata = {"name": self.namespace}
        self.site.apply({"apiVersion": _API, "kind": "ListenerClass", "metadata": metadata, "spec": spec})

    def accepts_tenant(self, spec: dict[str, Any]) -> bool:
        """Return whether the API server would accept this spec of the Tenant."""
        tenant = {"apiVersion": _API, "kind": "Tenant", "metadata": self._named("acme"), "spec": spec}
        try:
            self.site.apply(tenant, dry_run=True)
        except kubectls.KubectlError:
            return False
        return True

    def apply_listener(self, **fields: Any) -> None:
        """Apply the Listener with more fields of its spec, or other ones."""
        self.site.apply(self._listener(**fields))

    def remove(self) -> None:
        """Stop the senders, and delete everything that `create` made."""
        for sender in self._senders:
            sender.stop()
        self.site.kubectl.run("delete", "listenerclass", self.namespace, "--ignore-not-found")
        self.site.kubectl.run("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")

    def wait_ready(self, limit_seconds: float = 150) -> None:
        """Wait until the listener and the destination are ready, and the receiver runs."""
        of_agency = f"--namespace={self.namespace}"
        self.site.kubectl.run(
            "rollout", "status", f"deployment/{RECEIVER}", of_agency, "--timeout=150s", limit_seconds=180
        )
        waiting.poll(self._unready, lambda unready: not unready, limit_seconds=limit_seconds)

    def _unready(self) -> list[str]:
        """Return the kind and the condition Ready of each object that is not ready as it is now."""
        unready = []
        for resource in self.site.get("listener/lobby", "destination/crm", f"--namespace={self.namespace}"):
            conditions = resource.get("status", {}).get("conditions", ())
            ready: dict[str, Any] = next((each for each in conditions if each["type"] == "Ready"), {})
            is_current = ready.get("observedGeneration", 0) >= resource["metadata"]["generation"]
            if ready.get("status") != "True" or not is_current:
                unready.append(f"{resource['kind']}: {ready}")
        return unready

    def url(self) -> str:
        """Return the URL that a user pastes into the portal."""
        return self.site.secret(self.namespace, "lobby-url")["url"]

    def wait_url(self, start: str) -> None:
        """Wait until the listener is ready at a URL that starts so, and served there over TLS."""
        waiting.poll(self.url, lambda url: url.startswith(start), limit_seconds=150)
        self.wait_ready()
        address = urllib.parse.urlsplit(self.url())
        hostname, path = address.hostname or "", address.path
        waiting.poll(lambda: tls_endpoint.serves(hostname, path, authority(self.site)), limit_seconds=150)

    def start_visits(
        self, count: int, *more: str, rate: int = 50, url: str | None = None, authority_file: Path | None = None
    ) -> "Sender":
        """Begin to post visits over TLS. The visitors are others than those of earlier calls."""
        own = [f"--visits={count}", f"--rate={rate}", f"--seed={len(self._senders) + 1}", *more]
        sender = Sender(url or self.url(), authority_file or authority(self.site), own)
        self._senders.append(sender)
        return sender

    def receiver_counts(self) -> dict[str, int]:
        """Return what the receiver counted at the path of the destination."""
        said = self.site.kubectl.run(
            "exec", f"deployment/{RECEIVER}", f"--namespace={self.namespace}", "--", "python", "-c", _READ_COUNTS
        )
        counts: dict[str, int] = json.loads(said).get("/crm", {})
        return counts

    def books(self) -> dict[str, Any]:
        return self.release.books(self.tenant)

    def wait_delivered(self, limit_seconds: float = 150) -> dict[str, Any]:
        """Wait until no delivery is open, and return the gateway's counts."""

        def is_complete(books: dict[str, Any]) -> bool:
            return bool(books["created"] == books["delivered"] + books["died"] + books["cancelled"])

        return waiting.poll(self.books, is_complete, limit_seconds=limit_seconds, every_seconds=0.5)

    def assert_books_equal(self, *sent: dict[str, Any]) -> dict[str, Any]:
        """Wait for the last delivery, and compare what senders, gateway and receiver counted."""
        books = self.wait_delivered()
        visits = sum(report["visits"] + len(report["validations"][-1:]) for report in sent)
        assert {report["unacknowledged"] for report in sent} == {0}
        assert books["visits"] == visits
        assert books["created"] == books["delivered"] == visits
        assert books["died"] == books["cancelled"] == books["quarantined"] == 0
        counts = self.receiver_counts()
        assert counts["distinct"] == visits
        assert counts["signatures_bad"] == counts["signatures_stale"] == counts["without_id"] == 0
        return counts

    def _resources(self) -> list[dict[str, Any]]:
        labels = {"usher.dev/watch": "true"}
        return [
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "crm-signing", "namespace": self.namespace, "labels": labels},
                "stringData": {"secret": self._secret},
            },
            {"apiVersion": _API, "kind": "Tenant", "metadata": self._named("acme"), "spec": {"companyID": "77"}},
            {
                "apiVersion": _API,
                "kind": "Destination",
                "metadata": self._named("crm"),
                "spec": {
                    "type": "HTTP",
                    "http": {
                        "url": f"http://{RECEIVER}.{self.namespace}.svc.cluster.local:{_PORT}/crm",
                        "signing": {"secretRefs": [{"name": "crm-signing", "key": "secret"}]},
                    },
                },
            },
            self._listener(),
        ]

    def _listener(self, **fields: Any) -> dict[str, Any]:
        spec = {
            "tenantRef": {"name": "acme"},
            "listenerClassName": self.namespace,
            "routes": [{"name": "crm", "destinationRef": {"name": "crm"}}],
        }
        return {"apiVersion": _API, "kind": "Listener", "metadata": self._named("lobby"), "spec": spec | fields}

    def _named(self, name: str) -> dict[str, str]:
        return {"name": name, "namespace": self.namespace}

    def _receiver(self) -> list[dict[str, Any]]:
        labels = {"app": RECEIVER}
        container = {
            "name": RECEIVER,
            "image": self.site.image,
            "args": ["usher", "receive", f"--listen=0.0.0.0:{_PORT}", "--secret=env:SECRET"],
            "env": [{"name": "SECRET", "value": self._secret}],
            "readinessProbe": {"tcpSocket": {"port": _PORT}, "periodSeconds": 1},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        pod = {
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "automountServiceAccountToken": False,
            "containers": [container],
            "terminationGracePeriodSeconds": 1,
        }
        return [
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": self._named(RECEIVER),
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": pod},
                },
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": self._named(RECEIVER),
                "spec": {"selector": labels, "ports": [{"port": _PORT}]},
            },
        ]


class Sender:
    """`usher simulate`, which posts visits to one URL as Purple does."""

    def __init__(self, url: str, authority: Path, shape: list[str]) -> None:
        shape = ["--retry-after=2", "--output=json", *shape]
        command = [sys.executable, "-m", "usher_gateway", "simulate", url, f"--ca={authority}", *shape]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait(self, limit_seconds: float = 400) -> dict[str, Any]:
        """Return the sender's books.

        Raises:
            AssertionError: It failed, or a visit is unacknowledged.
        """
        books = self.wait_any(limit_seconds)
        assert self._process.returncode == 0, books
        return books

    def wait_any(self, limit_seconds: float = 400) -> dict[str, Any]:
        """Return the sender's books, also if visits are unacknowledged."""
        said, errors = self._process.communicate(timeout=limit_seconds)
        assert said, errors
        books: dict[str, Any] = json.loads(said)["books"]["listeners"][0]
        return books

    def stop(self) -> None:
        """End it, if it still runs."""
        self._process.kill()
        self._process.communicate()

    def is_running(self) -> bool:
        return self._process.poll() is None


def authority(site: sites.Site) -> Path:
    """Return a file with the certificate of the authority behind the issuer `authority`."""
    file = site.folder / "authority.crt"
    if not file.exists():
        secret = waiting.poll(lambda: site.exists("secret", "authority", "--namespace=cert-manager"))
        assert secret
        file.write_text(site.secret("cert-manager", "authority")["tls.crt"], "ascii")
    return file
