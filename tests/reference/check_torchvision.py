"""Checks every torchvision network of `cnn-cuda` against torchvision, from the same weights on the same pictures.

    python tests/reference/check_torchvision.py --program target/release/cnn-cuda [--models resnet18 resnet50]

For each: random weights of torchvision are saved, `cnn-cuda predict` loads them by name and must give torchvision's logits
in evaluation, and `cnn-cuda train` must give its losses of three training steps. A difference counts relative to the
largest logit, or to the loss.
"""

import argparse
import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck

from models import TORCHVISION, build, classes, input_shape

TOLERANCE = 1e-3
BATCH, STEPS = 4, 3

LEARNING_RATE = 1e-3

# The weight of a residual block's last batch normalisation. With 1, as torchvision begins, PyTorch's own float32 and
# float64 are up to 6e-3 apart after two steps of a deep network: each block makes differences grow.
BLOCK_WEIGHT = 0.25

# The pictures of each class, in the order in which an unshuffled run takes them.
CLASS_SIZES = (5, 4, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True, metavar="FILE")
    parser.add_argument("--models", nargs="+", choices=TORCHVISION, default=TORCHVISION, metavar="NAME")
    parser.add_argument("--device", default="cpu", help="of cnn-cuda: cpu, or a CUDA device's number")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    failed = [name for name in arguments.models if not check(name, arguments)]
    if failed:
        raise SystemExit(f"more than {TOLERANCE:.0e} apart: {', '.join(failed)}")


def check(name: str, arguments: argparse.Namespace) -> bool:
    torch.manual_seed(0)
    net, pictures = build(name), blurred_noise(sum(CLASS_SIZES), *input_shape(name))
    x = ((pictures.float() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # masks are each side's own
    settle(net, x)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    with TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        weights = folder / "weights.safetensors"
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, weights)
        paths = save_pictures(pictures, folder / "pictures")
        logits = predicted(name, weights, paths[:BATCH], arguments)
        losses, trained = train(name, weights, folder, arguments)
        with torch.no_grad():
            expected = net.eval()(x[:BATCH])
        apart = ((logits - expected).abs().max() / expected.abs().max()).item()
        expected_losses = trained_by_torch(net, x)
        losses_apart = max(abs(a - b) / abs(b) for a, b in zip(losses, expected_losses, strict=True))
        # What the run left must be what PyTorch's module takes.
        build(name).load_state_dict(load_file(trained), strict=True)
    print(f"{name}: {parameters:,} parameters, logits {apart:.1e}, losses {losses_apart:.1e} apart", flush=True)
    # Not `apart >= TOLERANCE`: that would let NaN pass.
    return apart < TOLERANCE and losses_apart < TOLERANCE


def blurred_noise(count: int, channels: int, height: int, width: int) -> Tensor:
    """Bytes `[count, height, width, channels]` that vary slowly, as pictures do."""
    coarse = torch.rand(count, channels, 7, 7)
    fine = functional.interpolate(coarse, (height, width), mode="bilinear") + 0.1 * torch.randn(count, channels, height, width)
    return (fine.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def settle(net: nn.Module, x: Tensor) -> None:
    """Gives running statistics values of such pictures, and damps residual blocks: else activations grow past all measure."""
    for module in net.modules():
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


def train(name: str, weights: Path, folder: Path, arguments: argparse.Namespace) -> tuple[list[float], Path]:
    """The losses of the steps, and the weights after them."""
    out = folder / "run"
    command = [arguments.program, "train", "--model", name, "--dataset", folder / "pictures", "--init", weights]
    command += ["--classes", classes(name), "--batch-size", BATCH, "--lr", LEARNING_RATE, "--no-shuffle", "--log-steps"]
    command += ["--max-steps", STEPS, "--mean", "0.5", "--std", "0.5", "--quiet", "--out", out]
    command += ["--dropout", "0", *common(arguments)]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["kind"] == "step"], out / "model.safetensors"


def common(arguments: argparse.Namespace) -> list[object]:
    return ["--device", arguments.device, "--threads", arguments.threads]


def trained_by_torch(net: nn.Module, x: Tensor) -> list[float]:
    labels, losses = torch.tensor(labels_of_classes()), []
    sgd = torch.optim.SGD(net.train().parameters(), lr=LEARNING_RATE)
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
