"""The other side of every comparison: one training step of mnist-cnn in PyTorch, timed or checked.

    python benches/pytorch/train_step.py --mode channels_last --threads 2 --batch-size 64 --json

One step is what `cnn-cuda bench` times: a batch from images that lie in memory as bytes, normalised, forward, loss,
backward, SGD. The data is resident and there is no DataLoader, so this is PyTorch at its best. `--what infer` times
forward passes under `torch.no_grad()`; `--what epoch` is an epoch of the usual script with its DataLoader.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "reference"))
from models import MODELS  # noqa: E402

MODES = ("contiguous", "channels_last", "compile")
WARM_UP = 5


class Step:
    """One optimiser step on resident bytes."""

    def __init__(self, model: nn.Module, mode: str, lr: float) -> None:
        self.format = torch.contiguous_format if mode == "contiguous" else torch.channels_last
        self.model = model.to(memory_format=self.format)
        self.forward = torch.compile(self.model) if mode == "compile" else self.model
        self.loss = nn.CrossEntropyLoss()
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=lr, foreach=True)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        x = (images[order].unsqueeze(1).float() / 255 - 0.5) / 0.5
        x = x.contiguous(memory_format=self.format)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(self.forward(x), labels[order])
        loss.backward()
        self.optimiser.step()
        return loss.detach()


def read_mnist(folder: Path, name: str, offset: int) -> torch.Tensor:
    """The bytes of one of MNIST's files after its header."""
    import gzip

    for candidate in (folder / "mnist" / f"{name}.gz", folder / f"{name}.gz", folder / "MNIST" / "raw" / f"{name}.gz"):
        if candidate.exists():
            data = np.frombuffer(gzip.decompress(candidate.read_bytes()), dtype=np.uint8, offset=offset)
            return torch.from_numpy(data.copy())
    sys.exit(f"no {name}.gz in {folder}")


def time_steps(args: argparse.Namespace) -> dict:
    """Median, minimum and maximum of single steps on one batch of noise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (args.batch_size, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (args.batch_size,), generator=generator)
    order = torch.arange(args.batch_size)
    step = Step(MODELS[args.model](), args.mode, 0.01)
    times = []
    for index in range(WARM_UP + args.steps):
        start = time.perf_counter()
        loss = step(images, labels, order)
        if index >= WARM_UP:
            times.append((time.perf_counter() - start) * 1e3)
    assert torch.isfinite(loss), "the loss is not finite: the times mean nothing"
    return result(args, times)


def time_inference(args: argparse.Namespace) -> dict:
    """Median, minimum and maximum of single forward passes of one batch."""
    torch.manual_seed(0)
    layout = torch.contiguous_format if args.mode == "contiguous" else torch.channels_last
    model = MODELS[args.model]().eval().to(memory_format=layout)
    forward = torch.compile(model) if args.mode == "compile" else model
    x = (torch.rand(args.batch_size, 1, 28, 28) * 2 - 1).contiguous(memory_format=layout)
    times = []
    with torch.no_grad():
        for index in range(WARM_UP + args.steps):
            start = time.perf_counter()
            logits = forward(x)
            if index >= WARM_UP:
                times.append((time.perf_counter() - start) * 1e3)
    assert torch.isfinite(logits).all(), "the logits are not finite: the times mean nothing"
    return result(args, times)


def tutorial_epoch(args: argparse.Namespace) -> dict:
    """Seconds of one epoch as PyTorch's tutorials write it: pictures through transforms and a DataLoader."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    class Mnist(Dataset):
        """What `torchvision.datasets.MNIST` does for an item."""

        def __init__(self) -> None:
            self.images = read_mnist(args.data, "train-images-idx3-ubyte", 16).reshape(-1, 28, 28)
            self.labels = read_mnist(args.data, "train-labels-idx1-ubyte", 8)
            normalise = transforms.Normalize((0.5,), (0.5,))
            self.transform = transforms.Compose([transforms.ToTensor(), normalise])

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return self.transform(Image.fromarray(self.images[index].numpy(), mode="L")), int(self.labels[index])

    model, loss = MODELS[args.model](), nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(model.parameters(), lr=args.lr)
    loader = DataLoader(Mnist(), batch_size=args.batch_size, shuffle=True)
    start = time.perf_counter()
    for images, labels in loader:
        optimiser.zero_grad()
        value = loss(model(images), labels)
        value.backward()
        optimiser.step()
    return {"seconds": time.perf_counter() - start, "last_loss": value.item(), "framework": f"PyTorch {torch.__version__}"}


def result(args: argparse.Namespace, times: list[float]) -> dict:
    return {
        "framework": f"PyTorch {torch.__version__}",
        "mode": args.mode,
        "model": args.model,
        "batch_size": args.batch_size,
        "threads": args.threads,
        "ms_per_step": {"median": statistics.median(times), "min": min(times), "max": max(times)},
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }


def losses(args: argparse.Namespace) -> dict:
    """The losses of the first steps on real MNIST, unshuffled; the initial weights go to a file."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = MODELS[args.model]()
    save_file(model.state_dict(), args.save_initial)
    images = read_mnist(args.data, "train-images-idx3-ubyte", 16).reshape(-1, 28, 28)
    labels = read_mnist(args.data, "train-labels-idx1-ubyte", 8).long()
    step = Step(model, args.mode, args.lr)
    batches = torch.arange(args.steps * args.batch_size).split(args.batch_size)
    return {"losses": [step(images, labels, batch).item() for batch in batches]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="mnist-cnn")
    parser.add_argument("--what", choices=("train", "infer", "epoch"), default="train")
    parser.add_argument("--mode", choices=MODES, default="channels_last")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--save-initial", type=Path, help="print the first losses on MNIST instead of times")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    measure = {"train": time_steps, "infer": time_inference, "epoch": tutorial_epoch}[args.what]
    measured = losses(args) if args.save_initial else measure(args)
    print(json.dumps(measured) if args.json else json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
