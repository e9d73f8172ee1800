"""The Node sample of docs/deliveries.md, if Node is installed."""

import json
import pathlib
import re
import shutil
import subprocess
import time

import pytest

from usher_gateway.delivery import payload

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "deliveries.md"
NODE = shutil.which("node")


# Only Node can run this sample of the docs. Usher does not need Node, so its tests must not need it either. The test
# runs where Node is installed, for example where changes are checked.
@pytest.mark.skipif(NODE is None, reason="Node is not installed")
@pytest.mark.parametrize("secret", ["whsec_c2VjcmV0c2VjcmV0", "any other text"])
def test_node_sample_accepts_only_genuine_requests(secret: str) -> None:
    code_block = re.search(r"```js\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code_block is not None
    assert NODE is not None
    now = int(time.time())
    keys = [payload.signing_key("another"), payload.signing_key(secret)]
    headers = {"webhook-id": "a", "webhook-timestamp": str(now)}
    headers["webhook-signature"] = payload.signature(keys, "a", now, b"{}")
    old = headers | {"webhook-timestamp": str(now - 301)}
    cases = [(secret, headers, "{}"), (secret, headers, "{ }"), ("wrong", headers, "{}"), (secret, old, "{}")]
    calls = [
        f"isGenuine({json.dumps(secret)}, {json.dumps(headers)}, Buffer.from({json.dumps(body)}))"
        for secret, headers, body in cases
    ]
    program = f"{code_block[1]}\nconsole.log(JSON.stringify([{', '.join(calls)}]));"
    done = subprocess.run([NODE, "-e", program], capture_output=True, text=True, timeout=20, check=True)
    assert json.loads(done.stdout) == [True, False, False, False]
