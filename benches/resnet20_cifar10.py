"""Trains resnet20 on CIFAR-10 with cnn-cuda and PyTorch, with the same weights, pictures and order, and compares the losses.

    python benches/resnet20_cifar10.py --program target/release/cnn-cuda --archive data/cifar10/cifar10-jpeg.tar.xz

Trains for 200 steps with the recipe's batch size, learning rate, momentum and weight decay, and without augmentation. The
JPEG pictures in the archive are decoded once, shuffled with a seed, and written as CIFAR-10's binary files, which both sides
read. The losses must decrease, and the first of them must agree. At this learning rate, rounding errors grow tenfold in a
step or two, and all runs diverge from each other. Therefore the errors of the first ten losses relative to PyTorch in float64
must be of the same size as PyTorch's in float32, and later on, means over windows of steps must agree. For comparison, the
script also shows how far PyTorch's run diverges when its weights are perturbed by 1e-7.

Needs torch, safetensors, numpy and Pillow.
"""

import argparse
import copy
import io
import json
import os
import platform
import random
import re
import subprocess
import sys
import tarfile
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "reference"))
from models import CifarResNet, build  # noqa: E402

RESULT = Path(__file__).parent / "results" / "resnet20-cifar10-200-steps.json"

STEPS, WINDOW = 200, 20
BATCH, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 128, 0.1, 0.9, 1e-4
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PER_FILE = 10_000

# The first steps, before rounding errors have grown, and the tolerance of their losses.
EARLY, EARLY_TOLERANCE = 3, 1e-3
# The steps in which rounding errors grow. The largest error of cnn-cuda relative to float64 may be this many times PyTorch's.
GROWING, GROWING_FACTOR = 10, 2.0
# The tolerance of a window's mean. PyTorch's perturbed run differs by half of this.
WINDOW_TOLERANCE = 0.05
# The largest allowed mean loss of the last window, relative to the first window's.
FALLS_TO = 0.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, metavar="FILE")
    parser.add_argument("--archive", type=Path, required=True, metavar="FILE")
    parser.add_argument("--device", default="cpu", help="device for cnn-cuda: cpu, or the number of a CUDA device")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--result", type=Path, default=RESULT, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with TemporaryDirectory() as name:
        folder = Path(name)
        train, test = binary_files(arguments.archive, folder / "cifar10")
        torch.manual_seed(0)
        net = build("resnet20")
        weights = folder / "weights.safetensors"
        save_file(net.state_dict(), weights)
        ours = train_cnn_cuda(weights, folder, arguments)
        perturbed_net = copy.deepcopy(net)
        with torch.no_grad():
            for parameter in perturbed_net.parameters():
                parameter.mul_(1 + 1e-7 * torch.randn(parameter.shape))
        exact = pytorch_losses(copy.deepcopy(net).double(), train, GROWING)
        theirs, perturbed = train_pytorch(net, train, test), train_pytorch(perturbed_net, train, test)
    report(ours, theirs, perturbed, exact, arguments)


def binary_files(archive: Path, folder: Path) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Writes the archive's pictures, shuffled, as CIFAR-10's binary files. Returns the records of both splits."""
    records: dict[str, list[tuple[str, bytes]]] = {"train": [], "test": []}
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if member.isfile() and member.name.endswith(".jpg"):
                pixels = numpy.asarray(Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB"))
                records[parts[-3]].append((member.name, pixels.transpose(2, 0, 1).tobytes()))
    classes = sorted({Path(name).parts[-2] for name, _ in records["train"]})
    splits = []
    for split in ("train", "test"):
        records[split].sort()
        rows = [bytes([classes.index(Path(name).parts[-2])]) + pixels for name, pixels in records[split]]
        random.Random(0).shuffle(rows)
        splits.append(rows)
    folder.mkdir(parents=True)
    for index in range(5):
        (folder / f"data_batch_{index + 1}.bin").write_bytes(b"".join(splits[0][index * PER_FILE : (index + 1) * PER_FILE]))
    (folder / "test_batch.bin").write_bytes(b"".join(splits[1]))
    (folder / "batches.meta.txt").write_text("\n".join(classes) + "\n")
    train, test = (numpy.frombuffer(b"".join(rows), numpy.uint8).reshape(len(rows), -1) for rows in splits)
    return train, test


def train_cnn_cuda(weights: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    out = folder / "run"
    command = [arguments.program, "train", "--model", "resnet20", "--dataset", "cifar10", "--data", folder]
    command += ["--init", weights, "--no-shuffle", "--max-steps", STEPS, "--log-steps", "--quiet", "--out", out]
    command += ["--batch-size", BATCH, "--lr", LEARNING_RATE, "--momentum", MOMENTUM, "--weight-decay", WEIGHT_DECAY]
    command += ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]
    command += ["--device", arguments.device, "--threads", arguments.threads]
    start = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True)
    seconds = time.perf_counter() - start
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    epoch = [record for record in records if record["kind"] == "epoch"][-1]
    losses = [record["loss"] for record in records if record["kind"] == "step"]
    return {"losses": losses, "test_loss": epoch["test_loss"], "test_accuracy": epoch["test_accuracy"], "seconds": seconds}


def train_pytorch(net: CifarResNet, train: numpy.ndarray, test: numpy.ndarray) -> dict[str, object]:
    start = time.perf_counter()
    losses = pytorch_losses(net, train, STEPS)
    net.eval()
    loss_sum, correct = 0.0, 0
    with torch.no_grad():
        for begin in range(0, len(test), 500):
            x, labels = inputs(test[begin : begin + 500])
            logits = net(x)
            loss_sum += functional.cross_entropy(logits, labels, reduction="sum").item()
            correct += (logits.argmax(1) == labels).sum().item()
    seconds = time.perf_counter() - start
    return {"losses": losses, "test_loss": loss_sum / len(test), "test_accuracy": correct / len(test), "seconds": seconds}


def pytorch_losses(net: CifarResNet, train: numpy.ndarray, steps: int) -> list[float]:
    sgd = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    losses = []
    net.train()
    for step in range(steps):
        x, labels = inputs(train[step * BATCH : (step + 1) * BATCH])
        loss = functional.cross_entropy(net(x.to(net.fc.weight.dtype)), labels)
        losses.append(loss.item())
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    return losses


def inputs(records: numpy.ndarray) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(records[:, 1:].astype(numpy.float32)).view(-1, 3, 32, 32) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std, torch.from_numpy(records[:, 0].astype(numpy.int64))


def report(ours: dict, theirs: dict, perturbed: dict, exact: list[float], arguments: argparse.Namespace) -> None:
    def relative_differences(a: list[float], b: list[float]) -> list[float]:
        return [abs(one - other) / abs(other) for one, other in zip(a, b, strict=True)]

    def windows(losses: list[float]) -> list[float]:
        return [sum(losses[begin : begin + WINDOW]) / WINDOW for begin in range(0, STEPS, WINDOW)]

    a, b, c = (windows(side["losses"]) for side in (ours, theirs, perturbed))
    print("steps      cnn-cuda  PyTorch   diff.   PyTorch with weights perturbed by 1e-7")
    for index, (one, other, own) in enumerate(zip(a, b, c)):
        name = f"{index * WINDOW}-{(index + 1) * WINDOW - 1}"
        print(f"{name:<9}  {one:>8.4f}  {other:>7.4f}  {abs(one / other - 1):>6.2%}  {own:>7.4f}  {abs(own / other - 1):>6.2%}")
    early = max(relative_differences(ours["losses"][:EARLY], theirs["losses"][:EARLY]))
    growing, growing_of_pytorch = (max(relative_differences(side["losses"][:GROWING], exact)) for side in (ours, theirs))
    claims = {
        "first_steps_apart": early,
        "first_ten_from_float64": growing,
        "pytorch_first_ten_from_float64": growing_of_pytorch,
        "windows_apart": max(relative_differences(a, b)),
        "pytorch_windows_apart_from_itself": max(relative_differences(c, b)),
        "last_window_of_first": a[-1] / a[0],
    }
    print(f"test accuracy {ours['test_accuracy']:.2%}, {theirs['test_accuracy']:.2%}, {perturbed['test_accuracy']:.2%}")
    print(claims)
    result = {
        "command": "python benches/resnet20_cifar10.py --program target/release/cnn-cuda --archive FILE",
        "date": date.today().isoformat(),
        "device": arguments.device,
        "threads": arguments.threads,
        "cpus": os.cpu_count(),
        "versions": {"torch": torch.__version__, "machine": platform.machine()},
        "settings": {
            "steps": STEPS,
            "batch": BATCH,
            "learning_rate": LEARNING_RATE,
            "momentum": MOMENTUM,
            "weight_decay": WEIGHT_DECAY,
            "augmentation": None,
        },
        "tolerances": {
            "first_steps": EARLY_TOLERANCE,
            "first_ten_of_pytorchs": GROWING_FACTOR,
            "windows": WINDOW_TOLERANCE,
            "falls_to": FALLS_TO,
        },
        "claims": claims,
        "windows": {"steps": WINDOW, "cnn_cuda": a, "pytorch": b, "pytorch_perturbed": c},
        "cnn_cuda": ours,
        "pytorch": theirs,
        "pytorch_perturbed": perturbed,
        "pytorch_float64": {"losses": exact},
    }
    text = json.dumps(result, indent=1)
    one_line = re.sub(r"\[[^\[\]]*\]", lambda row: " ".join(row[0].split()), text)
    arguments.result.write_text(one_line + "\n")
    # Written as conditions that NaN does not satisfy.
    passed = [
        early < EARLY_TOLERANCE,
        growing < GROWING_FACTOR * growing_of_pytorch,
        claims["windows_apart"] < WINDOW_TOLERANCE,
        claims["last_window_of_first"] < FALLS_TO,
    ]
    if not all(passed):
        raise SystemExit("the losses do not agree or do not decrease")


if __name__ == "__main__":
    main()
