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
    assert [found for found in configuration.problems if found.severity != "notice"] == []
    assert configuration.snapshot.listeners


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad_manifest_gives_exactly_the_expected_problems(path: pathlib.Path) -> None:
    problems = [found for found in files.load_once([path], KEYS).problems if found.severity == "error"]
    if path.parent.name == "schema":  # these files are about form, and the objects that they name do not exist
        problems = [found for found in problems if found.reason == ""]
    wanted = [expected for document in manifests.of(path) for expected in document.expected]
    assert wanted
    assert sorted((found.line, found.path) for found in problems) == sorted((one.line, one.field) for one in wanted)
    for one in wanted:
        assert any(
            (found.line, found.path) == (one.line, one.field) and one.message in found.message for found in problems
        )
