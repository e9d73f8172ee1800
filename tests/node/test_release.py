"""The life of a release: upgrade, rollback, uninstallation, and a new installation on the same volume."""

import json
import shutil
from pathlib import Path

import pytest

from support import charts, releases, sites, waiting, webhooks

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

NEXT_IMAGE = "localhost/usher:next"


@pytest.fixture
def next_chart(tmp_path: Path) -> Path:
    """The chart of a later version, whose Tenants have one more field."""
    chart = tmp_path / "usher"
    shutil.copytree(charts.CHART, chart)
    definition = chart / "files" / "crds" / "usher.dev_tenants.yaml"
    text = definition.read_text("utf-8")
    text_before, indent_and_name, text_after = text.partition("              displayName:\n")
    assert text_after
    field = "              note:\n                type: string\n                maxLength: 64\n"
    definition.write_text(text_before + field + indent_and_name + text_after, "utf-8")
    return chart


def test_upgrade_changes_image_values_and_definitions_and_is_rolled_back(
    release: releases.Release, webhook: webhooks.Webhook, next_chart: Path
) -> None:
    url = webhook.url()
    first = webhook.start_visits(50).wait()
    noted = {"companyID": "77", "note": "moved in"}
    assert not webhook.accepts_tenant(noted)

    images = []
    if release.site.local is not None:
        release.site.local.tag(release.site.image, NEXT_IMAGE)
        images = ["--set=image.tag=next"]
    values = ["--set=gateway.logLevel=debug", "--set=operator.replicaCount=1", *images]
    release.upgrade(releases.ALLOW_CLUSTER, *values, chart=str(next_chart))
    (gateway,), (_operator,) = (
        release.pods("gateway"),
        waiting.poll(lambda: release.pods("operator"), lambda pods: len(pods) == 1),
    )
    container = gateway["spec"]["containers"][0]
    assert "--log-level=debug" in container["args"]
    assert container["image"] == (NEXT_IMAGE if images else release.site.image)
    assert webhook.accepts_tenant(noted)
    webhook.wait_ready()
    second = webhook.start_visits(50).wait()

    release.rollback(1)
    assert not webhook.accepts_tenant(noted)
    (gateway,) = release.pods("gateway")
    assert gateway["spec"]["containers"][0]["image"] == release.site.image
    webhook.wait_ready()
    assert webhook.url() == url
    webhook.assert_books_equal(first, second, webhook.start_visits(50).wait())


def test_programs_run_as_users_that_openshift_chooses(release: releases.Release, webhook: webhooks.Webhook) -> None:
    """A user without a name, in the group of root, on a volume that another user wrote."""
    first = webhook.start_visits(50).wait()
    webhook.wait_delivered()
    chosen = {"runAsUser": 1000680000, "runAsGroup": 0, "fsGroup": 1000680000}
    fields = [
        f"{part}.podSecurityContext.{name}={number}"
        for part in ("gateway", "operator")
        for name, number in chosen.items()
    ]
    release.upgrade(releases.ALLOW_CLUSTER, f"--set={','.join(fields)}")
    (gateway,) = release.pods("gateway")
    assert gateway["spec"]["securityContext"].items() >= chosen.items()
    webhook.wait_ready()
    webhook.assert_books_equal(first, webhook.start_visits(50).wait())


def test_rollback_replaces_a_gateway_that_does_not_start(release: releases.Release, webhook: webhooks.Webhook) -> None:
    first = webhook.start_visits(50).wait()
    webhook.wait_delivered()
    good = json.loads(release.helm("history", releases.NAME, "--output=json"))[-1]["revision"]
    wrong = ("--set=gateway.extraArgs={--nonsense}", "--wait", "--timeout=20s")
    with pytest.raises(charts.HelmError):
        release.helm("upgrade", releases.NAME, str(charts.CHART), *release.values, releases.ALLOW_CLUSTER, *wrong)
    assert not release.gateway_is_ready()

    release.rollback(good)
    assert release.gateway_is_ready()
    webhook.wait_ready()
    webhook.assert_books_equal(first, webhook.start_visits(50).wait())


def test_new_installation_after_an_uninstallation_continues_with_volume_and_urls(
    release: releases.Release, webhook: webhooks.Webhook
) -> None:
    url = webhook.url()
    first = webhook.start_visits(50).wait()
    webhook.wait_delivered()
    release.uninstall()
    of_the_operator = ("ingresses,certificates", "--selector=usher.dev/managed=true", "--output=name")
    written = set(release.kubectl("get", *of_the_operator).split())
    certificates = {name.partition("/")[2] for name in written if name.startswith("certificate.")}
    expected = {
        f"persistentvolumeclaim/{release.volume_claim}",
        "secret/usher-install-key",
        "secret/usher-admin-tokens",
        "lease.coordination.k8s.io/usher-operator",
        *written,
    }
    issued = {f"secret/{name}-tls" for name in certificates}

    def is_as_documented(objects: set[str]) -> bool:
        # cert-manager keeps the Secrets of Certificates that earlier tests deleted
        return issued <= objects and {name for name in objects if not name.endswith("-tls")} == expected

    waiting.poll(lambda: left(release.site, release.namespace), is_as_documented, limit_seconds=150)
    release.site.get("listener", "lobby", f"--namespace={webhook.namespace}")

    release.helm("install", releases.NAME, str(charts.CHART), "--wait", *release.values, releases.ALLOW_CLUSTER)
    webhook.wait_ready()
    assert webhook.url() == url
    webhook.assert_books_equal(first, webhook.start_visits(50).wait())


def left(site: sites.Site, namespace: str) -> set[str]:
    """Return the objects of a namespace, except Events and those of Kubernetes and cert-manager."""
    kinds = site.kubectl.run("api-resources", "--namespaced", "--verbs=list", "--output=name").split()
    listed_kinds = [kind for kind in kinds if not kind.startswith(("events", "certificaterequests"))]
    names = site.kubectl.run("get", ",".join(listed_kinds), f"--namespace={namespace}", "--output=name").split()
    return set(names) - {"configmap/kube-root-ca.crt", "serviceaccount/default"}
