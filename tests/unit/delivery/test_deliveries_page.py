"""docs/deliveries.md tells the truth: its sample verifies, its codes and waits are those of the code."""

import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from support import delivery_samples, source
from usher_gateway import model
from usher_gateway.delivery import outcome, payload
from usher_gateway.destinations import DestinationAnswer, DestinationRequest, SendError

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


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


# A status for each cell that names several; the others begin with theirs.
STATUS = {"3xx": 302, "any other 4xx": 422, "5xx": 503}


def test_page_says_which_answers_are_retried_slowly() -> None:
    for cell, code, effect in source.table_rows(section("Answers and their effect").partition("\n### ")[0]):
        status = STATUS.get(cell.partition(":")[0]) or (int(cell) if cell.isdigit() else 0)
        name = code.strip("`")
        if not status and name not in {*SendError}:
            continue  # the first row, and the rules and headers of a destination
        answer = DestinationAnswer(status, error=None if status else SendError(name))
        result = outcome.classify(answer, delivery_samples.destination(), delivery_samples.RECEIVED_AT)
        said = (effect.startswith("dead"), effect.startswith("retried slowly") or effect == "as 401")
        assert (result.error, result.kind is model.SettledAs.Dead, result.slow) == (name, *said), cell


def test_page_has_the_waits_of_retries() -> None:
    units = {"s": 1, "min": 60, "h": 3600}
    rows = [
        tuple(int(cell.split()[0]) * units[cell.split()[1]] for cell in waits)
        for _, *waits in source.table_rows(section("Retries"))
    ]

    def wait(attempts: int, *, slow: bool, randomness: float = 0.5) -> float:
        return outcome.retry_wait(attempts, slow=slow, randomness=randomness) / model.MICROSECONDS

    code = [(wait(attempts, slow=False), wait(attempts, slow=True)) for attempts in range(1, len(rows) + 2)]
    assert [*rows, rows[-1]] == code, "the last row is of all later attempts"
    assert "varies by up to 20 % either way, so that 10 min are at least 8 min" in section("Retries")
    assert wait(1, slow=True, randomness=0) == 8 * 60


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
