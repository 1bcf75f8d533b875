"""Trains airnet on CIFAR-10 with cnn-cuda and PyTorch, by the recipe of airbench94_muon, and compares accuracy and time.

    python benches/airnet_cifar10.py --program target/release/cnn-cuda --archive data/cifar10/cifar10-jpeg.tar.xz

PyTorch's side is that recipe (github.com/KellerJordan/cifar10-airbench): eight epochs with batches of 2000, Muon for the
convolutions and SGD for biases and head, alternating flips, translation with reflect padding, and six views of each test
picture. It computes in fp32 on a CPU, and in fp16 and channels_last on a CUDA device, without torch.compile. Our side is
`recipes/airnet-cifar10.toml`. Both read the JPEG pictures of the archive. Times are those of training alone.

Needs torch, numpy and Pillow.
"""

import argparse
import io
import json
import os
import platform
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
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "reference"))
from airnet import Airnet, orthogonalised, whitening  # noqa: E402

RESULT = Path(__file__).parent / "results" / "airnet-cifar10.json"
RECIPE = Path(__file__).parent.parent / "recipes" / "airnet-cifar10.toml"

BATCH, EPOCHS, WHITEN_EPOCHS, SMOOTHING, PADDING = 2000, 8, 3, 0.2, 2
BIAS_LR, HEAD_LR, DECAY, SGD_MOMENTUM = 0.053, 0.67, 2e-6 * BATCH, 0.85
MUON_LR, MUON_MOMENTUM = 0.24, 0.6
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, metavar="FILE", help="leave out to run PyTorch's side alone")
    parser.add_argument("--archive", type=Path, required=True, metavar="FILE")
    parser.add_argument("--device", default="cpu", help="cpu, or the number of a CUDA device")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2, help="how many runs of each side")
    parser.add_argument("--without-pytorch", action="store_true")
    parser.add_argument("--result", type=Path, default=RESULT, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sets = None if arguments.without_pytorch else read(arguments.archive)
    sides: dict[str, list[dict]] = {"cnn_cuda": [], "pytorch": []}
    for seed in range(arguments.seeds):
        if arguments.program:
            sides["cnn_cuda"].append(train_cnn_cuda(seed, arguments))
        if sets:
            sides["pytorch"].append(train_pytorch(seed, sets, arguments))
    report(sides, arguments)


def read(archive: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The pictures of both splits as bytes, `[count, 3, 32, 32]`, and their labels."""
    pictures: dict[str, list[tuple[str, str, bytes]]] = {"train": [], "test": []}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".jpg"):
                split, label, name = Path(member.name).parts[-3:]
                pixels = numpy.asarray(Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB"))
                pictures[split].append((label, name, pixels.transpose(2, 0, 1).tobytes()))
    classes = sorted({label for label, _, _ in pictures["train"]})
    sets = {}
    for split, found in pictures.items():
        found.sort()
        bytes_ = numpy.frombuffer(b"".join(pixels for _, _, pixels in found), numpy.uint8).reshape(-1, 3, 32, 32)
        sets[split] = (torch.tensor(bytes_), torch.tensor([classes.index(label) for label, _, _ in found]))
    return sets


def train_cnn_cuda(seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    with TemporaryDirectory() as name:
        out = Path(name) / "run"
        command = [arguments.program, "train", "--config", RECIPE, "--dataset", arguments.archive, "--image-size", 32]
        command += ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]
        command += ["--seed", seed, "--device", arguments.device, "--quiet", "--out", out]
        command += ["--threads", arguments.threads] if arguments.device == "cpu" else ["--precision", "fp16"]
        start = time.perf_counter()
        subprocess.run([str(part) for part in command], check=True)
        seconds = time.perf_counter() - start
        lines = (out / "metrics.jsonl").read_text().splitlines()
    epochs = [record for record in map(json.loads, lines) if record["kind"] == "epoch"]
    images = epochs[0]["steps"] * BATCH  # In each epoch.
    training = sum(images / epoch["images_per_second"] for epoch in epochs)
    result = {"accuracy": epochs[-1]["test_accuracy"], "training_seconds": training, "seconds": seconds}
    print("cnn-cuda", result, flush=True)
    return result


def initial(net: Airnet, images: Tensor) -> None:
    for name, parameter in net.named_parameters():
        if ".conv" in name:
            nn.init.dirac_(parameter.data[: parameter.size(1)])
    net.head.weight.data /= net.head.weight.data.std()
    net.whiten.weight.data = whitening(images.float())


def train_pytorch(seed: int, sets: dict[str, tuple[Tensor, Tensor]], arguments: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(seed)
    on_cpu = arguments.device == "cpu"
    device = torch.device("cpu" if on_cpu else f"cuda:{arguments.device}")
    dtype = torch.float32 if on_cpu else torch.float16
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))

    def normalised(images: Tensor) -> Tensor:
        return ((images.to(device) / 255 - mean) / std).to(dtype).contiguous(memory_format=torch.channels_last)

    (images, labels), (test_images, test_labels) = sets["train"], sets["test"]
    images, labels = normalised(images), labels.to(device)
    net = Airnet((64, 256, 256), 10).to(device)
    initial(net, images[:5000].float())
    net = net.to(dtype=dtype, memory_format=torch.channels_last)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    synchronise = (lambda: None) if on_cpu else torch.cuda.synchronize
    synchronise()
    start = time.perf_counter()
    optimise(net, images, labels)
    synchronise()
    training = time.perf_counter() - start
    net.eval()
    with torch.no_grad():
        logits = [six_views(net, normalised(part)) for part in test_images.split(BATCH)]
        correct = torch.cat(logits).argmax(1).cpu() == test_labels
    result = {"accuracy": correct.float().mean().item(), "training_seconds": training}
    print("PyTorch ", result, flush=True)
    return result


def optimise(net: Airnet, images: Tensor, labels: Tensor) -> None:
    filters = [p for name, p in net.named_parameters() if ".conv" in name]
    norms = [p for name, p in net.named_parameters() if "norm" in name and name.endswith("bias")]
    groups = [([net.whiten.bias], BIAS_LR), (norms, BIAS_LR), ([net.head.weight], HEAD_LR)]
    sgd = torch.optim.SGD(
        [{"params": params, "lr": lr, "weight_decay": DECAY / lr} for params, lr in groups],
        momentum=SGD_MOMENTUM,
        nesterov=True,
    )
    momenta = [torch.zeros_like(weight) for weight in filters]
    steps = len(images) // BATCH
    flipped = torch.rand(len(images), device=images.device) < 0.5
    net.train()
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), device=images.device)
        mirrored = flipped ^ (epoch % 2 == 1)
        for index in range(steps):
            step, batch = epoch * steps + index, order[index * BATCH : (index + 1) * BATCH]
            x = augmented(images[batch], mirrored[batch])
            net.whiten.bias.requires_grad = step < WHITEN_EPOCHS * steps
            loss = functional.cross_entropy(net(x), labels[batch], label_smoothing=SMOOTHING, reduction="sum")
            net.zero_grad(set_to_none=True)
            loss.backward()
            rest = 1 - step / (EPOCHS * steps)
            for group, (_, lr) in zip(sgd.param_groups, groups):
                group["lr"] = lr * rest
            sgd.param_groups[0]["lr"] = BIAS_LR * (1 - step / (WHITEN_EPOCHS * steps))
            sgd.step()
            with torch.no_grad():
                for weight, momentum in zip(filters, momenta):
                    momentum.mul_(MUON_MOMENTUM).add_(weight.grad)
                    direction = weight.grad + MUON_MOMENTUM * momentum
                    weight.mul_(len(weight) ** 0.5 / weight.norm())
                    update = orthogonalised(direction.reshape(len(weight), -1).float()).view_as(weight)
                    weight.sub_(update.to(weight.dtype), alpha=MUON_LR * rest)


def augmented(images: Tensor, mirrored: Tensor) -> Tensor:
    """Flips the images that are to be mirrored, and translates each by up to PADDING pixels."""
    images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
    padded, side = functional.pad(images, (PADDING,) * 4, "reflect"), images.size(-1)
    shifts = torch.randint(0, 2 * PADDING + 1, (len(images), 2), device=images.device)
    result = torch.empty_like(images)
    for y in range(2 * PADDING + 1):
        for x in range(2 * PADDING + 1):
            here = (shifts[:, 0] == y) & (shifts[:, 1] == x)
            result[here] = padded[here, :, y : y + side, x : x + side]
    return result


def six_views(net: nn.Module, x: Tensor) -> Tensor:
    """The mean of the logits of a picture and its two translations, which count half, each with its mirror image."""
    padded, side = functional.pad(x, (1,) * 4, "reflect"), x.size(-1)
    views = [(x, 0.5), (padded[:, :, :side, :side], 0.25), (padded[:, :, 2:, 2:], 0.25)]
    return sum(weight * (net(view) + net(view.flip(-1))) / 2 for view, weight in views)


def report(sides: dict[str, list[dict]], arguments: argparse.Namespace) -> None:
    device = arguments.device if arguments.device == "cpu" else torch.cuda.get_device_name(int(arguments.device))
    result = {
        "command": "python benches/airnet_cifar10.py --program target/release/cnn-cuda --archive FILE",
        "date": date.today().isoformat(),
        "device": device,
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        **sides,
    }
    for name, runs in sides.items():
        if runs:
            accuracy, seconds = (sum(run[key] for run in runs) / len(runs) for key in ("accuracy", "training_seconds"))
            print(f"{name}: mean test accuracy {accuracy:.2%}, {seconds:.1f} s of training, {len(runs)} runs")
    arguments.result.write_text(json.dumps(result, indent=1) + "\n")


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
