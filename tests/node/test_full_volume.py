"""A gateway whose volume is full."""

import contextlib

import pytest

from support import releases, waiting, webhooks

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

VOLUME_MEGABYTES = 1_400  # More than the gateway keeps free

_READ_METRICS = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9090/metrics').read().decode())"


def refusals(release: releases.Release) -> float:
    """Return how many arrivals the gateway has refused because it has no space."""
    command = ("exec", release.gateway, f"--namespace={release.namespace}", "--", "python", "-c", _READ_METRICS)
    reasons = tuple(f'usher_refused_total{{reason="{reason}"}}' for reason in ("LowDisk", "StoreUnavailable"))
    lines = release.site.kubectl.run(*command).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(reasons))


def test_full_volume_refuses_visits_until_it_has_space_again(
    release: releases.Release, webhook: webhooks.Webhook
) -> None:
    local = release.site.local
    if local is None:
        # The test fills the volume through the node's own file system, which another cluster does not give.
        pytest.skip("only the volume of a local node can be filled")
    acknowledged = [webhook.start_visits(50).wait()]

    def is_refused() -> bool:
        sent = webhook.start_visits(1, "--no-validate", "--patience=0").wait_any()
        if sent["acknowledged"]:
            acknowledged.append(sent)
        return bool(sent["failed_by_status"] == {"503": sent["sent"]})

    filler = local.files.volumes / release.namespace / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:  # until nothing is left, whatever the gateway writes meanwhile
            file.write(bytes(1 << 20))
    waiting.poll(is_refused, limit_seconds=150)
    refusals_before = refusals(release)
    sender = webhook.start_visits(50, "--no-validate")
    waiting.poll(lambda: refusals(release), lambda refused: refused > refusals_before)
    filler.unlink()
    sent = sender.wait()
    assert sent["retries"] > 0
    webhook.assert_books_equal(*acknowledged, sent)
