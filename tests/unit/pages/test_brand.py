from pathlib import Path

import pytest

from usher_gateway import model
from usher_gateway.pages.brand import Brand, Logo, load_brand

PNG = b"\x89PNG\r\n\x1a\n..."
VALID = "name: Harbour\ncontact: Ada\n"


def brand_of(folder: Path, text: str) -> Brand:
    file = folder / "brand.yaml"
    file.write_text(text, "utf-8")
    return load_brand(file)


def test_brand_is_read_with_the_logo_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "logo.png").write_bytes(PNG)
    brand = brand_of(tmp_path, VALID + "colour: '#0A7d5c'\nlogo: logo.png\n")
    assert brand == Brand("Harbour", "#0A7d5c", "Ada", Logo(PNG, "image/png"))
    assert (brand.stylesheet, brand.ask) == (":root { --brand: #0A7d5c; }\n", "Ask Ada.")


def test_install_without_a_brand_shows_that_of_usher() -> None:
    assert (load_brand(None).name, load_brand(None).ask) == ("Usher", "Ask whoever gave you the link.")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: Harbour\n", "contact"),
        (VALID + "colour: #0a7d5c\n", "colour"),
        (VALID + "colour: 'red; } * { background: url(//evil.example)'\n", "in quotes"),
        (VALID + 'color: "#0a7d5c"\n', "color"),
        ('name: "Harbour\\r\\nSet-Cookie: a=b"\ncontact: Ada\n', "name must be one line"),
        ("name: Harbour\ncontact: ' '\n", "contact must be one line"),
        ("- name\n", "no brand"),
        ("name: [", "no brand"),
        (VALID + "logo: missing.png\n", "No such file"),
        (VALID + "logo: brand.yaml\n", "must be a PNG or JPEG"),
    ],
)
def test_unusable_brand_is_refused_before_the_start(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(model.ConfigurationError, match=problem):
        brand_of(tmp_path, text)


def test_large_logo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "logo.png").write_bytes(PNG + bytes(256 * 1024))
    with pytest.raises(model.ConfigurationError, match="at most 256 KiB"):
        brand_of(tmp_path, VALID + "logo: logo.png\n")
