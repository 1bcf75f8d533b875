"""Writes crops.safetensors: pictures of many sizes, what torchvision's Resize and CenterCrop make of them, and logits.

Per picture: `file.<name>`, a PNG; `pixels.<name>`, [height, width, channels], of Resize and CenterCrop; for the gray ones
also `logits.<name>` of LeNet-5 with the weights in lenet5.safetensors, whose input is (x / 255 - 0.5) / 0.5. The metadata's
`crops` is a JSON object with, for each picture, the sides of the crop and `resize`, the shorter side before it.

    python tests/reference/crops.py

This needs torch, torchvision, pillow 12, numpy and safetensors; pillow 13 resizes rows before columns where that is less
work, which changes values by at most 1.
"""

import io
import json
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from models import LeNet5
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import transforms

FOLDER = Path(__file__).parent
# Name: height, width, channels, crop, resize; the resize is floor(crop / 0.875), floor(crop / 0.7) and so on.
PICTURES = {
    "gray-large": (60, 41, 1, 28, 32),
    "gray-wide": (33, 101, 1, 28, 32),
    "gray-small": (17, 23, 1, 28, 32),
    "gray-exact": (32, 32, 1, 28, 32),
    "gray-seventy": (50, 50, 1, 28, 40),
    "colour-large": (90, 61, 3, 28, 32),
    "colour-wide": (29, 120, 3, 21, 24),
    "colour-exact": (40, 40, 3, 28, 40),
}


def picture(height, width, channels, seed):
    """Waves with noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [110 + 70 * np.sin(x / (3 + c) + seed) + 50 * np.cos(y / (5 - c)) for c in range(channels)]
    noisy = np.stack(planes, -1) + generator.normal(0, 20, (height, width, channels))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8).squeeze())


def main():
    model = LeNet5()
    model.load_state_dict(load_file(FOLDER / "lenet5.safetensors"))
    model.eval()
    tensors, crops = {}, {}
    for seed, (name, (height, width, channels, crop, resize)) in enumerate(PICTURES.items()):
        image = picture(height, width, channels, seed)
        cropped = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop)])(image)
        file = io.BytesIO()
        image.save(file, "PNG")
        tensors[f"file.{name}"] = torch.tensor(list(file.getvalue()), dtype=torch.uint8)
        tensors[f"pixels.{name}"] = torch.from_numpy(np.array(cropped)).reshape(crop, crop, channels)
        crops[name] = {"crop": crop, "resize": resize}
        if channels == 1:
            values = transforms.Normalize([0.5], [0.5])(transforms.ToTensor()(cropped))
            with torch.no_grad():
                tensors[f"logits.{name}"] = model(values[None])[0]
    versions = {"torchvision": torchvision.__version__, "torch": torch.__version__, "pillow": PIL.__version__}
    save_file(tensors, FOLDER / "crops.safetensors", {"crops": json.dumps(crops), **versions})


if __name__ == "__main__":
    main()
