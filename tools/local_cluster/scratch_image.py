"""Writes container images of one program, without a container engine."""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # The names that Go and container images use
_TYPES = "application/vnd.oci.image."


def write(archive: Path, name: str, program: Path, *arguments: str) -> Path:
    """Write an OCI archive whose only file is a static program, which runs as user 65535."""
    blobs: dict[str, bytes] = {}
    layer = _add(blobs, _layer(program), "layer.v1.tar")
    settings = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": ["/program", *arguments], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    config = _add(blobs, _json(settings), "config.v1+json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPES}manifest.v1+json",
        "config": config,
        "layers": [layer],
    }
    entry = _add(blobs, _json(manifest), "manifest.v1+json")
    index = {"schemaVersion": 2, "manifests": [entry | {"annotations": {"io.containerd.image.name": name}}]}
    files = blobs | {"index.json": _json(index), "oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    with tarfile.open(archive, "w") as tar:
        for file, content in files.items():
            _add_file(tar, file, content)
    return archive


def _layer(program: Path) -> bytes:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        _add_file(tar, "program", program.read_bytes(), mode=0o755)
    return layer.getvalue()


def _add_file(tar: tarfile.TarFile, path: str, content: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(content), mode
    tar.addfile(info, io.BytesIO(content))


def _add(blobs: dict[str, bytes], content: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    blobs[f"blobs/sha256/{digest}"] = content
    return {"mediaType": _TYPES + media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
