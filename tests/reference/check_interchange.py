"""Proves that weights pass between `cnn-cuda` and PyTorch in both directions.

From Rust to PyTorch: does PyTorch, with the weights that `cnn-cuda` wrote, compute the logits that it computed?

    python tests/reference/check_interchange.py --weights model.safetensors --images images.safetensors \\
        --logits logits.safetensors

`images.safetensors` holds `images`, bytes [n, 28, 28]; `logits.safetensors` holds `logits`, float32 [n, 10].

From PyTorch to Rust: `--make torch.safetensors` writes freshly initialised weights, and beside them
`torch.images.safetensors` and `torch.logits.safetensors` in the same form.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models import MODELS, normalise

# Float32 sums of some thousand terms in another order differ by about 1e-6; logits are of the order of 1 to 10.
TOLERANCE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="mnist-cnn")
    parser.add_argument("--weights", type=Path, metavar="FILE")
    parser.add_argument("--images", type=Path, metavar="FILE")
    parser.add_argument("--logits", type=Path, metavar="FILE")
    parser.add_argument("--make", type=Path, metavar="FILE", help="write PyTorch's weights here instead of checking")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    to_check = (arguments.weights, arguments.images, arguments.logits)
    if arguments.make is not None and not any(to_check):
        make(arguments.model, arguments.make)
    elif arguments.make is None and all(to_check):
        check(arguments.model, *to_check)
    else:
        parser.error("give --weights, --images and --logits, or --make alone")


def check(model_name: str, weights: Path, images: Path, logits: Path) -> None:
    model = MODELS[model_name]()
    model.load_state_dict(load_file(weights), strict=True)
    expected = compute_logits(model, one_tensor(images, "images", torch.uint8))
    found = one_tensor(logits, "logits", torch.float32)
    if found.shape != expected.shape:
        raise SystemExit(f"{logits}: logits have the shape {list(found.shape)}, expected {list(expected.shape)}")
    difference = (found - expected).abs().max().item()
    print(f"{model_name}: logits of {len(found)} images differ by at most {difference:.2e}")
    # Not `difference >= TOLERANCE`: that would let NaN pass.
    if not difference < TOLERANCE:
        raise SystemExit(f"the logits must differ by less than {TOLERANCE:.0e}")


def make(model_name: str, weights: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[model_name]()
    images = torch.randint(256, (16, 28, 28), dtype=torch.uint8)
    save_file(model.state_dict(), weights)
    save_file({"images": images}, weights.with_suffix(".images.safetensors"))
    save_file({"logits": compute_logits(model, images)}, weights.with_suffix(".logits.safetensors"))


def compute_logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(normalise(images))


def one_tensor(path: Path, name: str, dtype: torch.dtype) -> Tensor:
    tensors = load_file(path)
    if name not in tensors or tensors[name].dtype != dtype:
        raise SystemExit(f"{path}: needs a tensor `{name}` of {dtype}")
    return tensors[name]


if __name__ == "__main__":
    main()
