"""Compares every torchvision network of `cnn-cuda` with torchvision, using the same weights and pictures.

    python tests/reference/check_torchvision.py --program target/release/cnn-cuda [--models resnet18 resnet50]

For each network, the script saves random weights from torchvision. With them, `cnn-cuda predict` must give
torchvision's logits, and `cnn-cuda train` its losses of three training steps. Differences are relative to the largest
logit, or to the loss. Two more figures put them in context: how far PyTorch's float32 losses are from its float64
losses, below which a difference means nothing, and how far the steps moved the losses, which bounds the effect of a
wrong gradient. `--record` writes the figures of the models that were run to a file, such as `torchvision.json`.
"""

import argparse
import copy
import json
import platform
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import GoogLeNet
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from models import TORCHVISION, build, classes, input_shape

TOLERANCE = 1e-3
BATCH, STEPS = 4, 3

# Larger for networks with small gradients: the losses must move by far more than the tolerance, or wrong gradients
# could go unnoticed.
LEARNING_RATE = 1e-3
LEARNING_RATES = {"alexnet": 0.5, "resnet18": 5e-3, "resnet34": 5e-3}
LEARNING_RATES |= {name: 0.05 for name in ("vgg11", "vgg13", "vgg16", "vgg19")}
LEAST_MOVED = 10 * TOLERANCE

# The weight of a residual block's last batch normalisation. With torchvision's initial value of 1, PyTorch's float32
# and float64 are up to 6e-3 apart after two steps of a deep network, because each block amplifies differences.
BLOCK_WEIGHT = 0.25

# Weight and bias of all batch normalisations in networks without shortcuts. With torchvision's initial values, 1 and 0,
# PyTorch's third losses in float32, from weights that differ by 1e-7, are up to 1.6e-3 from those in float64 for
# googlenet and 2.1e-3 for vgg16_bn: the mean is at the kink of the ReLU, and each value that crosses it changes the
# gradient by much. With the values below, the kink is two standard deviations from the mean. The same figures are then
# 1.2e-7, and 1.3e-6 for vgg19_bn, while the steps move the losses by 2e-2 and more.
NORM_WEIGHT, NORM_BIAS = 0.5, 1.0

# The number of pictures in each class, in the order in which an unshuffled run reads them.
CLASS_SIZES = (5, 4, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, metavar="FILE")
    parser.add_argument("--models", nargs="+", choices=TORCHVISION, default=TORCHVISION, metavar="NAME")
    parser.add_argument("--device", default="cpu", help="device of cnn-cuda: cpu, or the number of a CUDA device")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    failed = [name for name in arguments.models if not check(name, arguments)]
    if failed:
        raise SystemExit(f"more than {TOLERANCE:.0e} apart, or not moved by {LEAST_MOVED:.0e}: {', '.join(failed)}")


def check(name: str, arguments: argparse.Namespace) -> bool:
    torch.manual_seed(0)
    net, pictures = build(name), blurred_noise(sum(CLASS_SIZES), *input_shape(name))
    x = ((pictures.float() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the two programs draw different masks
    prepare(net, x)
    learning_rate = LEARNING_RATES.get(name, LEARNING_RATE)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    with TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        weights = folder / "weights.safetensors"
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, weights)
        paths = save_pictures(pictures, folder / "pictures")
        logits = predicted(name, weights, paths[:BATCH], arguments)
        losses, trained = train(name, weights, folder, learning_rate, arguments)
        with torch.no_grad():
            expected = net.eval()(x[:BATCH])
        apart = ((logits - expected).abs().max() / expected.abs().max()).item()
        exact_losses = torch_losses(copy.deepcopy(net).double(), x.double(), learning_rate)
        first_losses = torch_losses(copy.deepcopy(net), x, 0.0)
        expected_losses = torch_losses(net, x, learning_rate)
        losses_apart, rounding = differences(losses, expected_losses), differences(expected_losses, exact_losses)
        # PyTorch's module must accept the weights that the run saved.
        build(name).load_state_dict(load_file(trained), strict=True)
    summary = f"{name}: {parameters:,} parameters, logits {apart:.1e}, losses {losses_apart:.1e} apart"
    moved = differences(expected_losses, first_losses)
    print(f"{summary} (PyTorch's float32 from its float64: {rounding:.1e}; moved by {moved:.1e})", flush=True)
    if arguments.record:
        figures = {"parameters": parameters, "logits_apart": apart, "losses_apart": losses_apart}
        figures |= {"pytorch_losses_from_float64": rounding, "losses_moved": moved}
        figures |= {"learning_rate": learning_rate, "losses": expected_losses}
        record(arguments.record, name, figures, arguments)
    # Not `apart >= TOLERANCE`: that would let NaN pass.
    return apart < TOLERANCE and losses_apart < TOLERANCE and moved > LEAST_MOVED


def differences(losses: list[float], others: list[float]) -> float:
    """The largest relative difference."""
    return max(abs(a - b) / abs(b) for a, b in zip(losses, others, strict=True))


def record(path: Path, name: str, figures: dict[str, object], arguments: argparse.Namespace) -> None:
    """Writes a model's figures to the file, and keeps those of other models."""
    kept = json.loads(path.read_text())["models"] if path.is_file() else {}
    figures["device"] = arguments.device
    figures["versions"] = {"torch": torch.__version__, "torchvision": torchvision.__version__, "machine": platform.machine()}
    kept[name] = figures
    whole = {
        "command": "python tests/reference/check_torchvision.py --program target/release/cnn-cuda --record FILE",
        "settings": {"batch": BATCH, "steps": STEPS, "tolerance": TOLERANCE},
        "models": {model: kept[model] for model in TORCHVISION if model in kept},
    }
    path.write_text(json.dumps(whole, indent=1) + "\n")


def blurred_noise(count: int, channels: int, height: int, width: int) -> Tensor:
    """Bytes `[count, height, width, channels]` that vary slowly, as in photographs."""
    coarse = torch.rand(count, channels, 7, 7)
    fine = functional.interpolate(coarse, (height, width), mode="bilinear") + 0.1 * torch.randn(count, channels, height, width)
    return (fine.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def prepare(net: nn.Module, x: Tensor) -> None:
    """Sets running statistics from the pictures, and replaces initial values that would amplify rounding."""
    for module in net.modules():
        if not isinstance(net, ResNet) and isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, NORM_WEIGHT)
            nn.init.constant_(module.bias, NORM_BIAS)
        if isinstance(net, GoogLeNet) and isinstance(module, nn.Conv2d):
            # As in residual networks: a step changes weights with torchvision's deviation, 0.01, by too much.
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, (BasicBlock, Bottleneck)):
            last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
            nn.init.constant_(last.weight, BLOCK_WEIGHT)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.momentum = None  # the average of all batches
    with torch.no_grad():
        net.train()(x)
    for norm in norms:
        norm.momentum = 0.1


def save_pictures(pictures: Tensor, folder: Path) -> list[Path]:
    """Saves one folder per class under `train/`, and one picture of each class under `test/`."""
    paths, labels = [], picture_labels()
    for index, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        path = folder / "train" / f"class{label}" / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.numpy()).save(path)
        paths.append(path)
    for label in range(len(CLASS_SIZES)):
        path = folder / "test" / f"class{label}" / "0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(paths[labels.index(label)].read_bytes())
    return paths


def picture_labels() -> list[int]:
    return [label for label, size in enumerate(CLASS_SIZES) for _ in range(size)]


def predicted(name: str, weights: Path, paths: list[Path], arguments: argparse.Namespace) -> Tensor:
    command = [arguments.program, "predict", "--model", name, "--weights", weights, "--json", *common(arguments), *paths]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return torch.tensor([json.loads(line)["logits"] for line in done.stdout.splitlines()])


def train(
    name: str, weights: Path, folder: Path, learning_rate: float, arguments: argparse.Namespace
) -> tuple[list[float], Path]:
    """Trains with `cnn-cuda`. Returns the losses of the steps and the file of the final weights."""
    out = folder / "run"
    command = [arguments.program, "train", "--model", name, "--dataset", folder / "pictures", "--init", weights]
    command += ["--classes", classes(name), "--batch-size", BATCH, "--lr", learning_rate, "--no-shuffle", "--log-steps"]
    command += ["--max-steps", STEPS, "--mean", "0.5", "--std", "0.5", "--quiet", "--out", out]
    command += ["--dropout", "0", *common(arguments)]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["kind"] == "step"], out / "model.safetensors"


def common(arguments: argparse.Namespace) -> list[object]:
    return ["--device", arguments.device, "--threads", arguments.threads]


def torch_losses(net: nn.Module, x: Tensor, learning_rate: float) -> list[float]:
    labels, losses = torch.tensor(picture_labels()), []
    sgd = torch.optim.SGD(net.train().parameters(), lr=learning_rate)
    for batch in torch.arange(STEPS * BATCH).split(BATCH):
        outputs = net(x[batch])
        # GoogLeNet's auxiliary losses have a weight of 0.3.
        main, *auxiliary = [outputs] if isinstance(outputs, Tensor) else outputs
        loss = functional.cross_entropy(main, labels[batch])
        loss = loss + 0.3 * sum(functional.cross_entropy(head, labels[batch]) for head in auxiliary)
        losses.append(loss.item())
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    return losses


if __name__ == "__main__":
    main()
