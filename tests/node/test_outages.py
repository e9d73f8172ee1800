"""Outages of parts of an installed release while visits arrive: the books stay equal."""

import contextlib
from collections.abc import Iterator

import pytest

from local_cluster import kubectl as kubectls
from support import figures, gaps, releases, waiting, webhooks

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

RETRY = {
    "apiVersion": "traefik.io/v1alpha1",
    "kind": "Middleware",
    "spec": {"retry": {"attempts": 40, "initialInterval": "250ms", "timeout": "9s"}},
}


@pytest.fixture
def another(release: releases.Release) -> Iterator[webhooks.Webhook]:
    """A second webhook, so that the first one is not the last listener of the install."""
    with contextlib.ExitStack() as stack:
        new_webhook = webhooks.Webhook(release)
        stack.callback(new_webhook.remove)
        new_webhook.create()
        new_webhook.wait_ready()
        yield new_webhook


def test_killed_gateway_loses_no_acknowledged_visit(release: releases.Release, webhook: webhooks.Webhook) -> None:
    sender = webhook.start_visits(1000, rate=40)
    webhook.wait_visits(100)
    release.kill_gateway()
    sent = sender.wait()
    assert sent["retries"] > 0
    figures.add(f"gateway killed at 40 visits/s: {sent['retries']} attempts failed and were sent again")
    release.wait_ready()
    webhook.assert_books_equal(sent)


def test_restarted_gateway_loses_no_acknowledged_visit(release: releases.Release, webhook: webhooks.Webhook) -> None:
    restart_under_load(release, webhook, "")


def test_ingress_that_retries_shortens_the_gap_of_a_restart(
    release: releases.Release, webhook: webhooks.Webhook
) -> None:
    metadata = {"name": "retry", "namespace": release.namespace}
    release.site.apply({**RETRY, "metadata": metadata})
    native = "traefik.ingress.kubernetes.io/service.nativelb=true"
    release.kubectl("annotate", "service", f"{releases.NAME}-gateway", native)
    annotation = {"traefik.ingress.kubernetes.io/router.middlewares": f"{release.namespace}-retry@kubernetescrd"}
    ingress = {"className": "traefik", "annotations": annotation}
    webhook.apply_class({"exposure": {"type": "Ingress", "scope": "Path", "ingress": ingress}} | webhooks.ISSUED)

    def is_annotated() -> bool:
        ingresses = release.site.get("ingresses", f"--namespace={release.namespace}")
        return any(annotation.items() <= child["metadata"]["annotations"].items() for child in ingresses)

    waiting.poll(is_annotated)
    try:
        restart_under_load(release, webhook, " with Traefik's retries")
    finally:
        release.kubectl("annotate", "service", f"{releases.NAME}-gateway", native.partition("=")[0] + "-")


def restart_under_load(release: releases.Release, webhook: webhooks.Webhook, how: str) -> None:
    """Restart the gateway as an upgrade does, while visits arrive."""
    # A visit is sent again after the gap, so that the sender counts each visit once that meets the gap.
    sender = webhook.start_visits(1200, "--retry-after=25", rate=40)
    webhook.wait_visits(100)
    with gaps.GapMeter(webhook.url(), webhooks.authority(webhook.site)) as meter:
        release.kubectl("rollout", "restart", f"statefulset/{releases.NAME}-gateway")
        release.wait_ready()
        sent = sender.wait()
    figures.add(
        f"gateway restarted at 40 visits/s{how}: {sent['retries']} of {sent['acknowledged']} visits were sent again;"
        f" no good answer for {meter.longest_seconds:.1f} s, slowest good answer {meter.slowest_seconds:.1f} s"
    )
    webhook.assert_books_equal(sent)


def test_replaced_operator_pods_put_later_edits_into_force(
    release: releases.Release, webhook: webhooks.Webhook
) -> None:
    sender = webhook.start_visits(200, rate=20)
    release.kubectl("delete", "pods", "--selector=app.kubernetes.io/component=operator")
    webhook.apply_listener(silence={"afterSeconds": 3600})
    webhook.wait_ready()
    sent = sender.wait()
    assert sent["retries"] == 0
    webhook.assert_books_equal(sent)


def test_visits_go_on_while_the_api_server_restarts(webhook: webhooks.Webhook) -> None:
    local = webhook.site.local
    if local is None:
        pytest.skip("only the API server of the local node can be restarted")
    sender = webhook.start_visits(400, rate=20)
    webhook.wait_visits(50)
    local.plane.restart()
    sent = sender.wait()
    assert sent["retries"] == 0
    waiting.poll(lambda: is_accepted(webhook), limit_seconds=180)  # until then the policy does not find the classes
    webhook.wait_ready()
    webhook.assert_books_equal(sent)


def is_accepted(webhook: webhooks.Webhook) -> bool:
    """Edit the listener, and return whether the API server accepted that."""
    try:
        webhook.apply_listener(silence={"afterSeconds": 3600})
    except kubectls.KubectlError:
        return False
    return True


def test_resources_are_deleted_in_any_order_without_an_operator(
    release: releases.Release, webhook: webhooks.Webhook, another: webhooks.Webhook
) -> None:
    webhook.start_visits(20).wait()
    deployment = f"deployment/{releases.NAME}-operator"
    release.kubectl("scale", deployment, "--replicas=0")
    waiting.poll(lambda: release.pods("operator"), lambda pods: not pods, limit_seconds=150)
    for name in ("tenant/acme", "destination/crm", f"listenerclass/{webhook.namespace}", "listener/lobby"):
        release.site.kubectl.run("delete", name, f"--namespace={webhook.namespace}", "--timeout=60s")
    release.site.kubectl.run("delete", "namespace", webhook.namespace, "--timeout=110s")
    release.kubectl("scale", deployment, "--replicas=2")

    def children() -> bool:
        kinds = "ingresses,certificates"
        return webhook.hostname in str(release.site.get(kinds, f"--namespace={release.namespace}"))

    waiting.poll(children, lambda left: not left, limit_seconds=180)
    another.wait_ready()
    another.assert_books_equal(another.start_visits(20).wait())
