"""The generated files, as text."""

from typing import Any

import yaml

from definitions import chart, definition, pages

# Folders in which all files are generated, except WRITTEN_BY_HAND.
FOLDERS = ("crds", "docs/reference", "charts/usher/templates/rbac")

WRITTEN_BY_HAND = ("crds/README.md", "charts/usher/templates/rbac/admission.yaml")  # Other files in these folders

_HEADER = "# Made from gateway/src/usher_gateway/resources by `make crds`: edit those.\n"


def files() -> dict[str, str]:
    """Return the path below the repository -> content of each generated file."""
    definitions = {f"crds/{name}": to_yaml(document) for name, document in definition.definitions().items()}
    return definitions | pages.pages() | chart.files() | chart.readme() | chart.schema()


def to_yaml(*objects: dict[str, Any]) -> str:
    """Return objects as YAML, one document each."""
    dumped = [
        yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120) for document in objects
    ]
    return _HEADER + "---\n".join(dumped)


class _Dumper(yaml.SafeDumper):
    """Writes no anchors, because tools that split a file into documents lose them."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True, so that every value is written out."""
        del data
        return True
