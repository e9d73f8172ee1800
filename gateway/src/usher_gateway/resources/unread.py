"""Finds mistakes in the references and expressions of objects that have mistakes of form.

Such an object cannot be made into its type, so the compiler never sees it. Without this module, a user would see its
wrong references and expressions only after correcting its form.
"""

from collections.abc import Container, Iterator, Sequence

import msgspec
import yaml

from usher_gateway import expressions
from usher_gateway.resources import conditions, yaml_reader

_REFERENCES = {
    "Listener": (
        ("spec.tenantRef.name", "Tenant"),
        ("spec.listenerClassName", "ListenerClass"),
        ("spec.routes[].destinationRef.name", "Destination"),
        ("spec.authentication.basic.secretRef.name", "Secret"),
        ("spec.authentication.header.secretRef.name", "Secret"),
    ),
    "Destination": (
        ("spec.tenantRef.name", "Tenant"),
        ("spec.http.urlVariables[].valueFrom.secretKeyRef.name", "Secret"),
        ("spec.http.erasure.urlVariables[].valueFrom.secretKeyRef.name", "Secret"),
        ("spec.http.headers[].valueFrom.secretKeyRef.name", "Secret"),
        ("spec.http.authentication.basic.secretRef.name", "Secret"),
        ("spec.http.authentication.bearer.secretRef.name", "Secret"),
        ("spec.http.authentication.header.secretRef.name", "Secret"),
        ("spec.http.authentication.oauth2.clientCredentials.secretRef.name", "Secret"),
        ("spec.http.authentication.oauth2.jwtBearer.secretRef.name", "Secret"),
        ("spec.http.tls.authoritySecretRef.name", "Secret"),
        ("spec.http.tls.clientCertificateSecretRef.name", "Secret"),
        ("spec.http.signing.secretRefs[].name", "Secret"),
    ),
}
"""Kind -> (path of a name, kind of the object that it names)."""

_EXPRESSIONS: dict[str, dict[str, expressions.Where]] = {
    "Listener": {"spec.routes[].when": "when", "spec.routes[].transform": "transform"},
    "Destination": {
        "spec.transform": "transform",
        "spec.http.urlVariables[].value": "variable",
        "spec.http.erasure.transform": "transform",
        "spec.http.erasure.urlVariables[].value": "variable",
        "spec.http.answers[].when": "answer",
    },
}
"""Kind -> path of an expression -> its field."""

_REASONS = {
    "Tenant": conditions.Reason.TenantNotFound,
    "ListenerClass": conditions.Reason.ClassNotFound,
    "Destination": conditions.Reason.DestinationNotFound,
    "Secret": conditions.Reason.SecretNotFound,
}


class UnreadObject(msgspec.Struct, frozen=True):
    """An object with mistakes of form: the references and expressions in it that have none."""

    kind: str
    key: str
    file: str
    line: int
    lines: dict[str, int]
    references: tuple[tuple[str, str, str], ...]
    """(path, kind, name)."""
    expressions: tuple[tuple[str, str, expressions.Where], ...]
    """As ``Listener.expressions``."""

    def line_of(self, path: str) -> int:
        """Return the line of a reference or an expression, or of the object."""
        return self.lines.get(path, self.line)


def read_unread(node: yaml.Node, kind: str, key: str, file: str, mistakes: Container[str]) -> UnreadObject:
    """Return the references and expressions of an object. ``mistakes``: the paths that have a problem already."""
    lines: dict[str, int] = {}
    references = []
    for pattern, target_kind in _REFERENCES.get(kind, ()):
        for path, scalar in _find(node, pattern.split("."), ""):
            if path not in mistakes and scalar.value:
                shown = path.removesuffix(".name") if target_kind == "Secret" else path
                lines[shown] = yaml_reader.line_of(scalar)
                references.append((shown, target_kind, str(scalar.value)))
    sources: list[tuple[str, str, expressions.Where]] = []
    for pattern, where in _EXPRESSIONS.get(kind, {}).items():
        for path, scalar in _find(node, pattern.split("."), ""):
            if path not in mistakes:
                lines[path] = yaml_reader.line_of(scalar)
                sources.append((path, str(scalar.value), where))
    return UnreadObject(kind, key, file, yaml_reader.line_of(node), lines, tuple(references), tuple(sources))


def _find(node: yaml.Node, pattern: Sequence[str], path: str) -> Iterator[tuple[str, yaml.ScalarNode]]:
    """Yield each text at a pattern such as ``a.b[].c``, with its path."""
    if not pattern:
        if isinstance(node, yaml.ScalarNode) and isinstance(yaml_reader.value_of(node), str):
            yield path, node
        return
    if not isinstance(node, yaml.MappingNode):
        return
    name = pattern[0].removesuffix("[]")
    path = yaml_reader.join(path, name)
    for key, value in node.value:
        if key.value != name:
            continue
        if name == pattern[0]:
            yield from _find(value, pattern[1:], path)
        elif isinstance(value, yaml.SequenceNode):
            for index, item in enumerate(value.value):
                yield from _find(item, pattern[1:], f"{path}[{index}]")


def unread_findings(unread: UnreadObject, identities: Container[tuple[str, str]]) -> Iterator[conditions.Finding]:
    """Yield a finding for each reference to an object that does not exist, and for each problem of an expression.

    Args:
        unread: The object.
        identities: (kind, key) of every object of the files, also of those with mistakes.
    """
    for path, kind, name in unread.references:
        is_class = kind == "ListenerClass"
        missing = (kind, name if is_class else f"{unread.key.partition('/')[0]}/{name}")
        if missing not in identities:
            message = f"{kind} `{name}` must exist" + ("" if is_class else " in the same namespace")
            yield conditions.Finding(unread.kind, unread.key, path, _REASONS[kind], message, "error", missing)
    for path, source, where in unread.expressions:
        yield from conditions.findings_of_expression(unread.kind, unread.key, path, source, where)
