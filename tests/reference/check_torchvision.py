"""Checks every torchvision network of `cnn-cuda` against torchvision, from the same weights on the same pictures.

    python tests/reference/check_torchvision.py --program target/release/cnn-cuda [--models resnet18 resnet50]

For each: random weights of torchvision are saved, `cnn-cuda predict` loads them by name and must give torchvision's logits
in evaluation, and `cnn-cuda train` must give its losses of three training steps. A difference counts relative to the
largest logit, or to the loss. Beside it stand how far PyTorch's float32 losses are from its own float64's, below which a
difference says nothing, and how far the steps moved the losses, so what a wrong gradient could change. `--record` keeps the
figures in a file, of those models that were run; `torchvision.json` is such a file.
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

# Larger where gradients are small: the losses must move by far more than the tolerance, or they would hide wrong ones.
LEARNING_RATE = 1e-3
LEARNING_RATES = {"alexnet": 0.5, "resnet18": 5e-3, "resnet34": 5e-3}
LEARNING_RATES |= {name: 0.05 for name in ("vgg11", "vgg13", "vgg16", "vgg19")}
LEAST_MOVED = 10 * TOLERANCE

# The weight of a residual block's last batch normalisation. With 1, as torchvision begins, PyTorch's own float32 and
# float64 are up to 6e-3 apart after two steps of a deep network: each block makes differences grow.
BLOCK_WEIGHT = 0.25

# Weight and bias of all batch normalisations of networks without shortcuts. With 1 and 0, as torchvision begins, PyTorch's
# third losses in float32, from weights that differ by 1e-7, are up to 1.6e-3 from float64's for googlenet and 2.1e-3 for
# vgg16_bn: half of all values are near the kink of a ReLU, and each that crosses it changes the gradient by much. With
# these two deviations lie between mean and kink; the same figures are 1.2e-7, and 1.3e-6 for vgg19_bn, while the steps
# move the losses by 2e-2 and more.
NORM_WEIGHT, NORM_BIAS = 0.5, 1.0

# The pictures of each class, in the order in which an unshuffled run takes them.
CLASS_SIZES = (5, 4, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, metavar="FILE")
    parser.add_argument("--models", nargs="+", choices=TORCHVISION, default=TORCHVISION, metavar="NAME")
    parser.add_argument("--device", default="cpu", help="of cnn-cuda: cpu, or a CUDA device's number")
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
            module.p = 0.0  # masks are each side's own
    settle(net, x)
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
        exact_losses = trained_by_torch(copy.deepcopy(net).double(), x.double(), learning_rate)
        first_losses = trained_by_torch(copy.deepcopy(net), x, 0.0)
        expected_losses = trained_by_torch(net, x, learning_rate)
        losses_apart, rounding = differences(losses, expected_losses), differences(expected_losses, exact_losses)
        # What the run left must be what PyTorch's module takes.
        build(name).load_state_dict(load_file(trained), strict=True)
    told = f"{name}: {parameters:,} parameters, logits {apart:.1e}, losses {losses_apart:.1e} apart"
    moved = differences(expected_losses, first_losses)
    print(f"{told} (PyTorch's float32 from its float64: {rounding:.1e}; moved by {moved:.1e})", flush=True)
    if arguments.record:
        figures = {"parameters": parameters, "logits_apart": apart, "losses_apart": losses_apart}
        figures |= {"pytorch_losses_from_float64": rounding, "losses_moved": moved}
        figures |= {"learning_rate": learning_rate, "losses": expected_losses}
        record(arguments.record, name, figures, arguments)
    # Not `apart >= TOLERANCE`: that would let NaN pass.
    return apart < TOLERANCE and losses_apart < TOLERANCE and moved > LEAST_MOVED


def differences(losses: list[float], others: list[float]) -> float:
    """The largest, relative."""
    return max(abs(a - b) / abs(b) for a, b in zip(losses, others, strict=True))


def record(path: Path, name: str, figures: dict[str, object], arguments: argparse.Namespace) -> None:
    """Puts a model's figures into the file; those of other models stay."""
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
    """Bytes `[count, height, width, channels]` that vary slowly, as pictures do."""
    coarse = torch.rand(count, channels, 7, 7)
    fine = functional.interpolate(coarse, (height, width), mode="bilinear") + 0.1 * torch.randn(count, channels, height, width)
    return (fine.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def settle(net: nn.Module, x: Tensor) -> None:
    """Gives running statistics values of such pictures, and has what magnifies rounding begin otherwise."""
    for module in net.modules():
        if not isinstance(net, ResNet) and isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, NORM_WEIGHT)
            nn.init.constant_(module.bias, NORM_BIAS)
        if isinstance(net, GoogLeNet) and isinstance(module, nn.Conv2d):
            # As residual networks begin; a step changes weights of torchvision's deviation, 0.01, by much.
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
    """One folder a class under `train/`, and a picture of each class under `test/`."""
    paths, labels = [], labels_of_classes()
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


def labels_of_classes() -> list[int]:
    return [label for label, size in enumerate(CLASS_SIZES) for _ in range(size)]


def predicted(name: str, weights: Path, paths: list[Path], arguments: argparse.Namespace) -> Tensor:
    command = [arguments.program, "predict", "--model", name, "--weights", weights, "--json", *common(arguments), *paths]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return torch.tensor([json.loads(line)["logits"] for line in done.stdout.splitlines()])


def train(
    name: str, weights: Path, folder: Path, learning_rate: float, arguments: argparse.Namespace
) -> tuple[list[float], Path]:
    """The losses of the steps, and the weights after them."""
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


def trained_by_torch(net: nn.Module, x: Tensor, learning_rate: float) -> list[float]:
    labels, losses = torch.tensor(labels_of_classes()), []
    sgd = torch.optim.SGD(net.train().parameters(), lr=learning_rate)
    for batch in torch.arange(STEPS * BATCH).split(BATCH):
        outputs = net(x[batch])
        # GoogLeNet's auxiliary heads count three tenths each.
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
