"""kubectl as the tools and tests run it."""

import json
from pathlib import Path

from local_cluster import kubectl

DEFINITION = {"kind": "CustomResourceDefinition", "metadata": {"name": "tenants.usher.dev"}}
ESTABLISHED = {"conditions": [{"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "True"}]}


def test_definition_without_a_status_is_awaited(tmp_path: Path) -> None:
    """The API server writes the first conditions some time after the answer to `kubectl apply`."""
    for number, status in enumerate([{"conditions": None}, {"conditions": []}, ESTABLISHED]):
        (tmp_path / f"answer-{number}").write_text(json.dumps(DEFINITION | {"status": status}))
    program = tmp_path / "kubectl"
    program.write_text(f"""#!/bin/sh
cd {tmp_path}
next=$(ls answer-* | head -1)
cat $next
rm $next
""")
    program.chmod(0o700)
    kubectl.Kubectl(program, tmp_path / "kubeconfig", tmp_path).wait_established("tenants.usher.dev")
    assert list(tmp_path.glob("answer-*")) == []
