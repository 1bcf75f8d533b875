"""Writes accumulation.safetensors: 20 steps of gradient accumulation in PyTorch, in float64.

A step accumulates the gradients of three batches of 8 images; the last of an epoch of 62 images those of a batch of 8 and
one of 6. Its gradient is the mean over its images. The images are those of trajectory_narrow.safetensors.

    python tests/reference/accumulation.py
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from models import normalise

IMAGES, BATCH, ACCUMULATED, STEPS = 62, 8, 3, 20
SGD = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
CLIP = {"plain": None, "clip": 0.5, "norm": None}


class Network(nn.Module):
    """Half the size by a convolution, half of that by max-pooling, then a linear layer."""

    def __init__(self, has_norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=not has_norm)
        self.norm = nn.BatchNorm2d(4) if has_norm else nn.Identity()
        self.fc = nn.Linear(4 * 7 * 7, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(functional.max_pool2d(torch.relu(self.norm(self.conv(x))), 2).flatten(1))


def run(name: str, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = Network(name == "norm")
    before = {f"{name}.initial.{key}": value.clone() for key, value in model.state_dict().items()}
    model = model.double()
    sgd, clip = torch.optim.SGD(model.parameters(), **SGD), CLIP[name]
    losses = []
    while len(losses) < STEPS:
        for step in torch.arange(IMAGES).split(BATCH * ACCUMULATED):
            sgd.zero_grad()
            total = 0.0
            for batch in step.split(BATCH):
                loss = functional.cross_entropy(model(images[batch]), labels[batch], reduction="sum") / len(step)
                loss.backward()
                total += loss.item()
            losses.append(total)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            sgd.step()
            if len(losses) == STEPS:
                break
    after = {f"{name}.final.{key}": value for key, value in model.state_dict().items()}
    floats = {key: value.float() if value.is_floating_point() else value for key, value in (before | after).items()}
    return floats | {f"{name}.losses": torch.tensor(losses, dtype=torch.float32)}


here = Path(__file__).parent
torch.set_num_threads(1)
narrow = load_file(here / "trajectory_narrow.safetensors")
images, labels = normalise(narrow["images"][:IMAGES], torch.float64), narrow["labels"][:IMAGES].long()
tensors = {key: value for name in CLIP for key, value in run(name, images, labels).items()}
description = {"images": IMAGES, "batch": BATCH, "accumulated": ACCUMULATED, "steps": STEPS, "clip": CLIP, **SGD}
metadata = {"description": json.dumps(description), "torch": torch.__version__}
save_file({key: value.contiguous() for key, value in tensors.items()}, here / "accumulation.safetensors", metadata)
