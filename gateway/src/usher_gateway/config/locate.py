"""What compile() found, as problems: with file and line, how to mend it, and what it only follows from. Pure."""

import functools
from collections.abc import Iterable, Mapping

from usher_gateway.resources import conditions, load

_HINTS = 200
"""So many problems of one reading get a hint that has to be searched for."""

Objects = Mapping[tuple[str, str], load.Loaded]
"""The objects in force, by (kind, key), in order."""


def locate(
    findings: Iterable[conditions.Finding], objects: Objects, manifests: load.Manifests
) -> list[conditions.Problem]:
    """The problems that findings are."""
    hints = _Hints(objects, manifests)
    return [_problem(found, objects, manifests, hints) for found in findings]


def unread(manifests: load.Manifests) -> conditions.Problem | None:
    """The first thing of which nobody can tell which object it is, or which objects are in it."""
    told = (found for found in manifests.problems if found.severity == "error")
    return next((found for found in told if " " not in found.resource), None)


def _problem(
    found: conditions.Finding, objects: Objects, manifests: load.Manifests, hints: "_Hints"
) -> conditions.Problem:
    loaded = objects.get((found.kind, found.key))
    file, line = (loaded.file, loaded.line_of(found.path)) if loaded else ("", 0)
    if not file and manifests.objects:
        file, line = manifests.objects[0].file, 1
    because = _because(found, manifests)
    return conditions.Problem(
        file,
        line,
        found.path,
        found.message,
        "" if because else hints.of(found),
        found.severity,
        f"{found.kind} {found.key}".strip(),
        str(found.reason),
        because,
    )


def _because(found: conditions.Finding, manifests: load.Manifests) -> str:
    """What is missing may be there, with a mistake; or may be in what could not be read."""
    if found.missing is None:
        return ""
    if found.missing in manifests.invalid:
        return " ".join(found.missing)
    gap = unread(manifests)
    return f"{gap.file}:{gap.line}" if gap else ""


class _Hints:
    """Says what may have been meant by the name of something that is not there."""

    def __init__(self, objects: Objects, manifests: load.Manifests) -> None:
        self._left = _HINTS
        self._objects, self._manifests = objects, manifests

    @functools.cached_property
    def _known(self) -> tuple[dict[tuple[str, str], list[str]], dict[tuple[str, str], list[str]]]:
        """(kind, namespace) -> names, and (kind, name) -> namespaces; made when something is missing."""
        names: dict[tuple[str, str], list[str]] = {}
        namespaces: dict[tuple[str, str], list[str]] = {}
        for kind, key in (*self._objects, *sorted(self._manifests.invalid - self._objects.keys())):
            namespace, _, name = key.rpartition("/")
            names.setdefault((kind, namespace), []).append(name)
            namespaces.setdefault((kind, name), []).append(namespace)
        return names, namespaces

    def of(self, found: conditions.Finding) -> str:
        """The hint for a finding."""
        if found.missing is None or not self._left:
            return ""
        self._left -= 1
        kind, key = found.missing
        namespace, _, name = key.rpartition("/")
        names, namespaces = self._known
        elsewhere = namespaces.get((kind, name))
        if elsewhere:
            return f"there is one in namespace `{elsewhere[0]}`, but references stay inside one namespace"
        return conditions.did_you_mean(name, names.get((kind, namespace), ()))
