"""Destination manifests for known systems, each with what its account needs and what it sends."""

import importlib.resources
import re

_FOLDER = importlib.resources.files(__package__)
_NAMESPACE, _TENANT = "agency", "acme"  # The names in the files


def names() -> list[str]:
    """Return all recipe names."""
    return sorted(file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if file.name.endswith(".yaml"))


def title(name: str) -> str:
    """Return what a recipe does, in a sentence."""
    return _text(name).split("\n", 1)[0].removeprefix("# ")


def sends(name: str) -> str:
    """Return what a recipe sends."""
    match = re.search(r"^# Sends: (.*(?:\n# (?![A-Z]\w+:).*)*)", _text(name), re.MULTILINE)
    return " ".join(match[1].replace("\n# ", " ").split()) if match else ""


def filled(name: str, namespace: str, tenant: str) -> str:
    """Return a recipe for a tenant.

    Its names begin with the tenant's, because a Secret with the same name would replace another tenant's in the
    namespace, and a rate limit with the same name would be shared with it.
    """
    system = name.partition("-")[0]
    text = re.sub(rf"\b(name|sharedBy): ({system}\b)", rf"\1: {tenant}-\2", _text(name))
    text = text.replace(f"namespace: {_NAMESPACE}", f"namespace: {namespace}")
    return text.replace(f"tenantRef: {{name: {_TENANT}}}", f"tenantRef: {{name: {tenant}}}")


def _text(name: str) -> str:
    return _FOLDER.joinpath(f"{name}.yaml").read_text("utf-8")
