"""The networks of `cnn-cuda` as PyTorch modules.

The parameter names are part of the contract. A `model.safetensors` written by the Rust program must load into these
modules with `load_state_dict(strict=True)`, and the program must load their `state_dict()`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def normalise(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bytes `[n, 28, 28]` to network inputs `[n, 1, 28, 28]` in -1..1, as training does: `(x/255 - 0.5)/0.5`."""
    return ((images.to(dtype) / 255 - 0.5) / 0.5).unsqueeze(1)


class MnistCnn(nn.Module):
    """`mnist-cnn`: four unpadded 3x3 convolutions with two max-poolings, then three linear layers.

    Narrower widths make the weights of a test fit into a small file.
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int] = (16, 32, 64, 128),
        hidden: tuple[int, int] = (1024, 128),
    ) -> None:
        super().__init__()
        one, two, three, four = channels
        # The convolutions and two poolings reduce 28x28 to 4x4.
        features = four * 4 * 4
        self.layer1 = nn.Sequential(nn.Conv2d(1, one, 3), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(one, two, 3), nn.ReLU(), nn.MaxPool2d(2, 2))
        self.layer3 = nn.Sequential(nn.Conv2d(two, three, 3), nn.ReLU())
        self.layer4 = nn.Sequential(nn.Conv2d(three, four, 3), nn.ReLU(), nn.MaxPool2d(2, 2))
        self.fc = nn.Sequential(
            nn.Linear(features, hidden[0]),
            nn.ReLU(),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Linear(hidden[1], 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.flatten(1))


def narrow_mnist_cnn() -> MnistCnn:
    """`mnist-cnn` with 11,010 parameters instead of 2,327,818."""
    return MnistCnn(channels=(4, 8, 8, 16), hidden=(32, 16))


class LeNet5(nn.Module):
    """LeNet-5 of 1998, with tanh and average pooling, and with the attribute names of PyTorch's tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(torch.tanh(self.conv1(x)), 2)
        x = functional.avg_pool2d(torch.tanh(self.conv2(x)), 2)
        x = torch.tanh(self.fc1(x.flatten(1)))
        x = torch.tanh(self.fc2(x))
        return self.fc3(x)


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters: every second pixel, zero-padded channels."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.missing = stride, channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu_(self.bn1(self.conv1(x)))))
        if self.stride > 1 or self.missing:
            before = self.missing // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before))
        return torch.relu_(y + x)


class CifarResNet(nn.Module):
    """He et al.'s network of `6 * blocks + 2` layers for CIFAR-10, with torchvision's names and initialisation."""

    def __init__(self, blocks: int, widths: tuple[int, ...] = (16, 32, 64), classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        in_channels, self.stages = widths[0], len(widths)
        for stage, width in enumerate(widths):
            layer = []
            for block in range(blocks):
                layer.append(CifarBlock(in_channels, width, 2 if stage > 0 and block == 0 else 1))
                in_channels = width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(in_channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(x.mean((2, 3)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mnist-cnn": MnistCnn,
    "lenet5": LeNet5,
    "resnet20": lambda: CifarResNet(3),
    "resnet32": lambda: CifarResNet(5),
    "resnet56": lambda: CifarResNet(9),
}

# The networks that torchvision defines.
TORCHVISION = ["alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn", "googlenet"]
TORCHVISION += ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


def build(name: str) -> nn.Module:
    """The network of this name in `cnn-cuda`, with the initialisation of its PyTorch definition."""
    if name in TORCHVISION:
        import torchvision

        return getattr(torchvision.models, name)(weights=None)
    return MODELS[name]()


def input_shape(name: str) -> tuple[int, int, int]:
    """The default input of the network: channels, height and width."""
    if name in TORCHVISION:
        return (3, 224, 224)
    return (3, 32, 32) if name.startswith("resnet") else (1, 28, 28)


def classes(name: str) -> int:
    return 1000 if name in TORCHVISION else 10


def draw_norms(net: nn.Module) -> None:
    """Gives every batch normalisation parameters and running statistics that differ from the initial ones."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            module.num_batches_tracked.fill_(5)
