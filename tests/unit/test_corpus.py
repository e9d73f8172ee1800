import pathlib
import re

import pytest

from usher_gateway import model
from usher_gateway.config import from_files

ROOT = pathlib.Path(__file__).parents[1] / "corpus"
GOOD = sorted((ROOT / "good").glob("*.yaml"))
BAD_SCHEMA = sorted((ROOT / "bad" / "schema").glob("*.yaml"))
BAD_COMPILE = sorted((ROOT / "bad" / "compile").glob("*.yaml"))

_EXPECTED = re.compile(r"#\s*expect: (.*)$")


def expected(path: pathlib.Path) -> list[tuple[int, str, str]]:
    """(line, field path, part of the message) of every problem that a file must give."""
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        match = _EXPECTED.search(line)
        for one in match.group(1).split(" ;; ") if match else ():
            field, _, message = one.partition(" | ")
            found.append((number, field, message))
    return found


KEYS = model.derive_keys(bytes(32))


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_good_manifest_has_no_errors_and_gives_documents(path: pathlib.Path) -> None:
    configuration = from_files.load_once([path], KEYS)
    assert [found for found in configuration.problems if found.severity != "notice"] == []
    assert configuration.snapshot.listeners


@pytest.mark.parametrize("path", BAD_SCHEMA + BAD_COMPILE, ids=lambda path: path.stem)
def test_a_bad_manifest_gives_exactly_the_expected_problems_on_their_lines(path: pathlib.Path) -> None:
    problems = [found for found in from_files.load_once([path], KEYS).problems if found.severity == "error"]
    wanted = expected(path)
    assert wanted
    assert sorted((found.line, found.path) for found in problems) == sorted(place[:2] for place in wanted)
    for line, field, message in wanted:
        assert any((found.line, found.path) == (line, field) and message in found.message for found in problems)
