"""The last good set of documents, encrypted on disk: a gateway starts with it while the API server is away.

There is one file, and each write replaces it as a whole. It is encrypted by AES-256-GCM with a sub-key of the install
key and a new nonce for each write. The file's first line is authenticated too, so that a file with another format or
another key is recognised.
"""

import pathlib
import secrets
import zlib

import msgspec
from cryptography import exceptions
from cryptography.hazmat.primitives.ciphers import aead

from usher_gateway import config_secret, model
from usher_gateway.config import install_key

FILE_NAME = "config.cache"  # Inside `--data`; readable by the owner only

_HEAD = b"usher-config-cache 3\n"
_NONCE_BYTES = 12
_MOST_BYTES = 1 << 30  # Largest content after decompression

_HINT = "the gateway writes it again once the API server answers; delete it if this is logged at every start"


Envelopes = list[config_secret.Envelope]
_decoder = msgspec.json.Decoder(Envelopes)


def seal(cached: Envelopes, key: bytes, nonce: bytes) -> bytes:
    """Encrypt the file's content. `key`: `Keys.cache`; `nonce`: 12 bytes never used with this key before."""
    packed = zlib.compress(msgspec.json.encode(cached), 1)
    return _HEAD + nonce + aead.AESGCM(key).encrypt(nonce, packed, _HEAD)


def unseal(content: bytes, key: bytes) -> Envelopes:
    """Decrypt the file's content. `key`: `Keys.cache`.

    Raises:
        ConfigurationError: the file has another key or format, or is damaged.
    """
    if not content.startswith(_HEAD):
        raise model.ConfigurationError("the configuration cache has another format", _HINT)
    nonce, sealed = content[len(_HEAD) : len(_HEAD) + _NONCE_BYTES], content[len(_HEAD) + _NONCE_BYTES :]
    try:
        packed = aead.AESGCM(key).decrypt(nonce, sealed, _HEAD)
        unpacker = zlib.decompressobj()
        return _decoder.decode(unpacker.decompress(packed, _MOST_BYTES))
    except (exceptions.InvalidTag, ValueError) as error:  # a wrong length raises ValueError
        message = "the configuration cache is damaged, or another install key wrote it"
        raise model.ConfigurationError(message, _HINT) from error
    except (zlib.error, msgspec.MsgspecError) as error:
        raise model.ConfigurationError("another release wrote the configuration cache", _HINT) from error


def read(folder: pathlib.Path, key: bytes) -> Envelopes:
    """Read the cached documents; none if the file is missing. This blocks.

    Raises:
        ConfigurationError: the file cannot be read, has another key or format, or is damaged.
    """
    try:
        content = (folder / FILE_NAME).read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise model.ConfigurationError(f"the configuration cache cannot be read: {error.strerror}", _HINT) from error
    return unseal(content, key)


def write(folder: pathlib.Path, cached: Envelopes, key: bytes) -> None:
    """Replace the file, completely and durably, or not at all. Blocks.

    Raises:
        OSError: the write failed; the previous file stays.
    """
    content = seal(cached, key, secrets.token_bytes(_NONCE_BYTES))
    install_key.write_file(folder / FILE_NAME, content, may_replace=True)
