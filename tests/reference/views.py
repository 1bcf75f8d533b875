"""Writes views.json: the logits of lenet5 with test-time augmentation.

The weights and images are those of lenet5.safetensors and lenet5.images.safetensors. `flip` and `flip-shift` are
`infer_mirror` and `infer_mirror_translate` of airbench94.py (https://github.com/KellerJordan/cifar10-airbench), for any
size of images.

    python tests/reference/views.py
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from models import MODELS, normalise

FOLDER = Path(__file__).parent


def flip(inputs, net):
    return 0.5 * net(inputs) + 0.5 * net(inputs.flip(-1))


def flip_shift(inputs, net):
    height, width = inputs.shape[-2:]
    padded = F.pad(inputs, (1,) * 4, "reflect")
    moved = [padded[:, :, :height, :width], padded[:, :, 2:, 2:]]
    return 0.5 * flip(inputs, net) + 0.5 * torch.stack([flip(view, net) for view in moved]).mean(0)


def main():
    torch.set_num_threads(1)
    net = MODELS["lenet5"]()
    net.load_state_dict(load_file(FOLDER / "lenet5.safetensors"), strict=True)
    net.eval()
    images = normalise(load_file(FOLDER / "lenet5.images.safetensors")["images"])
    views = {"none": lambda inputs, net: net(inputs), "flip": flip, "flip-shift": flip_shift}
    with torch.no_grad():
        logits = {name: view(images, net).tolist() for name, view in views.items()}
    (FOLDER / "views.json").write_text(json.dumps({"torch": torch.__version__, "logits": logits}, indent=1) + "\n")


if __name__ == "__main__":
    main()
