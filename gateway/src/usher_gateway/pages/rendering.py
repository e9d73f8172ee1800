"""Renders templates: every value is escaped, and times are in the viewer's zone."""

import datetime
import functools
import re
import secrets
import urllib.parse
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup, escape

from usher_gateway.words.listings import counted, printable


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return a page. ``values`` must have ``zone``, the viewer's time zone."""
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or ""),
        autoescape=True,
        finalize=_without_control_characters,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(time=time_in_zone, count=count_text, counted=counted, prose=prose, sentence=sentence)
    environment.globals.update(path_to=path_to, new_form=_new_form)
    return environment


def _new_form() -> str:
    """A value that tells a form of one page from the same form of a page that is shown later."""
    return secrets.token_urlsafe(9)


def _without_control_characters(value: object) -> object:
    """Return a template's value; a macro's text is markup, whose line feeds stay."""
    if isinstance(value, Markup):
        return Markup("\n".join([printable(line) for line in value.split("\n")]))  # noqa: S704 - it is markup already
    return printable(value) if isinstance(value, str) else value


def prose(text: str) -> Markup:
    """Return a text, its parts in backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(printable(text)))))  # noqa: S704 - it is escaped


def sentence(text: str) -> str:
    """Return a text from the API with a capital letter."""
    return text[:1].upper() + text[1:]


def path_to(kind: str, key: str) -> str:
    """Return the path to the page about an object: ``kind`` as in ``/ui/tenants/``, ``key`` as in ``agency/acme``."""
    return f"/ui/{kind}/{quote_key(key)}"


def quote_key(key: str) -> str:
    """Return ``namespace/name`` as part of a path."""
    return "/".join([urllib.parse.quote(part, safe="") for part in key.split("/", 1)])


@jinja2.pass_context
def time_in_zone(context: jinja2.runtime.Context, text: str | None, zone: datetime.tzinfo | None = None) -> str:
    """Return an RFC 3339 time as ``2026-11-30 12:00:05`` in a zone, by default the viewer's; a dash for None."""
    return "-" if text is None else time_text(text, zone or context["zone"])


def time_text(text: str, zone: datetime.tzinfo) -> str:
    """Return an RFC 3339 time as pages show it."""
    return datetime.datetime.fromisoformat(text).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")


def count_text(number: int) -> str:
    """Return a number with thousands separators."""
    return f"{number:,}"
