"""docs/simulate.md says how Usher counts early redeliveries, and begins with the example of the help."""

import pathlib
import re
from typing import Any

import pytest

from support import samples
from support.command_line import COMMANDS
from usher_gateway import model
from usher_gateway.simulator import schedule
from usher_gateway.store.decide import DedupeFacts, decide

PAGE = (pathlib.Path(__file__).parents[3] / "docs" / "simulate.md").read_text()


def counted_as(seconds: int, **changes: Any) -> model.CountedAs:
    """Return the decision about a redelivery that comes this long after the acknowledgement."""
    facts = DedupeFacts(contents={}, sightings={}, once_marks=set())
    later = samples.NOW + seconds * samples.SECOND
    assert decide(samples.arrival("a", **changes), facts).counted_as is model.CountedAs.Visit
    return decide(samples.arrival("a", later, **changes), facts).counted_as


@pytest.mark.parametrize("seconds", [20, 3_000])
def test_early_redelivery_is_a_repeat_without_a_trusted_time(seconds: int) -> None:
    words = " ".join(PAGE.split())
    assert "as a redelivery if it has a trusted time, and otherwise as a repeat" in words
    assert counted_as(seconds, time_trusted=False) is model.CountedAs.Repeat
    assert counted_as(5_000, time_trusted=False) is model.CountedAs.Visit, "after the window of an hour"
    assert counted_as(seconds, time_trusted=True, visit_time=samples.NOW) is model.CountedAs.Redelivery


def test_page_names_the_time_after_which_a_retry_is_a_redelivery() -> None:
    sentence = re.search(r"less than ([0-9,]+) s", PAGE)
    assert sentence is not None
    seconds = int(sentence[1].replace(",", ""))
    assert seconds * model.MICROSECONDS == model.REDELIVERY_NOT_BEFORE
    assert counted_as(seconds, time_trusted=False) is model.CountedAs.Redelivery


def test_example_of_the_help_is_that_of_the_page_and_takes_half_a_minute() -> None:
    """Without --retry-after, it would wait three hours for its redeliveries."""
    command = COMMANDS["simulate"]
    example = re.search(r"^```\n(usher simulate .*)\n```$", PAGE, re.MULTILINE)
    assert example is not None
    assert command.epilog.startswith(f"Example:  {example[1]}   or, ")
    given = command.make_context("simulate", example[1].split()[2:]).params
    assert round(given["visits"] * schedule.Pattern().redeliveries) > 0
    seconds = given["visits"] / given["rate"] + given["retry_after"] / given["time_scale"]
    assert seconds == 30
    assert "takes about half a minute" in PAGE
