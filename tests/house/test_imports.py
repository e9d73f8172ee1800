"""The folder `operator/` is not a package, so that it does not hide the standard library's `operator`."""

from pathlib import Path

from support import source


def test_operator_folder_is_not_a_package() -> None:
    """Python would import `operator/__init__.py` in place of the standard library's `operator`."""
    assert not (source.ROOT / "operator" / "__init__.py").exists()


def test_usher_operator_is_imported_from_this_repository() -> None:
    import usher_operator

    assert Path(usher_operator.__file__).parent == source.OPERATOR
