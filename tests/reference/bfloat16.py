"""Writes `bfloat16.json`: how far PyTorch's own bfloat16 on the CPU, under `torch.autocast`, is from exact numbers.

    python tests/reference/bfloat16.py --data data

`narrow` and `mnist` are the losses of 50 training steps of the networks of `make_reference.py`. The learning rates of `narrow`
are lower than there: with those, a rounding difference moves the maximum of a pooling window, and the runs diverge. `logits`
has the relative error of the logits of the networks in `networks.safetensors`, in evaluation: the norm of the difference from
float32 divided by the norm.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import networks
from make_reference import STEPS, Optimiser, doubled_narrow_mnist_cnn, find_mnist, initialised, template_images, train
from models import MnistCnn, normalise
from safetensors.torch import load_file


def train_in_bfloat16(model: nn.Module, optimiser: Optimiser, images: Tensor, labels: Tensor, batch_size: int) -> list[float]:
    """The losses of a run under autocast."""
    sgd = torch.optim.SGD(model.parameters(), **optimiser._asdict())
    losses = []
    for step in range(STEPS):
        batch = slice(step * batch_size, (step + 1) * batch_size)
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.cross_entropy(model(normalise(images[batch], torch.float32)), labels[batch])
        losses.append(loss.item())
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    return losses


def errors_of_logits() -> dict[str, float]:
    """The relative error of each network's logits."""
    tensors = load_file(Path(__file__).parent / "networks.safetensors")
    makers = {
        "alexnet": networks.alexnet,
        "zfnet": networks.zfnet,
        "vgg": networks.vgg,
        "vgg_bn": lambda: networks.vgg(True),
        "googlenet": networks.GoogLeNet,
    }
    errors = {}
    for name, make in makers.items():
        prefix = f"{name}.weight."
        model = make()
        model.load_state_dict({key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
        model.eval()
        images = (tensors[f"{name}.images"].float() / 255 - 0.5) / 0.5
        with torch.no_grad():
            exact = model(images)
            with torch.autocast("cpu", torch.bfloat16):
                rounded = model(images).float()
        errors[name] = ((rounded - exact).norm() / exact.norm()).item()
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that contains mnist/ or MNIST/raw/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    mnist = find_mnist(arguments.data)
    if mnist is None:
        raise SystemExit(f"there is no MNIST in {arguments.data}/mnist or {arguments.data}/MNIST/raw")
    sgd, nesterov = Optimiser(lr=0.004), Optimiser(lr=0.001, momentum=0.9, nesterov=True, weight_decay=5e-4)
    large = Optimiser(lr=0.1), Optimiser(lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    sets = {
        "narrow": (doubled_narrow_mnist_cnn, {"sgd": sgd, "nesterov": nesterov}, template_images(STEPS * 8), 8),
        "mnist": (lambda: initialised(MnistCnn), {"sgd": large[0], "nesterov": large[1]}, mnist, 64),
    }
    content: dict[str, object] = {"torch": torch.__version__, "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    for name, (make, optimisers, (images, labels), batch_size) in sets.items():
        runs = {}
        for label, optimiser in optimisers.items():
            exact = train(make(), optimiser, images, labels, batch_size, torch.float64).losses
            rounded = train_in_bfloat16(make(), optimiser, images, labels, batch_size)
            runs[label] = {**optimiser._asdict(), "losses_float64": exact, "losses_bfloat16": rounded}
            difference = max(abs(a - b) / b for a, b in zip(rounded, exact, strict=True))
            print(f"{name} {label}: loss {exact[0]:.4f} -> {exact[-1]:.4f}, bfloat16 against float64: {difference:.1e}")
        content[name] = runs
    content["logits"] = errors_of_logits()
    (Path(__file__).parent / "bfloat16.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
