"""Writes folding.safetensors: convolutions with PyTorch's batch normalisation folded into them, and the logits in float64
of the networks with batch normalisation in resnets.safetensors and networks.safetensors.

    python tests/reference/folding.py

`<case>.conv.*` and `<case>.bn.*` are a convolution and its normalisation, `<case>.fused.weight` and `<case>.fused.bias`
what `fuse_conv_bn_eval` makes of them in float64, rounded to float32.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import networks
import resnets

FOLDER = Path(__file__).parent
# Input channels, output channels, kernel size and other options.
CASES = {
    "plain": ((3, 5, 3), {"bias": False}),
    "bias": ((4, 6, 3), {"padding": 1}),
    "winograd": ((16, 32, 3), {"padding": 1, "bias": False}),
    "grouped": ((6, 4, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((8, 8, 3), {"groups": 8, "stride": 2, "bias": False}),
    "dilated": ((3, 4, 3), {"dilation": 2, "padding": 2}),
    "pointwise": ((8, 3, 1), {"bias": False}),
}


def case(sizes: tuple[int, int, int], options: dict) -> dict[str, Tensor]:
    conv, norm = nn.Conv2d(*sizes, **options), nn.BatchNorm2d(sizes[1], eps=1e-3)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.normal_().exp_()
    state = {f"conv.{name}": value for name, value in conv.state_dict().items()}
    state |= {f"bn.{name}": value for name, value in norm.state_dict().items() if name != "num_batches_tracked"}
    state = {name: value.clone() for name, value in state.items()}
    fused = fuse_conv_bn_eval(conv.eval().double(), norm.eval().double())
    return state | {"fused.weight": fused.weight.float(), "fused.bias": fused.bias.float()}


def logits(net: nn.Module, weights: dict[str, Tensor], images: Tensor) -> Tensor:
    net.load_state_dict(weights)
    with torch.no_grad():
        return net.eval().double()(((images.float() / 255 - 0.5) / 0.5).double())


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tensors = {f"{name}.{key}": value for name, each in CASES.items() for key, value in case(*each).items()}
    residual = load_file(FOLDER / "resnets.safetensors")
    for name, make in resnets.NETWORKS.items():
        images = residual[f"{name}.images"][: resnets.BATCH].permute(0, 3, 1, 2)
        tensors[f"{name}.logits"] = logits(make(), part(residual, f"{name}.initial."), images)
    others = load_file(FOLDER / "networks.safetensors")
    for name, net in {"vgg_bn": networks.vgg(batch_norm=True), "googlenet": networks.GoogLeNet()}.items():
        tensors[f"{name}.logits"] = logits(net, part(others, f"{name}.weight."), others[f"{name}.images"])
    contiguous = {name: value.detach().contiguous() for name, value in tensors.items()}
    save_file(contiguous, FOLDER / "folding.safetensors")


if __name__ == "__main__":
    main()
