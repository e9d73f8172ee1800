"""docs/deliveries.md tells the truth: its sample verifies, its codes are all the codes there are."""

import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from support import delivery_samples
from usher_gateway.delivery import outcome, payload
from usher_gateway.destinations import DestinationRequest, SendError

PAGE = (pathlib.Path(__file__).parents[3] / "docs" / "deliveries.md").read_text()


@pytest.fixture
def is_genuine() -> Callable[[str, dict[str, str], bytes], bool]:
    code_block = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code_block is not None
    names: dict[str, Any] = {}
    exec(code_block[1], names)
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


def content_type(sent: bytes, transformed: Any = payload.NOT_TRANSFORMED, **changes: Any) -> str:
    """Return the content type of a request."""
    target, delivery = (
        payload.prepare(delivery_samples.destination(**changes)),
        delivery_samples.delivery(content_type=sent),
    )
    request = payload.render(target, delivery, delivery_samples.ROUTE, delivery.received_at, transformed)
    assert isinstance(request, DestinationRequest)
    return dict(request.headers)["content-type"]


@pytest.mark.parametrize("form", ["Verbatim", "CloudEvents", "CloudEventsBinary"])
def test_page_names_the_content_type_that_each_format_sends(form: str) -> None:
    table_row = re.search(rf"^\| `{form}` \|.*\| (.*) \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
    assert table_row is not None
    sent = "text/x; charset=latin-1"
    expected = [cell.strip("`") if cell != "as Purple sent it" else sent for cell in table_row.groups()]
    assert expected == [
        content_type(sent.encode(), format=form),
        content_type(b"", format=form),
        content_type(sent.encode(), {"a": 1}, format=form),
    ]
