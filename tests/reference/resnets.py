"""Writes resnets.safetensors: three narrow residual networks, evaluated and then trained for three steps by PyTorch.

    python tests/reference/resnets.py
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from models import CifarResNet, draw_norms

BATCH, STEPS, CLASSES = 8, 3, 10


def narrow(block: type[BasicBlock] | type[Bottleneck], widths: list[int], blocks: list[int]) -> ResNet:
    """torchvision's network with fewer channels."""
    net = ResNet(block, [1, 1, 1, 1], num_classes=CLASSES)
    net.inplanes = widths[0]
    net.conv1, net.bn1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False), nn.BatchNorm2d(widths[0])
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        setattr(net, f"layer{stage + 1}", net._make_layer(block, width, count, 1 if stage == 0 else 2))
    net.fc = nn.Linear(widths[-1] * block.expansion, CLASSES)
    return net


def trajectory(make) -> dict[str, Tensor]:
    """The logits in evaluation, the losses of three training steps, and the state after them."""
    torch.manual_seed(0)
    net = make()
    draw_norms(net)
    images = torch.randint(256, (STEPS * BATCH, 32, 32, 3), dtype=torch.uint8)
    labels = torch.randint(CLASSES, (STEPS * BATCH,))
    x = ((images.float() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
    result = {f"initial.{name}": value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        result["logits"] = net.eval()(x[:BATCH])
    sgd, losses = torch.optim.SGD(net.train().parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3), []
    for step in range(STEPS):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        loss = functional.cross_entropy(net(x[batch]), labels[batch])
        losses.append(loss.item())
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    result |= {f"final.{name}": value for name, value in net.named_buffers()}
    return {**result, "images": images, "labels": labels, "losses": torch.tensor(losses)}


NETWORKS = {
    "basic": lambda: narrow(BasicBlock, [4, 4, 8, 8], [2, 1, 1, 1]),
    "bottleneck": lambda: narrow(Bottleneck, [2, 4, 4, 4], [1, 2, 1, 1]),
    "cifar": lambda: CifarResNet(2, (4, 8, 12)),
}


def main() -> None:
    torch.set_num_threads(1)
    tensors = {
        f"{name}.{key}": tensor.detach().clone().contiguous()
        for name, make in NETWORKS.items()
        for key, tensor in trajectory(make).items()
    }
    for name in NETWORKS:
        print(name, tensors[f"{name}.losses"].tolist())
    save_file(tensors, Path(__file__).parent / "resnets.safetensors")


if __name__ == "__main__":
    main()
