"""Templates of the chart that repeat files of crds/access/ and operator/rbac/, so that both say the same. Pure."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TEMPLATES = "charts/usher/templates"

_MADE = "{{- /* Made from %s by `make crds`: edit that. */ -}}\n"

# File of crds/access -> the value that switches it on.
_ACCESS = {
    "hostnames": ".Values.hostnamePolicy.enabled",
    "people": "and .Values.rbac.aggregate .Values.gateway.kubernetesTokens.enabled",
    "roles": ".Values.rbac.aggregate",
}

# File of operator/rbac -> the value that switches it on.
_RIGHTS = {
    "agency": "and .Values.rbac.create .Values.rbac.agencyRole",
    "gateway": ".Values.rbac.create",
    "operator": ".Values.rbac.create",
    "optional/kubernetes-tokens": "and .Values.rbac.create .Values.gateway.kubernetesTokens.enabled",
}

# The chart's labels and annotations; arguments: the component, and further annotations.
_METADATA = '  {{- include "usher.metadata" (list . "%s"%s) | nindent 2 }}\n'

_LABELS = '    {{- include "usher.labels" (list . "%s") | nindent 4 }}\n'
_ANNOTATIONS = '  {{- include "usher.annotations" (list . "%s") | nindent 2 }}\n'

# Keeps the rights in the configuration namespace when the release is uninstalled, so that the operator finds its
# documents there after the release got another.
_KEPT = ' (dict "helm.sh/resource-policy" "keep")'

_CONFIGURATION_NAMESPACE = 'namespace: {{ include "usher.configurationNamespace" . | quote }}'

# Names in the manifests -> what the chart calls them.
_NAMES = (
    ("namespace: usher-system", "namespace: {{ .Release.Namespace | quote }}"),
    ("namespace: usher-config", _CONFIGURATION_NAMESPACE),
    (
        "kind: ServiceAccount, name: usher-operator,",
        'kind: ServiceAccount, name: {{ include "usher.operator.serviceAccount" . | quote }},',
    ),
    (
        "kind: ServiceAccount, name: usher-gateway,",
        'kind: ServiceAccount, name: {{ include "usher.gateway.serviceAccount" . | quote }},',
    ),
    ("name: usher-operator", 'name: {{ include "usher.name" . }}-operator'),
    ("name: usher-gateway", 'name: {{ include "usher.name" . }}-gateway'),
)


def files() -> dict[str, str]:
    """Return the generated templates: path -> text."""
    templates = {}
    for name, value in _ACCESS.items():
        path = f"crds/access/{name}.yaml"
        templates[f"{TEMPLATES}/rbac/{name}.yaml"] = _made(path) + _only_if(value, _labelled(_read(path), "access"))
    for file, value in _RIGHTS.items():
        path, name = f"operator/rbac/{file}.yaml", file.rpartition("/")[2]
        text = "---\n".join(_without_accounts(_read(path)))
        for text_of_install, text_in_chart in _NAMES:
            text = text.replace(text_of_install, text_in_chart)
        templates[f"{TEMPLATES}/rbac/{name}.yaml"] = _made(path) + _only_if(value, _labelled(text, name))
    return templates


def _read(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def _made(path: str) -> str:
    return _MADE % path


def _only_if(value: str, text: str) -> str:
    return f"{{{{- if {value} }}}}\n{text}{{{{- end }}}}\n"


def _labelled(text: str, component: str) -> str:
    """Add the chart's labels and annotations to each document."""
    documents = text.split("---\n")
    for index, document in enumerate(documents):
        if "\n  labels:\n" in document:
            labels = f"{_ANNOTATIONS % component}  labels:\n{_LABELS % component}"
            documents[index] = document.replace("\n  labels:\n", f"\n{labels}", 1)
        else:
            metadata = _METADATA % (component, _KEPT if f"\n  {_CONFIGURATION_NAMESPACE}\n" in document else "")
            documents[index] = document.replace("\nmetadata:\n", f"\nmetadata:\n{metadata}", 1)
    return "---\n".join(documents)


def _without_accounts(text: str) -> Iterator[str]:
    """Yield the documents without the service accounts, which the chart has itself."""
    for document in text.split("---\n"):
        if "\nkind: ServiceAccount\n" not in document:
            yield document


README = "charts/usher/README.md"

SCHEMA = "charts/usher/values.schema.json"

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z]+):(?: (?P<value>.*))?$")

_TABLE = re.compile(r"(?<=<!-- values -->\n).*(?=<!-- end -->\n)", re.DOTALL)


def readme() -> dict[str, str]:
    """Return the chart's page with the table of values: path -> text."""
    values = _values(_read("charts/usher/values.yaml"))
    rows = [f"| `{path}` | `{value}` | {comment} |\n" for path, value, comment in values]
    table = "".join(["| value | default | meaning |\n", "| --- | --- | --- |\n", *rows])
    return {README: _TABLE.sub(lambda _: table, _read(README))}


def schema() -> dict[str, str]:
    """Return the chart's schema, whose types are written by hand, with the comments of values.yaml: path -> text."""
    written: dict[str, Any] = json.loads(_read(SCHEMA))
    for path, _, comment in _values(_read("charts/usher/values.yaml")):
        *parents, name = path.split(".")
        properties = written["properties"]
        for parent in parents:
            properties = properties[parent]["properties"]
        properties[name] = {"description": comment} | properties[name] | {"description": comment}
    return {SCHEMA: json.dumps(written, indent=2, ensure_ascii=False) + "\n"}


def _values(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield path, default and comment of each value in values.yaml."""
    parents: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        key = _KEY.match(line)
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip("# "))
        elif key is None:
            comment = []
        else:
            depth = len(key["indent"]) // 2
            parents = [*parents[:depth], key["key"]]
            if key["value"]:
                yield ".".join(parents), key["value"], " ".join(comment)
            comment = []
