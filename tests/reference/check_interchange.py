"""Checks that `cnn-cuda` and PyTorch can load each other's weights.

From Rust to PyTorch: with the weights that `cnn-cuda` wrote, PyTorch must compute the same logits.

    python tests/reference/check_interchange.py --weights model.safetensors --images images.safetensors \\
        --logits logits.safetensors

`images.safetensors` holds `images`, bytes [n, 28, 28]; `logits.safetensors` holds `logits`, float32 [n, 10].

All in one command: with `--program target/release/cnn-cuda`, the program trains briefly, and the script compares the
logits of `cnn-cuda predict` for a few pictures with those that PyTorch computes from the trained weights.

From PyTorch to Rust: `--make torch.safetensors` writes freshly initialised weights, and next to them
`torch.images.safetensors` and `torch.logits.safetensors` in the same format.
"""

import argparse
import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models import MODELS, normalise

# Float32 sums of a few thousand terms in another order differ by about 1e-6; logits are of the order of 1 to 10.
TOLERANCE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="mnist-cnn")
    parser.add_argument("--weights", type=Path, metavar="FILE")
    parser.add_argument("--images", type=Path, metavar="FILE")
    parser.add_argument("--logits", type=Path, metavar="FILE")
    parser.add_argument("--make", type=Path, metavar="FILE", help="write PyTorch's weights instead of checking")
    parser.add_argument("--program", type=Path, metavar="FILE", help="train weights with this program and check them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    to_check = (arguments.weights, arguments.images, arguments.logits)
    if arguments.program is not None:
        check_program(arguments.model, arguments.program)
    elif arguments.make is not None and not any(to_check):
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


def check_program(model_name: str, program: Path) -> None:
    from PIL import Image

    with TemporaryDirectory() as name:
        folder, run = Path(name), Path(name) / "run"
        train = ["train", "--model", model_name, "--dataset", "digits", "--max-steps", "150", "--lr", "0.05"]
        train += ["--momentum", "0.9", "--device", "cpu", "--quiet", "--out", str(run)]
        subprocess.run([str(program), *train], check=True)
        torch.manual_seed(0)
        images = torch.randint(256, (8, 28, 28), dtype=torch.uint8)
        images[:, :4], images[:, -4:], images[:, :, :4], images[:, :, -4:] = 0, 0, 0, 0  # dark border: not inverted
        paths = [folder / f"{index}.png" for index in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            Image.fromarray(image.numpy()).save(path)
        weights = run / "model.safetensors"
        predict = ["predict", "--model", model_name, "--weights", str(weights), "--device", "cpu", "--json"]
        done = subprocess.run([str(program), *predict, *map(str, paths)], check=True, capture_output=True, text=True)
        logits = torch.tensor([json.loads(line)["logits"] for line in done.stdout.splitlines()])
        save_file({"images": images}, folder / "images.safetensors")
        save_file({"logits": logits}, folder / "logits.safetensors")
        check(model_name, weights, folder / "images.safetensors", folder / "logits.safetensors")


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
