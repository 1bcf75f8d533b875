"""Makes the reference files that the tests compare `cnn-cuda` with.

    python tests/reference/make_reference.py --data data

Everything runs on one CPU thread and from fixed seeds, so the same version of PyTorch makes the same files.
"""

import argparse
import gzip
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from models import MnistCnn, narrow_mnist_cnn, normalise
from operators import make_operators

STEPS = 50


class Optimiser(NamedTuple):
    """The settings of `torch.optim.SGD`; as there, weight decay also applies to biases."""

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


class Run(NamedTuple):
    """The result of a training run."""

    losses: list[float]
    """The mean over the batch of each step, before its update."""
    weights: dict[str, Tensor]


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=here, help="folder for the files (default: this script's)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that contains mnist/ or MNIST/raw/")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    require_fused_multiply_add()

    make_operators(arguments.out / "ops.safetensors")
    make_narrow_trajectory(arguments.out / "trajectory_narrow.safetensors")
    mnist = find_mnist(arguments.data)
    if mnist is None:
        print(f"skipped trajectory_mnist.json: no MNIST in {arguments.data}/mnist or {arguments.data}/MNIST/raw")
    else:
        make_mnist_trajectory(arguments.out / "trajectory_mnist.json", *mnist)
    for path in sorted(arguments.out.glob("*.safetensors")) + sorted(arguments.out.glob("*.json")):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


def require_fused_multiply_add() -> None:
    """The last bit of PyTorch's default initialisation depends on the CPU.

    `uniform_` computes `x * (to - from) + from`, which is rounded once on CPUs with AVX2 and twice on others.
    The Rust side reproduces the single rounding.
    """
    torch.manual_seed(0)
    drawn = torch.empty(1000).uniform_(-0.022, 0.022)
    torch.manual_seed(0)
    low = float(numpy.float32(-0.022))
    # The product of two float32 values is exact in float64, so the only rounding is that to float32.
    fused = (torch.empty(1000).uniform_(0, 1).double() * float(numpy.float32(-2 * low)) + low).float()
    if not torch.equal(drawn, fused):
        raise SystemExit("this CPU's PyTorch initialises without fused multiply-add; use one with AVX2")


def train(
    model: nn.Module, optimiser: Optimiser, images: Tensor, labels: Tensor, batch_size: int, dtype: torch.dtype
) -> Run:
    """Trains for `STEPS` steps on the images in their order, using each once."""
    model = model.to(dtype)
    sgd = torch.optim.SGD(model.parameters(), **optimiser._asdict())
    losses = []
    for step in range(STEPS):
        batch = slice(step * batch_size, (step + 1) * batch_size)
        loss = functional.cross_entropy(model(normalise(images[batch], dtype)), labels[batch])
        losses.append(loss.item())
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    return Run(losses, {name: tensor.detach().clone() for name, tensor in model.state_dict().items()})


def initialised(make: Callable[[], nn.Module]) -> nn.Module:
    """Makes the model with PyTorch's default initialisation from seed 0."""
    torch.manual_seed(0)
    return make()


def relative_difference(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))


def make_narrow_trajectory(path: Path) -> None:
    """Writes weights, images and losses of a narrow `mnist-cnn`: a whole training run that needs no other file.

    The learning rates are the result of a search: the loss falls, but float32 stays within 1e-6 of float64. With higher
    rates the loss falls further, but then a rounding difference moves the maximum of a pooling window, and the runs
    diverge.
    """
    batch_size = 8
    optimisers = {
        "sgd": Optimiser(lr=0.015),
        "nesterov": Optimiser(lr=0.002, momentum=0.9, nesterov=True, weight_decay=5e-4),
    }
    images, labels = template_images(STEPS * batch_size)
    tensors = {"images": images, "labels": labels}
    settings: dict[str, Any] = {}
    for name, tensor in doubled_narrow_mnist_cnn().state_dict().items():
        tensors[f"initial.{name}"] = tensor
    for label, optimiser in optimisers.items():
        run = train(doubled_narrow_mnist_cnn(), optimiser, images, labels, batch_size, torch.float32)
        exact = train(doubled_narrow_mnist_cnn(), optimiser, images, labels, batch_size, torch.float64)
        tensors[f"losses.{label}"] = torch.tensor(run.losses)
        tensors[f"losses_float64.{label}"] = torch.tensor(exact.losses, dtype=torch.float64)
        tensors.update({f"final.{label}.{name}": tensor for name, tensor in run.weights.items()})
        weight_differences = [run.weights[name] - tensor for name, tensor in exact.weights.items()]
        settings[label] = {
            **optimiser._asdict(),
            "float32_against_float64": {
                "losses_max_relative": relative_difference(run.losses, exact.losses),
                "final_weights_max_absolute": max(difference.abs().max().item() for difference in weight_differences),
            },
        }
        report(f"narrow {label}", run, exact)
    description = {
        "model": {"channels": [4, 8, 8, 16], "hidden": [32, 16]},
        "initialisation": "PyTorch's default, weights doubled",
        "seed": 0,
        "batch_size": batch_size,
        "steps": STEPS,
        "optimisers": settings,
        "torch": torch.__version__,
    }
    # A single key, because safetensors writes several keys in an order that varies between runs.
    save_file(tensors, path, metadata={"description": json.dumps(description)})


def doubled_narrow_mnist_cnn() -> nn.Module:
    """PyTorch's default initialisation with the weights doubled.

    With the default, the signal becomes weaker from layer to layer, so the loss stays at ln 10 for hundreds of steps
    and hardly depends on the first layers. Doubled weights make a wrong gradient visible.
    """
    model = initialised(narrow_mnist_cnn)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                parameter *= 2
    return model


def template_images(count: int) -> tuple[Tensor, Tensor]:
    """Bytes `[count, 28, 28]` and labels. Each class is a fixed sum of smooth blobs, with random shifts and noise."""
    generator = torch.Generator().manual_seed(1)
    axis = torch.arange(28.0)
    # [class, blob, (row, column)]
    centres = torch.rand((10, 4, 2), generator=generator) * 18 + 5
    images, labels = [], []
    for index in range(count):
        label = int(torch.randint(10, (1,), generator=generator))
        image = 30 * torch.randn((28, 28), generator=generator)
        shift = torch.randint(-1, 2, (2,), generator=generator)
        for row, column in (centres[label] + shift).tolist():
            image += 220 * torch.exp(-((axis[:, None] - row) ** 2 + (axis - column) ** 2) / (2 * 2.5**2))
        images.append(image.clamp(0, 255).to(torch.uint8))
        labels.append(label)
    return torch.stack(images), torch.tensor(labels)


def make_mnist_trajectory(path: Path, images: Tensor, labels: Tensor) -> None:
    """Writes the step losses of the whole `mnist-cnn` on MNIST's first training images, in their order.

    The 9 MB of initial weights are not stored: tests reproduce PyTorch's generator and check it with these checksums.

    The loss hardly moves in these fifty steps: with PyTorch's default initialisation it stays near ln 10 for longer. It
    falls with higher learning rates or larger initial weights, but then float32 and float64 diverge by 1e-2 and more
    (MNIST's flat background makes many near-ties in the pooling windows), so implementations cannot be compared.
    """
    batch_size = 64
    optimisers = {
        "sgd": Optimiser(lr=0.1),
        "nesterov": Optimiser(lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4),
    }
    runs = {}
    for label, optimiser in optimisers.items():
        run = train(initialised(MnistCnn), optimiser, images, labels, batch_size, torch.float32)
        exact = train(initialised(MnistCnn), optimiser, images, labels, batch_size, torch.float64)
        runs[label] = {
            **optimiser._asdict(),
            "losses_float32": run.losses,
            "losses_float64": exact.losses,
            "max_relative_difference": relative_difference(run.losses, exact.losses),
        }
        report(f"mnist {label}", run, exact)
    content = {
        "model": "mnist-cnn",
        "torch": torch.__version__,
        "seed": 0,
        "batch_size": batch_size,
        "steps": STEPS,
        "initial_weights": {name: checksum(tensor) for name, tensor in initialised(MnistCnn).state_dict().items()},
        "optimisers": runs,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def checksum(tensor: Tensor) -> dict[str, Any]:
    """Detects a tensor that differs in one bit, and helps to find the difference."""
    values = tensor.flatten().numpy()
    return {
        "shape": list(tensor.shape),
        "first": [float(value) for value in values[:3]],
        "sum": math.fsum(values.tolist()),
        "sha256": hashlib.sha256(values.astype("<f4").tobytes()).hexdigest(),
    }


def report(label: str, run: Run, exact: Run) -> None:
    difference = relative_difference(run.losses, exact.losses)
    print(f"{label}: loss {run.losses[0]:.4f} -> {run.losses[-1]:.4f}, float32 against float64: {difference:.1e}")


def find_mnist(data: Path) -> tuple[Tensor, Tensor] | None:
    """MNIST's training images `[60000, 28, 28]` and labels `[60000]`, or None if the files are missing."""
    for folder in (data / "mnist", data / "MNIST" / "raw", data):
        for suffix in (".gz", ""):
            images = folder / f"train-images-idx3-ubyte{suffix}"
            labels = folder / f"train-labels-idx1-ubyte{suffix}"
            if images.is_file() and labels.is_file():
                return read_idx(images), read_idx(labels).long()
    return None


def read_idx(path: Path) -> Tensor:
    """Reads an IDX file of unsigned bytes: magic `0 0 8 dimensions`, the sizes as big-endian u32, the values."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    dimensions = content[3]
    sizes = numpy.frombuffer(content, ">u4", dimensions, offset=4)
    return torch.from_numpy(numpy.frombuffer(content, numpy.uint8, offset=4 + 4 * dimensions).reshape(sizes).copy())


if __name__ == "__main__":
    main()
