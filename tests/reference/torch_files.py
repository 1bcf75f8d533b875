"""Writes torch/*.pth: files of torch.save with the same values in different types, views and containers.

    python tests/reference/torch_files.py

They are of the network in tests/support/tiny.rs. The values are the ones that tests/checkpoint/torch.rs expects, which
every type represents exactly.
"""

import argparse
import collections
from pathlib import Path

import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "torch"


def state_dict(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Eighths, in order of the names below; a variance cannot be negative."""
    shapes = {
        "conv.weight": (2, 1, 3, 3),
        "conv.bias": (2,),
        "norm.weight": (2,),
        "norm.bias": (2,),
        "norm.running_mean": (2,),
        "norm.running_var": (2,),
        "fc.weight": (3, 8),
        "fc.bias": (3,),
    }
    tensors, begin = collections.OrderedDict(), 0
    for name, shape in shapes.items():
        values = torch.arange(begin, begin + torch.Size(shape).numel())
        begin += values.numel()
        eighths = (values * 7 % 17) - (0 if name.endswith("var") else 8)
        tensors[name] = (eighths.double() / 8).to(dtype).reshape(shape)
        if name.endswith("var"):
            tensors["norm.num_batches_tracked"] = torch.tensor(7)
    return tensors


def shared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as views of one storage, with offsets."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    flat = torch.cat([torch.tensor([99.0]), *(tensor.flatten() for tensor in floats.values())])
    views, begin = dict(tensors), 1
    for name, tensor in floats.items():
        views[name] = flat[begin : begin + tensor.numel()].view(tensor.shape)
        begin += tensor.numel()
    return views


def strided(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as views whose elements are not in their own order."""
    views = dict(tensors)
    views["fc.weight"] = tensors["fc.weight"].t().contiguous().t()
    views["conv.weight"] = torch.stack([tensors["conv.weight"], torch.zeros(2, 1, 3, 3)], dim=-1)[..., 0]
    views["conv.weight"] = views["conv.weight"].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    views["fc.bias"] = torch.stack([tensors["fc.bias"], torch.zeros(3)], dim=1)[:, 0]
    views["norm.running_mean"] = tensors["norm.running_mean"].flip(0).flip(0)[:]
    return views


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return collections.OrderedDict((prefix + name, tensor) for name, tensor in tensors.items())


class Module(nn.Module):
    """The network, whose state_dict has `_metadata`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(8, 3)
        self.load_state_dict(state_dict())


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    module = Module()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    sum(parameter.sum() for parameter in module.parameters()).backward()
    optimizer.step()
    checkpoint = {"epoch": 3, "best": 0.5, "seed": 2**70, "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()[:8]}
    parameters = {name: nn.Parameter(tensor) if tensor.is_floating_point() else tensor for name, tensor in state_dict().items()}
    files = {
        "module": Module().state_dict(),
        "float16": state_dict(torch.float16),
        "bfloat16": state_dict(torch.bfloat16),
        "float64": state_dict(torch.float64),
        "shared": shared(state_dict()),
        "strided": strided(state_dict()),
        "parameters": parameters,
        "state_dict": {**checkpoint, "state_dict": prefixed(state_dict(), "module.")},
        "model": {**checkpoint, "model": prefixed(state_dict(), "_orig_mod.module.")},
        "refused-namespace": {"state_dict": state_dict(), "args": argparse.Namespace(lr=0.1)},
        "refused-module": Module(),
    }
    for name, content in files.items():
        torch.save(content, FOLDER / f"{name}.pth")
    torch.save(state_dict(), FOLDER / "protocol5.pth", pickle_protocol=5)
    torch.save(state_dict(), FOLDER / "refused-legacy.pth", _use_new_zipfile_serialization=False)
    torch.jit.script(nn.Linear(2, 2)).save(str(FOLDER / "refused-script.pth"))


if __name__ == "__main__":
    main()
