"""Reference numbers of narrow networks: logits in evaluation and losses in training, from random weights.

    python tests/reference/networks.py

writes `networks.safetensors`. For every network it has `<name>.images` (bytes, NCHW), `<name>.labels`,
`<name>.weight.*` (PyTorch's names), `<name>.logits`, and `<name>.losses` of three optimiser steps on one batch,
without dropout.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (4, 6, 8, 8, 6)
HIDDEN = 16
CLASSES = 5
MOMENTUM = 0.9
# Divides GoogLeNet's channel counts.
NARROWING = 16
# GoogLeNet's inception modules: the channels of their branches, in the order of torchvision's arguments.
INCEPTIONS = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}


class Classic(nn.Module):
    """The structure of torchvision's alexnet and vgg: `features`, an adaptive pooling and a `classifier`."""

    def __init__(self, features: list[nn.Module], pooled: int, first: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(pooled)
        sizes = [CHANNELS[-1] * pooled * pooled, HIDDEN, HIDDEN, CLASSES]
        layers: list[nn.Module] = [nn.Identity()] * 7
        for index, inputs, outputs in zip((first, first + 3, 6), sizes, sizes[1:]):
            layers[index] = nn.Linear(inputs, outputs)
            if index != 6:
                layers[index + 1] = nn.ReLU()
        self.classifier = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def alexnet() -> Classic:
    a, b, c, d, e = CHANNELS
    features = [nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    features += [nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    features += [nn.Conv2d(b, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, d, 3, padding=1), nn.ReLU()]
    features += [nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)]
    return Classic(features, 6, first=1)


def zfnet() -> Classic:
    a, b, c, d, e = CHANNELS
    features = [nn.Conv2d(3, a, 7, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)]
    features += [nn.Conv2d(a, b, 5, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0)]
    features += [nn.Conv2d(b, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, d, 3, padding=1), nn.ReLU()]
    features += [nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)]
    return Classic(features, 6, first=0)


def vgg(batch_norm: bool = False) -> Classic:
    """A narrow vgg11."""
    features: list[nn.Module] = []
    inputs = 3
    for convolutions, outputs in zip((1, 1, 2, 2, 2), CHANNELS):
        for _ in range(convolutions):
            features += [nn.Conv2d(inputs, outputs, 3, padding=1)]
            features += [nn.BatchNorm2d(outputs), nn.ReLU()] if batch_norm else [nn.ReLU()]
            inputs = outputs
        features.append(nn.MaxPool2d(2, 2))
    return Classic(features, 7, first=0)


class BasicConv2d(nn.Module):
    def __init__(self, inputs: int, outputs: int, **options: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, bias=False, **options)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    def __init__(self, inputs: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        one, three_reduced, three, five_reduced, five, pooled = [count // NARROWING for count in channels]
        self.branch1 = BasicConv2d(inputs, one, kernel_size=1)
        self.branch2 = nn.Sequential(
            BasicConv2d(inputs, three_reduced, kernel_size=1),
            BasicConv2d(three_reduced, three, kernel_size=3, padding=1),
        )
        self.branch3 = nn.Sequential(
            BasicConv2d(inputs, five_reduced, kernel_size=1),
            BasicConv2d(five_reduced, five, kernel_size=3, padding=1),
        )
        pool = nn.MaxPool2d(3, 1, 1, ceil_mode=True)
        self.branch4 = nn.Sequential(pool, BasicConv2d(inputs, pooled, kernel_size=1))
        self.outputs = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Auxiliary(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv = BasicConv2d(inputs, 128 // NARROWING, kernel_size=1)
        self.fc1 = nn.Linear(16 * 128 // NARROWING, 1024 // NARROWING)
        self.fc2 = nn.Linear(1024 // NARROWING, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(functional.adaptive_avg_pool2d(x, 4)).flatten(1)
        return self.fc2(functional.relu(self.fc1(x)))


class GoogLeNet(nn.Module):
    """torchvision's GoogLeNet with a sixteenth of its channels. In training it returns the logits of all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = BasicConv2d(3, 64 // NARROWING, kernel_size=7, stride=2, padding=3)
        self.conv2 = BasicConv2d(64 // NARROWING, 64 // NARROWING, kernel_size=1)
        self.conv3 = BasicConv2d(64 // NARROWING, 192 // NARROWING, kernel_size=3, padding=1)
        inputs = 192 // NARROWING
        for name, channels in INCEPTIONS.items():
            setattr(self, name, Inception(inputs, channels))
            inputs = getattr(self, name).outputs
        self.aux1 = Auxiliary(self.inception4a.outputs)
        self.aux2 = Auxiliary(self.inception4d.outputs)
        self.fc = nn.Linear(inputs, CLASSES)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        def pool(x: Tensor, kernel: int = 3) -> Tensor:
            return functional.max_pool2d(x, kernel, 2, ceil_mode=True)

        x = pool(self.conv3(self.conv2(pool(self.conv1(x)))))
        x = pool(self.inception3b(self.inception3a(x)))
        first = self.inception4a(x)
        second = self.inception4d(self.inception4c(self.inception4b(first)))
        x = pool(self.inception4e(second), 2)
        x = self.inception5b(self.inception5a(x))
        logits = self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return [logits, self.aux1(first), self.aux2(second)] if self.training else logits


def scales(model: nn.Module) -> list[nn.Parameter]:
    """The weights of batch normalisations, which stay 1."""
    return [module.weight for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def record(tensors: dict[str, Tensor], name: str, model: nn.Module, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    images = torch.randint(0, 256, (4, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([3, 0, 4, 1])
    # Larger than PyTorch's default initial values, so that the logits differ between the images.
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
        if parameter.dim() == 1 and any(parameter is one for one in scales(model)):
            continue
        parameter.data = torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5
    input = (images.float() / 255 - 0.5) / 0.5
    tensors |= {f"{name}.images": images, f"{name}.labels": labels}
    with torch.no_grad():
        for _ in range(10):
            model.train()(input)  # updates the running statistics
    for key, value in model.state_dict().items():
        tensors[f"{name}.weight.{key}"] = value.clone()
    with torch.no_grad():
        tensors[f"{name}.logits"] = model.eval()(input)
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=MOMENTUM)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        outputs = model(input)
        main, *auxiliary = outputs if isinstance(outputs, list) else [outputs]
        loss = functional.cross_entropy(main, labels)
        loss = loss + 0.3 * sum(functional.cross_entropy(head, labels) for head in auxiliary)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    tensors[f"{name}.losses"] = torch.stack(losses)


def main() -> None:
    torch.set_num_threads(1)
    tensors: dict[str, Tensor] = {}
    record(tensors, "alexnet", alexnet(), 63)
    record(tensors, "zfnet", zfnet(), 63)
    record(tensors, "vgg", vgg(), 32)
    record(tensors, "vgg_bn", vgg(batch_norm=True), 32)
    record(tensors, "googlenet", GoogLeNet(), 64)
    for name in ("alexnet", "zfnet", "vgg", "vgg_bn", "googlenet"):
        print(name, tensors[f"{name}.logits"][:2].tolist(), tensors[f"{name}.losses"].tolist())
    save_file(tensors, Path(__file__).parent / "networks.safetensors")


if __name__ == "__main__":
    main()
