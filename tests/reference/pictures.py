"""Writes pictures.safetensors: forty strange pictures in three classes, and what PIL and torchvision's ImageFolder make of them.

Per picture: `file.<class>/<name>`, its bytes; `rgb.<class>/<name>`, the pixels as PIL's mode RGB, [height, width, 3];
`gray.<class>/<name>`, as mode L, [height, width]. The metadata's `labels` is a JSON object of the labels by path, and
`classes` the list of classes. A picture is turned upright by its EXIF orientation, and a transparent one is composited
onto white, which ImageFolder's own loader does not do; 16 bits become 8 by their upper byte.

    python tests/reference/pictures.py

This needs pillow, numpy and safetensors. With torchvision, its ImageFolder must give the same classes and labels.
"""

import io
import json
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps
from safetensors.numpy import save_file

HEIGHT, WIDTH = 12, 16
CLASSES = ["Zebra", "apple", "émeu"]
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def smooth(channels, seed):
    """Gradients: JPEG decoders differ by more than 1 at sharp edges of subsampled colours."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [40 + (seed * 13 + 30 * c) % 90 + x * (3 + (c + seed) % 4) + y * (2 + (seed + 2 * c) % 5) for c in range(channels)]
    return np.stack(planes, -1).astype(np.uint8)


def noise(channels, seed, top=256):
    return np.random.default_rng(seed).integers(0, top, (HEIGHT, WIDTH, channels), dtype=np.uint8 if top <= 256 else np.uint16)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples, colour_type, depth, before=b"", filters=(0,), interlaced=False, idat=10**9):
    """Encodes what PIL cannot: samples [height, width, channels] of any depth, with filters, Adam7 or small IDATs."""

    def rows(samples):
        if samples.size == 0:
            return b""
        packed, previous = b"", None
        step = max(1, samples.shape[2] * depth // 8)
        for number, row in enumerate(samples):
            if depth == 16:
                line = row.astype(">u2").tobytes()
            else:
                bits = np.unpackbits(row.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - depth:]
                line = np.packbits(bits.reshape(-1)).tobytes()
            line = np.frombuffer(line, np.uint8).astype(int)
            above = np.zeros_like(line) if previous is None else previous
            left, corner = (np.concatenate([np.zeros(step, int), it])[: len(line)] for it in (line, above))
            kind = filters[number % len(filters)]
            distances = [abs(above - corner), abs(left - corner), abs(left + above - 2 * corner)]
            paeth = np.where((distances[0] <= distances[1]) & (distances[0] <= distances[2]), left,
                             np.where(distances[1] <= distances[2], above, corner))
            predicted = [0, left, above, (left + above) // 2, paeth][kind]
            packed += bytes([kind]) + ((line - predicted) % 256).astype(np.uint8).tobytes()
            previous = line
        return packed

    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in passes] if interlaced else [samples]
    data = zlib.compress(b"".join(map(rows, parts)))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour_type, 0, 0, int(interlaced))
    chunks = b"".join(chunk(b"IDAT", data[at:at + idat]) for at in range(0, len(data), idat))
    return SIGNATURE + chunk(b"IHDR", header) + before + chunks + chunk(b"IEND", b"")


def saved(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def jpeg(channels, seed, mode=None, **options):
    picture = Image.fromarray(smooth(channels, seed).squeeze())
    return saved(picture.convert(mode) if mode else picture, "JPEG", **{"quality": 92, **options})


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = Image.fromarray(smooth(3, orientation))
    # The inverse of what the orientation asks for.
    undo = [None, None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_270]
    stored = upright if undo[orientation] is None else upright.transpose(undo[orientation])
    return saved(stored, "JPEG", quality=95, subsampling=0, exif=exif)


def pngs():
    palette = chunk(b"PLTE", noise(3, 90).tobytes()[: 3 * 16])
    yield "rgb.png", saved(Image.fromarray(noise(3, 1)), "PNG")
    yield "upper-case.PNG", saved(Image.fromarray(noise(3, 2)), "PNG")
    yield "gray.png", saved(Image.fromarray(noise(1, 3).squeeze()), "PNG")
    yield "gray-alpha.png", saved(Image.fromarray(noise(2, 4), "LA"), "PNG")
    yield "rgb-alpha.png", saved(Image.fromarray(noise(4, 5)), "PNG")
    yield "one-bit.png", saved(Image.fromarray(noise(1, 6).squeeze()).convert("1"), "PNG")
    yield "two-bits.png", png(noise(1, 7, 4), 0, 2)
    yield "four-bits.png", png(noise(1, 8, 16), 0, 4)
    yield "gray-16.png", png(noise(1, 9, 65536), 0, 16)
    yield "rgb-16.png", png(noise(3, 10, 65536), 2, 16)
    yield "gray-alpha-16.png", png(noise(2, 11, 65536), 4, 16)
    yield "rgb-alpha-16.png", png(noise(4, 12, 65536), 6, 16)
    yield "palette.png", saved(Image.fromarray(noise(3, 13)).quantize(200), "PNG")
    yield "palette-one-bit.png", png(noise(1, 14, 2), 3, 1, palette)
    yield "palette-four-bits.png", png(noise(1, 15, 16), 3, 4, palette)
    yield "palette-transparent.png", png(noise(1, 16, 16), 3, 8, palette + chunk(b"tRNS", bytes(range(0, 160, 10))))
    yield "gray-transparent.png", png(noise(1, 17, 4) * 60, 0, 8, chunk(b"tRNS", struct.pack(">H", 60)))
    few = noise(3, 18, 2) * 255
    yield "rgb-transparent.png", png(few, 2, 8, chunk(b"tRNS", struct.pack(">HHH", 255, 0, 255)))
    yield "interlaced.png", png(noise(3, 19), 2, 8, interlaced=True)
    yield "interlaced-two-bits.png", png(noise(1, 20, 4), 0, 2, interlaced=True)
    yield "filters.png", png(noise(3, 21), 2, 8, filters=(0, 1, 2, 3, 4))
    yield "small-chunks.png", png(noise(4, 22), 6, 8, idat=7)
    yield "gamma.png", png(noise(3, 23), 2, 8, chunk(b"gAMA", struct.pack(">I", 100_000)))
    yield "trailing bytes.png", saved(Image.fromarray(noise(3, 24)), "PNG") + b"\xff\xd9 and more"


def jpegs():
    yield "444.jpg", jpeg(3, 1, subsampling=0)
    yield "420.JPEG", jpeg(3, 2, subsampling=2)
    yield "422.jpg", jpeg(3, 3, subsampling=1)
    yield "progressive.jpg", jpeg(3, 4, progressive=True, subsampling=0)
    yield "gray.jpg", jpeg(1, 5)
    yield "gray-progressive.jpg", jpeg(1, 6, progressive=True)
    yield "cmyk.jpg", jpeg(3, 7, mode="CMYK")
    yield "stored-rgb.jpg", jpeg(3, 8, keep_rgb=True)
    yield "restarts.jpg", jpeg(3, 9, restart_marker_rows=1, subsampling=0)
    yield "optimised.jpg", jpeg(3, 10, optimize=True, comment="\xff\xd9 is not the end", subsampling=0)
    yield "trailing.jpg", jpeg(3, 11, subsampling=0) + b"\xff\xda\xff\xd8"
    for orientation in (2, 3, 6, 8):
        yield f"turned-{orientation}.jpg", turned(orientation)
    yield "really-a-png.jpg", saved(Image.fromarray(noise(3, 25)), "PNG")


def pixels(data):
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture).astype(int) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        picture = Image.alpha_composite(ground, layer).convert("RGB")
    return np.asarray(picture.convert("RGB")), np.asarray(picture.convert("L"))


def image_folder(root):
    """Paths and labels as torchvision's ImageFolder finds them."""
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    labels = {f"{name}/{file}": label for label, name in enumerate(classes)
              for file in sorted(os.listdir(os.path.join(root, name)))
              if file.lower().endswith((".jpg", ".jpeg", ".png"))}
    try:
        from torchvision.datasets import ImageFolder
    except ImportError:
        return classes, labels
    folder = ImageFolder(root)
    assert folder.classes == classes
    assert {os.path.relpath(path, root): label for path, label in folder.samples} == labels
    return classes, labels


def main():
    files = {f"{CLASSES[at % 3]}/{name}": data for at, (name, data) in enumerate([*pngs(), *jpegs()])}
    assert len(files) == 40
    tensors = {}
    with tempfile.TemporaryDirectory() as root:
        for path, data in files.items():
            Path(root, path).parent.mkdir(exist_ok=True)
            Path(root, path).write_bytes(data)
            tensors[f"file.{path}"] = np.frombuffer(data, np.uint8)
            tensors[f"rgb.{path}"], tensors[f"gray.{path}"] = pixels(data)
        classes, labels = image_folder(root)
    metadata = {"pillow": PIL.__version__, "classes": json.dumps(classes), "labels": json.dumps(labels)}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(tensors, Path(__file__).with_name("pictures.safetensors"), metadata)


if __name__ == "__main__":
    main()
