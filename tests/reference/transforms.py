"""Writes transforms.safetensors: what torchvision's transforms make of small pictures in Pillow, for given parameters.

Per picture: `picture.<picture>`, [height, width, channels]; per case: `case.<number>`, the result. The metadata's `cases` is
a JSON list of `{picture, crop, flip, size, ops}`: `crop` is null or [top, left, height, width], which is resized to `size`;
`ops` are the operations that follow, each with its arguments: `["rand", name, magnitude, negative]` of RandAugment with
31 bins, and `brightness`, `contrast`, `saturation` and `hue` of ColorJitter with their factor.

    python tests/reference/transforms.py

This needs torch, torchvision, pillow 12, numpy and safetensors; pillow 13 resizes rows before columns where that is less
work, which changes values by at most 1.
"""

import json
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms import InterpolationMode, RandAugment, functional
from torchvision.transforms.autoaugment import _apply_op

PICTURES = {"colour": (32, 32, 3), "odd": (23, 37, 3), "gray": (32, 32, 1), "gray-odd": (19, 25, 1)}
NAMES = ["Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
         "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"]
JITTERS = {"brightness": functional.adjust_brightness, "contrast": functional.adjust_contrast,
           "saturation": functional.adjust_saturation, "hue": functional.adjust_hue}


def picture(height, width, channels, seed):
    """Waves with noise, of a part of all levels."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [90 + 60 * np.sin(x / (3 + c) + seed) + 40 * np.cos(y / (5 - c)) for c in range(channels)]
    noisy = np.stack(planes, -1) + generator.normal(0, 12, (height, width, channels))
    return Image.fromarray(noisy.clip(3, 240).astype(np.uint8).squeeze())


def apply(image, op):
    if op[0] != "rand":
        return JITTERS[op[0]](image, op[1])
    _, name, magnitude, negative = op
    augment = RandAugment(magnitude=magnitude)
    width, height = image.size
    magnitudes, signed = augment._augmentation_space(augment.num_magnitude_bins, (height, width))[name]
    value = float(magnitudes[magnitude]) if magnitudes.ndim > 0 else 0.0
    value = -value if signed and negative else value
    return _apply_op(image, name, value, interpolation=InterpolationMode.NEAREST, fill=None)


def cases():
    for name, (height, width, _) in PICTURES.items():
        for magnitude in (9, 14) if name == "odd" else (9,):
            for op in NAMES:
                yield name, None, False, [["rand", op, magnitude, False]]
                if op not in ("Identity", "Posterize", "Solarize", "AutoContrast", "Equalize"):
                    yield name, None, False, [["rand", op, magnitude, True]]
        for op in ("Rotate", "TranslateX", "Posterize", "Solarize", "Color", "Sharpness"):
            yield name, None, False, [["rand", op, 30, True]]
            yield name, None, False, [["rand", op, 0, False]]
        for op, factors in {"brightness": (0.6, 1.4), "contrast": (0.6, 1.4), "saturation": (0.0, 1.8),
                            "hue": (-0.5, -0.1, 0.0, 0.33)}.items():
            for factor in factors:
                yield name, None, False, [[op, factor]]
        yield name, None, True, [["hue", 0.1], ["brightness", 0.8], ["saturation", 1.3], ["contrast", 1.2]]
        yield name, None, True, [["rand", "Rotate", 20, False], ["rand", "Equalize", 9, False]]
        for crop in ((0, 0, height, width), (2, 3, height - 5, width - 9), (1, 4, 7, 5), (height - 1, width - 1, 1, 1),
                     (3, 0, 4, width)):
            yield name, crop, crop[0] % 2 == 1, [["rand", "Sharpness", 9, False]] if crop[0] == 3 else []


def main():
    tensors, listed = {}, []
    images = {name: picture(*shape, seed) for seed, (name, shape) in enumerate(PICTURES.items())}
    for name, image in images.items():
        tensors[f"picture.{name}"] = torch.from_numpy(np.array(image)).reshape(PICTURES[name])
    for number, (name, crop, flip, ops) in enumerate(cases()):
        image, size = images[name], PICTURES[name][:2]
        if crop is not None:
            size = (20, 24)
            image = functional.resized_crop(image, *crop, size, InterpolationMode.BILINEAR, antialias=True)
        if flip:
            image = functional.hflip(image)
        for op in ops:
            image = apply(image, op)
        tensors[f"case.{number}"] = torch.from_numpy(np.array(image)).reshape(*size, -1)
        listed.append({"picture": name, "crop": crop, "flip": flip, "size": size, "ops": ops})
    versions = {"torchvision": torchvision.__version__, "torch": torch.__version__, "pillow": PIL.__version__}
    metadata = {"cases": json.dumps(listed, separators=(",", ":")), **versions}
    save_file(tensors, Path(__file__).with_name("transforms.safetensors"), metadata)


if __name__ == "__main__":
    main()
