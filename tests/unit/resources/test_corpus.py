import pathlib

import pytest

from support import manifests
from usher_gateway import model
from usher_gateway.config import files

KEYS = model.derive_keys(bytes(32))
BAD = [*manifests.files("bad/schema"), *manifests.files("bad/compile")]


@pytest.mark.parametrize("path", manifests.files("good"), ids=lambda path: path.stem)
def test_good_manifest_gives_documents_without_errors(path: pathlib.Path) -> None:
    configuration = files.load_once([path], KEYS)
    assert [problem for problem in configuration.problems if problem.severity != "notice"] == []
    assert configuration.snapshot.listeners


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_manifest_gives_exactly_the_expected_problems(path: pathlib.Path) -> None:
    problems = [problem for problem in files.load_once([path], KEYS).problems if problem.severity == "error"]
    if path.parent.name == "schema":  # these files are about form, and the objects that they name do not exist
        problems = [problem for problem in problems if problem.reason == ""]
    all_expected = [expected for document in manifests.of(path) for expected in document.expected]
    assert all_expected
    assert sorted((problem.line, problem.path) for problem in problems) == sorted(
        (expected.line, expected.field) for expected in all_expected
    )
    for expectation in all_expected:
        assert any(
            (problem.line, problem.path) == (expectation.line, expectation.field)
            and expectation.message in problem.message
            for problem in problems
        )
