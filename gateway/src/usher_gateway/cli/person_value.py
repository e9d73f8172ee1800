"""A person's value, as the commands about persons ask for it."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from usher_gateway.cli.admin_client import USAGE, fail
from usher_gateway.words import person_words

_PROMPT = "E-mail, mobile number, MAC, Purple's user id, or the id of a visit or delivery"

As = Annotated[
    Literal["email", "mobile", "mac", "user"] | None,
    typer.Option(
        "--as", help="What the value is. Default: what it looks like; a number can be a user id and a mobile."
    ),
]

Reference = Annotated[
    str, typer.Option("--reference", help="Your own id of the request: letters, digits, dots, hyphens, underscores.")
]


def read_value() -> str:
    """Read the value from a person or from standard input."""
    try:
        value = typer.prompt(_PROMPT, err=True) if sys.stdin.isatty() else sys.stdin.read()
    except UnicodeDecodeError:
        fail("the value is not UTF-8", "give it as text in UTF-8", USAGE)
    if not value.strip():
        fail("there is no value to look for", "type it, or give it on standard input", USAGE)
    return str(value).strip()


def field_of(kind: str | None) -> str | None:
    """Return the API's name for a value's kind."""
    return "device" if kind == "mac" else kind


def no_visit(answer: Mapping[str, Any], kind: str | None) -> str:
    """Return that no visit has the value, and that Usher read it as a user id, if the caller gave no kind."""
    if kind is None and answer["searchedAs"] == ["user"]:
        return "Read as Purple's user id, which no stored visit has; --as says otherwise."
    return person_words.NO_VISIT


def question(kind: str | None, tenant: str | None, namespace: str | None, reference: str) -> dict[str, Any]:
    """Read the value; return the body for a request about the person."""
    return {
        "value": read_value(),
        "field": field_of(kind),
        "tenant": tenant,
        "namespace": namespace,
        "reference": reference,
    }
