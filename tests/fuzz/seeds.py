#!/usr/bin/env python3
"""Writes files of every format for the fuzz targets to start from: `seeds.py FOLDER`. Needs nothing but Python."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "tests" / "reference"

CONFIG = """dataset = "digits"
model = "lenet5"
epochs = 2
batch-size = 64
seed = 0
lr = 0.1

[input]
channels = 1
height = 28
width = 28
mean = [0.5]
std = [0.5]
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
"""

METRICS = """{"kind":"step","step":0,"loss":2.3,"accuracy":0.1}
{"kind":"epoch","epoch":1,"steps":10,"train_loss":null,"train_accuracy":0.5,"test_loss":1.5,"test_accuracy":0.5,"seconds":1.0,"images_per_second":100.0}
{"kind":"epoch","epoch":2,"steps":20,"train_loss":1.0,"train_accuracy":0.6,"test_loss":1.25,"test_accuracy":0.5,"seconds":1.0,"images_per_second":null}
"""


def tensors(path: Path) -> dict[str, bytes]:
    """The bytes of every tensor of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    return {name: data[8 + length :][slice(*entry["data_offsets"])] for name, entry in header.items()}


def torch(path: Path) -> list[bytes]:
    """A file of torch.save, and its pickle after a byte that says so."""
    with zipfile.ZipFile(path) as archive:
        pickles = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
    return [path.read_bytes(), *(b"\0" + pickle for pickle in pickles)]


def idx(*sizes: int) -> bytes:
    count = 1
    for size in sizes:
        count *= size
    return struct.pack(f">HBB{len(sizes)}I", 0, 8, len(sizes), *sizes) + bytes(i % 256 for i in range(count))


def archive(pictures: dict[str, bytes], **options: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for name, content in pictures.items():
            for split in ("train", "test"):
                member = tarfile.TarInfo(f"set/{split}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("set/train/Zebra/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "palette.png"
        tar.addfile(link)
    return buffer.getvalue()


def seeds() -> dict[str, list[bytes]]:
    files = {name.removeprefix("file."): content for name, content in tensors(REFERENCE / "pictures.safetensors").items() if name.startswith("file.")}
    names = sorted(files, key=lambda name: len(files[name]))
    few = {name: files[name] for name in names if len(files[name]) < 2000}
    tar = archive(few, format=tarfile.PAX_FORMAT)
    checkpoints = [path.read_bytes() for path in sorted(REFERENCE.glob("checkpoint-v*.safetensors"))]
    images, labels = idx(2, 5, 4), idx(3)
    return {
        "archive": [tar, archive(few, format=tarfile.GNU_FORMAT), gzip.compress(tar), lzma.compress(tar)],
        "checkpoint": checkpoints,
        "cifar": [bytes([32]) + bytes([3]) + bytes(3072), bytes([65]) + (bytes([1, 99]) + bytes(3072)) * 2],
        "config": [CONFIG.encode(), *(path.read_bytes() for path in sorted((ROOT / "recipes").glob("*.toml")))],
        "idx": [bytes([0]) + labels, bytes([1]) + images, bytes([3]) + gzip.compress(images)],
        "metrics": [METRICS.encode()],
        "picture": [bytes([channel]) + files[name] for name in names for channel in (0, 1)],
        "torch": [content for path in sorted((REFERENCE / "torch").glob("*.pth")) if zipfile.is_zipfile(path) for content in torch(path)],
        "weights": [path.read_bytes() for path in sorted(REFERENCE.glob("model-v*.safetensors"))] + checkpoints,
    }


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for target, contents in seeds().items():
        folder = Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(contents):
            (folder / f"{number:03}").write_bytes(content)


if __name__ == "__main__":
    main()
