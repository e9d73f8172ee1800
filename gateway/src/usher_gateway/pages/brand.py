"""The agency as customers see it: name, colour, logo, and whom to ask. From a file that is read once, at the start."""

import re
from pathlib import Path

import msgspec
import yaml

from usher_gateway import model

_LONGEST_TEXT = 200
_MAX_LOGO_BYTES = 256 * 1024
_COLOUR = re.compile("#[0-9A-Fa-f]{6}")
# First bytes -> type. Not SVG, which can contain scripts.
_IMAGES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


class Logo(msgspec.Struct, frozen=True):
    """An image."""

    content: bytes
    type: str


class Brand(msgspec.Struct, frozen=True):
    """The agency's name, colour, logo and contact, for customers' pages."""

    name: str = "Usher"
    colour: str = "#6b2fa0"
    """The colour for charts and a line above the page. Text keeps its own colours, so that it stays readable."""
    contact: str = ""
    """Whom to ask: a name, an address or a telephone number."""
    logo: Logo | None = None

    @property
    def stylesheet(self) -> str:
        """The colour as CSS."""
        return f":root {{ --brand: {self.colour}; }}\n"

    @property
    def ask(self) -> str:
        """A sentence that says whom to ask."""
        return f"Ask {self.contact}." if self.contact else "Ask whoever gave you the link."


class _BrandFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file. ``logo`` is a path, relative to the file."""

    name: str
    contact: str
    colour: str = Brand().colour
    logo: str = ""


def load_brand(path: Path | None) -> Brand:
    """Return the brand in a file; without one, Usher's own.

    Raises:
        ConfigurationError: the file or the logo cannot be used.
    """
    if path is None:
        return Brand()
    try:
        file = msgspec.convert(yaml.safe_load(path.read_text("utf-8")), _BrandFile)
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(f"{path} cannot be read: {_reason(error)}") from None
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        text = " ".join(str(error).split())[:_LONGEST_TEXT]
        raise _unusable(f"{path} is no brand: {text}") from None
    for field in ("name", "contact"):
        value = getattr(file, field)
        if not value.strip() or len(value) > _LONGEST_TEXT or not value.isprintable():
            raise _unusable(f"{path}: {field} must be one line of 1 to {_LONGEST_TEXT} characters")
    if not _COLOUR.fullmatch(file.colour):
        raise _unusable(f"{path}: colour must look like '#0a7d5c', in quotes")
    return Brand(file.name, file.colour, file.contact, _load_logo(path.parent / file.logo) if file.logo else None)


def _load_logo(path: Path) -> Logo:
    try:
        with path.open("rb") as opened:
            content = opened.read(_MAX_LOGO_BYTES + 1)
    except OSError as error:
        raise _unusable(f"the logo {path} cannot be read: {_reason(error)}") from None
    kind = next((kind for start, kind in _IMAGES.items() if content.startswith(start)), "")
    if not kind or len(content) > _MAX_LOGO_BYTES:
        raise _unusable(f"the logo {path} must be a PNG or JPEG of at most {_MAX_LOGO_BYTES // 1024} KiB")
    return Logo(content, kind)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "not text"


def _unusable(problem: str) -> model.ConfigurationError:
    return model.ConfigurationError(
        problem, "Write name, contact, colour and logo: docs/customer-links.md has an example."
    )
