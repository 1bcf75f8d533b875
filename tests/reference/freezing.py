"""Writes freezing.safetensors: 50 training steps of a narrow residual network of which a part is frozen, in PyTorch.

    python tests/reference/freezing.py
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from models import CifarResNet, draw_norms

BATCH, STEPS_PER_EPOCH, EPOCHS, CLASSES = 8, 5, 10, 10


def make() -> nn.Module:
    torch.manual_seed(0)
    net = CifarResNet(2, (4, 8, 12))
    draw_norms(net)
    return net


def set_frozen(net: nn.Module, prefixes: list[str]) -> None:
    """`requires_grad=False` for parameters, evaluation mode for normalisations."""

    def is_frozen(name: str) -> bool:
        return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)

    net.train()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not is_frozen(name))
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d) and is_frozen(name):
            module.eval()


def losses(prefixes: list[str], images: Tensor, labels: Tensor, dtype: torch.dtype, unfreeze_at: int = 99, clip: float = 0.0):
    """The losses of all steps, and the state after them. Epochs count from 1."""
    net = make().to(dtype)
    x = ((images.to(dtype) / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
    sgd, result = torch.optim.SGD(net.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-3), []
    for epoch in range(1, EPOCHS + 1):
        set_frozen(net, prefixes if epoch < unfreeze_at else [])
        for step in range(STEPS_PER_EPOCH):
            batch = slice(step * BATCH, (step + 1) * BATCH)
            sgd.zero_grad()
            loss = functional.cross_entropy(net(x[batch]), labels[batch])
            result.append(loss.item())
            loss.backward()
            if clip:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            sgd.step()
    return torch.tensor(result, dtype=torch.float64), net.state_dict()


torch.set_num_threads(1)
torch.manual_seed(1)
images = torch.randint(256, (STEPS_PER_EPOCH * BATCH, 16, 16, 3), dtype=torch.uint8)
labels = torch.randint(CLASSES, (STEPS_PER_EPOCH * BATCH,))
cases = {
    "bottom": {"prefixes": ["conv1", "bn1", "layer1"]},
    "middle": {"prefixes": ["layer2", "layer3.0.bn2"], "clip": 1.0},
    "backbone": {"prefixes": ["conv1", "bn1", "layer1", "layer2", "layer3"]},
    "unfrozen": {"prefixes": ["conv1", "bn1", "layer1"], "unfreeze_at": 5},
}
tensors = {"images": images, "labels": labels}
tensors |= {f"initial.{name}": value.clone() for name, value in make().state_dict().items()}
for name, settings in cases.items():
    exact, state = losses(**settings, images=images, labels=labels, dtype=torch.float64)
    single, _ = losses(**settings, images=images, labels=labels, dtype=torch.float32)
    print(name, exact[0].item(), exact[-1].item(), "float32 is off by", (exact - single).abs().max().item())
    tensors[f"{name}.losses"] = exact
    tensors |= {f"{name}.final.{key}": value for key, value in state.items() if "running" in key and "layer2.1" in key}
    tensors |= {f"{name}.final.{key}": value for key, value in state.items() if "tracked" in key}
save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, Path(__file__).parent / "freezing.safetensors")
