import base64
import pathlib
import stat

import pytest

from usher_gateway import model
from usher_gateway.config import install_key


def test_key_is_created_once_readable_by_the_owner_only(tmp_path: pathlib.Path) -> None:
    key = install_key.load_install_key(tmp_path / "data", {})
    path = tmp_path / "data" / "install.key"
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert install_key.load_install_key(tmp_path / "data", {}) == key
    assert list(path.parent.iterdir()) == [path]


def test_environment_overrides_the_key_file(tmp_path: pathlib.Path) -> None:
    given = base64.b64encode(b"x" * 33).decode()
    assert install_key.load_install_key(tmp_path, {"USHER_INSTALL_KEY": f"{given}\n"}) == b"x" * 33
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "short", base64.b64encode(b"x" * 31).decode(), "not base64!" * 9, "é"])
def test_invalid_key_is_refused_and_never_overwritten(tmp_path: pathlib.Path, content: str) -> None:
    path = tmp_path / "install.key"
    path.write_text(content)
    with pytest.raises(model.ConfigurationError) as caught:
        install_key.load_install_key(tmp_path, {})
    assert caught.value.hint
    assert path.read_text() == content
