"""Every file that is made, as text."""

from typing import Any

import yaml

from definitions import definition, pages

FOLDERS = ("crds", "docs/reference")
"""Folders whose files are all made, but for those written by hand."""

WRITTEN_BY_HAND = ("crds/README.md",)
"""What else may be in them."""

_HEADER = "# Made from gateway/src/usher_gateway/resources by `make crds`: edit those.\n"


def files() -> dict[str, str]:
    """Path below the repository -> what stands there."""
    return {f"crds/{name}": to_yaml(one) for name, one in definition.definitions().items()} | pages.pages()


def to_yaml(*objects: dict[str, Any]) -> str:
    """Objects as YAML, one document each."""
    dumped = [yaml.dump(one, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120) for one in objects]
    return _HEADER + "---\n".join(dumped)


class _Dumper(yaml.SafeDumper):
    """Without anchors: tools that read a file by documents would lose them."""

    def ignore_aliases(self, data: Any) -> bool:
        """Every value is written out."""
        del data
        return True
