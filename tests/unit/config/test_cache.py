"""The cache file is private, encrypted, and rejected if it is damaged."""

import os
import pathlib

import pytest

from support import config_samples
from usher_gateway import config_secret, model
from usher_gateway.config import cache

ENVELOPES = [
    config_secret.envelope_of(config_samples.listener(), "uid-1", config_samples.KEYS.document),
    config_secret.envelope_of(
        config_samples.destination(headers=(("X-Key", "s3cret-value"),)), "uid-2", config_samples.KEYS.document
    ),
]
KEPT, FIRST = ENVELOPES, ENVELOPES[:1]
KEY = config_samples.KEYS.cache
NONCE = bytes(range(12))


def test_cache_is_encrypted() -> None:
    content = cache.seal(KEPT, KEY, NONCE)
    assert b"s3cret" not in content
    assert b"acme" not in content


def test_other_install_key_cannot_read_the_cache() -> None:
    with pytest.raises(model.ConfigurationError, match="another install key"):
        cache.unseal(cache.seal(KEPT, KEY, NONCE), config_samples.OTHER_KEYS.cache)


def test_every_changed_byte_is_an_error() -> None:
    content = cache.seal(FIRST, KEY, NONCE)
    for index in range(len(content)):
        damaged = content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]
        with pytest.raises(model.ConfigurationError):
            cache.unseal(damaged, KEY)


def test_every_truncated_file_is_an_error() -> None:
    content = cache.seal(FIRST, KEY, NONCE)
    for length in range(len(content)):
        with pytest.raises(model.ConfigurationError) as caught:
            cache.unseal(content[:length], KEY)
        assert caught.value.hint


def test_file_is_replaced_atomically_and_private(tmp_path: pathlib.Path) -> None:
    assert cache.read(tmp_path / "none", KEY) == []
    data = tmp_path / "data"
    cache.write(data, FIRST, KEY)
    cache.write(data, KEPT, KEY)
    assert cache.read(data, KEY) == KEPT
    assert [file.name for file in data.iterdir()] == ["config.cache"]
    assert (data / "config.cache").stat().st_mode & 0o077 == 0


def test_every_write_has_a_new_nonce(tmp_path: pathlib.Path) -> None:
    contents = set()
    for _ in range(5):
        cache.write(tmp_path, KEPT, KEY)
        contents.add((tmp_path / "config.cache").read_bytes())
    assert len(contents) == 5


def test_failed_write_keeps_the_previous_file(tmp_path: pathlib.Path) -> None:
    cache.write(tmp_path, KEPT, KEY)
    (tmp_path / f".config.cache.{os.getpid()}").mkdir()
    with pytest.raises(OSError, match="directory"):
        cache.write(tmp_path, FIRST, KEY)
    assert cache.read(tmp_path, KEY) == KEPT


def test_unreadable_file_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.cache").mkdir()
    with pytest.raises(model.ConfigurationError, match="cannot be read"):
        cache.read(tmp_path, KEY)
