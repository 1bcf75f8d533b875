"""Writes optimizers.safetensors: PyTorch's losses and weights after 1,000 steps of each optimiser, in float64.

A small network with a batch normalisation learns 24 random images with label smoothing, in batches of eight and always
in the same order. `losses.<run>` has the loss of every 50th step, `final.<run>.<name>` the last weights. The metadata's
`description` has the settings of each run, and how far PyTorch's own float32 is from its float64.

    python tests/reference/optimizers.py

needs `torch`, `numpy` and `safetensors`.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional

STEPS, EVERY, BATCH, IMAGES, CLASSES, SIDE = 1000, 50, 8, 24, 3, 8

RUNS = {
    "adam": {"optimizer": "adam", "lr": 0.003},
    "adam_l2": {"optimizer": "adam", "lr": 0.003, "betas": [0.8, 0.95], "eps": 1e-4, "weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "lr": 0.002, "weight_decay": 0.05},
    "adamw_groups": {
        "optimizer": "adamw", "lr": 0.002, "weight_decay": 0.05, "clip": 0.25,
        "decay_norm_bias": False, "head_lr_scale": 3.0,
    },
    "sgd_groups": {
        "optimizer": "sgd", "lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01,
        "decay_norm_bias": False, "head_lr_scale": 0.5, "bias_lr_scale": 2.0,
    },
    "muon": {
        "optimizer": "muon", "lr": 0.01, "momentum": 0.9, "nesterov": True, "sgd_lr": 0.02, "sgd_momentum": 0.8,
        "weight_decay": 0.01, "decay_norm_bias": False, "head_lr_scale": 0.5,
    },
    # As airbench94_muon: three iterations, normalised weights, and a weight decay that the learning rate does not scale.
    "muon_normalised": {
        "optimizer": "muon", "lr": 0.02, "momentum": 0.6, "nesterov": True, "ns_steps": 3, "normalise": True,
        "sgd_lr": 0.02, "sgd_momentum": 0.85, "weight_decay": 0.01, "unscaled_decay": True,
        "head_lr_scale": 0.5, "bias_lr_scale": 4.0,
    },
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 5, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, 6, 3, stride=2)
        self.fc1 = nn.Linear(6 * 3 * 3, 7)
        self.fc2 = nn.Linear(7, CLASSES)

    def forward(self, x):
        x = torch.tanh(self.bn1(self.conv1(x)))
        x = torch.tanh(self.conv2(x))
        x = torch.tanh(self.fc1(x.flatten(1)))
        return self.fc2(x)


def newton_schulz(gradient, coefficients, steps, eps):
    """torch.optim._muon's function without its conversion to bfloat16, whose rounding would hide any other."""
    a, b, c = coefficients
    x = gradient.T if gradient.size(0) > gradient.size(1) else gradient
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if gradient.size(0) > gradient.size(1) else x


def groups(net, run, skip=()):
    """One group per parameter, with its own learning rate and weight decay."""
    for name, parameter in net.named_parameters():
        if name in skip:
            continue
        decays = run.get("decay_norm_bias", True) or parameter.ndim > 1
        head = run.get("head_lr_scale", 1.0) if name.startswith("fc2.") else 1.0
        bias = run.get("bias_lr_scale", 1.0) if name.endswith(".bias") else 1.0
        decay = run.get("weight_decay", 0.0) if decays else 0.0
        if run.get("unscaled_decay"):
            decay /= head * bias
        yield {"params": [parameter], "lr": run.get("sgd_lr", run["lr"]) * head * bias, "weight_decay": decay}


def optimizers_of(net, run):
    if run["optimizer"] == "sgd":
        return [torch.optim.SGD(groups(net, run), momentum=run["momentum"], nesterov=run["nesterov"])]
    if run["optimizer"] == "muon":
        # PyTorch's Muon takes matrices only: a view of the weight, whose gradient the training loop passes on.
        net.matrix = torch.nn.Parameter(net.conv2.weight.data.view(6, -1))
        settings = {key: run[key] for key in ("lr", "momentum", "nesterov", "weight_decay", "ns_steps") if key in run}
        if run.get("normalise"):
            settings["weight_decay"] = 0.0
        sgd = torch.optim.SGD(groups(net, run, ("conv2.weight", "matrix")), momentum=run["sgd_momentum"], nesterov=True)
        return [torch.optim.Muon([net.matrix], **settings), sgd]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[run["optimizer"]]
    return [kind(groups(net, run), betas=tuple(run.get("betas", (0.9, 0.999))), eps=run.get("eps", 1e-8))]


def train(run, initial, images, labels, dtype):
    net = Net().to(dtype)
    net.load_state_dict(initial)
    x = ((torch.from_numpy(images).to(dtype) / 255 - 0.5) / 0.5).view(IMAGES, 1, SIDE, SIDE)
    y = torch.from_numpy(labels)
    optimizers, losses = optimizers_of(net, run), []
    for step in range(STEPS):
        batch = slice(step * BATCH % IMAGES, step * BATCH % IMAGES + BATCH)
        loss = functional.cross_entropy(net(x[batch]), y[batch], label_smoothing=0.1)
        net.zero_grad()
        loss.backward()
        if "clip" in run:
            nn.utils.clip_grad_norm_(net.parameters(), run["clip"])
        if run["optimizer"] == "muon":
            net.matrix.grad = net.conv2.weight.grad.view(6, -1)
            if run.get("normalise"):
                net.matrix.data.mul_(len(net.matrix) ** 0.5 / net.matrix.data.norm())
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return losses[::EVERY], {name: value.detach() for name, value in net.named_parameters() if name != "matrix"}


def main():
    torch.optim._muon._zeropower_via_newtonschulz = newton_schulz
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (IMAGES, SIDE, SIDE), dtype=np.uint8)
    labels = generator.integers(0, CLASSES, IMAGES)
    initial = Net().state_dict()
    tensors = {"images": images, "labels": labels}
    tensors |= {f"initial.{name}": value.numpy() for name, value in initial.items() if value.ndim and "running" not in name}
    differences = {}
    for name, run in RUNS.items():
        losses, final = train(run, initial, images, labels, torch.float64)
        _, single = train(run, initial, images, labels, torch.float32)
        differences[name] = max((single[key].double() - final[key]).abs().max().item() for key in final)
        tensors[f"losses.{name}"] = np.array(losses, dtype=np.float32)
        tensors |= {f"final.{name}.{key}": value.float().numpy() for key, value in final.items()}
        print(f"{name:14} loss {losses[0]:.4f} to {losses[-1]:.4f}, float32 differs by {differences[name]:.2e}")
    description = {"torch": torch.__version__, "runs": RUNS, "float32_against_float64": differences}
    path = Path(__file__).with_name("optimizers.safetensors")
    save_file(tensors, path, metadata={"description": json.dumps(description)})


if __name__ == "__main__":
    main()
