"""docs/deliveries.md tells the truth: its sample verifies, its codes are all the codes there are."""

import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from usher_gateway.delivery import outcome, payload
from usher_gateway.destinations import SendError

PAGE = (pathlib.Path(__file__).parents[3] / "docs" / "deliveries.md").read_text()


@pytest.fixture
def is_genuine() -> Callable[[str, dict[str, str], bytes], bool]:
    found = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    sample: Callable[[str, dict[str, str], bytes], bool] = names["is_genuine"]
    return sample


@pytest.mark.parametrize("secret", ["whsec_c2VjcmV0c2VjcmV0", "any other text"])
def test_python_sample_accepts_only_genuine_requests(
    is_genuine: Callable[[str, dict[str, str], bytes], bool], secret: str
) -> None:
    now = int(time.time())
    keys = [payload.signing_key("another"), payload.signing_key(secret)]
    headers = {"webhook-id": "a", "webhook-timestamp": str(now)}
    headers["webhook-signature"] = payload.signature(keys, "a", now, b"{}")
    assert is_genuine(secret, headers, b"{}")
    assert not is_genuine(secret, headers, b"{ }")
    assert not is_genuine("wrong", headers, b"{}")
    assert not is_genuine(secret, headers | {"webhook-timestamp": str(now - 301)}, b"{}")


@pytest.mark.parametrize("code", [*SendError, *outcome.AnswerError])
def test_page_explains_every_error_code(code: str) -> None:
    assert f"| `{code}` |" in PAGE


def test_page_explains_no_unknown_error_code() -> None:
    explained = re.findall(r"^\|[^|]*\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert set(explained) <= {*SendError, *outcome.AnswerError}
    assert len(explained) == len(SendError) + len(outcome.AnswerError)
