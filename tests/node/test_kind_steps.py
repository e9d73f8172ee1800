"""The commands that `make node` prints, in its shell, from no Usher to the first visits.

They are those of `make kind`, without the steps for an Ingress controller and cert-manager, which the node has.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import playground
from support import sites, waiting

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "install.md").read_text("utf-8")
LIST_CLASS = "kubectl get listenerclass public --no-headers"
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SYSTEM = "usher-system"
DEFINITIONS = [f"{kind}.usher.dev" for kind in ("listenerclasses", "tenants", "listeners", "destinations")]


class Shell:
    """The shell of `make node`."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self._environment = playground.environment(kubeconfig, folder)

    def run(self, command: str) -> str:
        """Run a command in the root of the project, and return what it prints."""
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def shell(site: sites.Site, tmp_path: Path) -> Iterator[Shell]:
    if site.local is None:
        pytest.skip("the image of a given cluster has another name")
    site.local.tag(site.image, playground.IMAGE)
    playground.furnish(site.local, archive=None)
    user = Shell(site.kubectl.kubeconfig, tmp_path)
    yield user
    user.run(f"helm uninstall usher --namespace {SYSTEM} --ignore-not-found --wait")
    later = "--ignore-not-found --wait=false"
    user.run(f"kubectl delete namespace agency {SYSTEM} {SYSTEM}-config {later}")
    user.run(f"kubectl delete storageclass {playground.STORAGE_CLASS}")  # other tests make volumes without a class
    volumes = " ".join(f"{playground.STORAGE_CLASS}-{number}" for number in range(playground.VOLUMES))
    user.run(f"kubectl delete persistentvolume {volumes} {later}")
    user.run(f"kubectl delete customresourcedefinition {' '.join(DEFINITIONS)} --ignore-not-found")


def stated(sentence: str) -> dict[str, int]:
    """Return the numbers of a sentence of the page. `{name}` stands for the word of a number."""
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\w+)", re.escape(sentence)).replace("\\ ", r"\s+")
    found = re.search(pattern, PAGE)
    assert found is not None, f"docs/install.md says: {sentence}"
    return {name: NUMBERS.index(word) for name, word in found.groupdict().items()}


def test_commands_of_the_page_lead_from_an_empty_cluster_to_its_figures(shell: Shell) -> None:
    commands = playground.commands()
    *_, logs, usage = commands
    for command in commands:
        shell.run(command)
        if command.endswith("class.yaml"):
            assert "also before the first listener" in PAGE
            waiting.poll(lambda: shell.run(LIST_CLASS).split(), lambda words: words[3:5] == ["True", "Ready"])

    def total() -> dict[str, int]:
        counts: dict[str, int] = json.loads(shell.run(f"{usage} --output=json"))["total"]
        return counts

    figures = stated(
        "The receiver got {visits} visits: {of_visitors} of the {sent} authentications, and the sample visit"
    )
    figures |= stated("The other {others} were visitors who pressed")
    counts = waiting.poll(total, lambda counts: counts["delivered"] == figures["visits"])
    assert counts["visits"] == figures["visits"] == figures["of_visitors"] + 1
    assert counts["repeats"] + counts["redeliveries"] == figures["others"] == figures["sent"] - figures["of_visitors"]

    def reachable() -> str:
        listener_class = json.loads(shell.run("kubectl get listenerclass public --output=json"))
        messages = {each["type"]: each["message"] for each in listener_class["status"]["conditions"]}
        return str(messages.get("Reachable", ""))

    assert "without a DNS record that DNS has no address" in " ".join(PAGE.split())
    waiting.poll(reachable, lambda message: message.startswith("DNS has no address"), limit_seconds=150)
    received = f"{figures['visits']} received, {figures['visits']} taken, 0 duplicates"
    waiting.poll(lambda: shell.run(f"{logs} 2>&1"), lambda text: received in text)
