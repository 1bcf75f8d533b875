"""Writes airnet.safetensors: a narrow airnet in float64, from random weights.

The network, its whitening layer and its optimisers are those of airbench94_muon (github.com/KellerJordan/cifar10-airbench).
The file has `images` (bytes, NHWC), `labels`, `weight.<name>` (initial weights), `whitening` (the first layer's weight,
computed from the images), `logits` (in evaluation mode, before training) and the `losses` and last weights (`final.<name>`)
of a few steps, each on all images.

    python tests/reference/airnet.py

needs `torch`, `numpy` and `safetensors`.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional

SIDE, IMAGES, CLASSES, WIDTHS, STEPS = 28, 24, 5, (8, 12, 10), 5
MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)
LR, MOMENTUM, ITERATIONS = 0.05, 0.6, 3
SGD_LR, SGD_MOMENTUM, WEIGHT_DECAY, BIAS_SCALE, HEAD_SCALE = 0.1, 0.85, 0.02, 8.0, 4.0


class Norm(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad = False


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = Norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = Norm(outputs)

    def forward(self, x):
        x = functional.gelu(self.norm1(functional.max_pool2d(self.conv1(x), 2)))
        return functional.gelu(self.norm2(self.conv2(x)))


class Airnet(nn.Module):
    def __init__(self, widths=WIDTHS, classes=CLASSES):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad = False
        channels = (24, *widths)
        self.layers = nn.ModuleList([nn.GELU(), *(Block(*pair) for pair in zip(channels, channels[1:]))])
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def forward(self, x):
        x = self.whiten(x)
        for layer in self.layers:
            x = layer(x)
        x = functional.max_pool2d(x, 3).flatten(1)
        return self.head(x / x.size(-1))


def whitening(images):
    """The filters of airbench's init_whitening_conv; of each eigenvector, the largest component is positive."""
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).transpose(1, 3).reshape(-1, 3 * 2 * 2)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    vectors = vectors.T
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    filters = vectors * largest.sign() / torch.sqrt(values.view(-1, 1) + 5e-4)
    return torch.cat((filters, -filters)).view(24, 3, 2, 2)


def orthogonalised(matrix):
    x = matrix.T if matrix.size(0) > matrix.size(1) else matrix
    x = x / x.norm()
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x.T if matrix.size(0) > matrix.size(1) else x
    return x * max(1, matrix.size(0) / matrix.size(1)) ** 0.5


def train(net, x, labels):
    convolutions = [p for name, p in net.named_parameters() if name.startswith("layers") and ".conv" in name]
    biases = [p for name, p in net.named_parameters() if name.endswith("bias")]
    groups = [
        {"params": biases, "lr": SGD_LR * BIAS_SCALE, "weight_decay": WEIGHT_DECAY / BIAS_SCALE},
        {"params": [net.head.weight], "lr": SGD_LR * HEAD_SCALE, "weight_decay": WEIGHT_DECAY / HEAD_SCALE},
    ]
    sgd = torch.optim.SGD(groups, momentum=SGD_MOMENTUM, nesterov=True)
    momenta, losses = [torch.zeros_like(p) for p in convolutions], []
    net.train()
    for _ in range(STEPS):
        loss = functional.cross_entropy(net(x), labels, label_smoothing=0.2)
        net.zero_grad()
        loss.backward()
        losses.append(loss.item())
        sgd.step()
        with torch.no_grad():
            for weight, momentum in zip(convolutions, momenta):
                momentum.mul_(MOMENTUM).add_(weight.grad)
                direction = (weight.grad + MOMENTUM * momentum).view(len(weight), -1)
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.sub_(LR * orthogonalised(direction).view_as(weight))
    return losses


def main():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    generator = np.random.default_rng(0)
    # Smooth images, because pixels of noise would have no correlations to whiten.
    coarse = generator.integers(0, 256, (IMAGES, 3, SIDE // 4, SIDE // 4)).astype(np.float64)
    fine = functional.interpolate(torch.from_numpy(coarse), scale_factor=4, mode="bilinear", antialias=False)
    images = (fine + 4 * torch.randn(fine.shape)).clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(generator.integers(0, CLASSES, IMAGES))
    x = (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    net = Airnet()
    tensors = {"images": images.permute(0, 2, 3, 1).contiguous().numpy(), "labels": labels.numpy()}
    net.whiten.weight.data = whitening(x).float().double()
    # From now on, the weights are float32 numbers, which the file can hold.
    for parameter in net.parameters():
        parameter.data = parameter.data.float().double()
    tensors |= {f"weight.{name}": value.detach().float().numpy().copy() for name, value in net.named_parameters()}
    tensors["whitening"] = tensors["weight.whiten.weight"]
    net.eval()
    tensors["logits"] = net(x).detach().float().numpy()
    tensors["losses"] = np.array(train(net, x, labels), dtype=np.float32)
    tensors |= {f"final.{name}": value.detach().float().numpy() for name, value in net.named_parameters()}
    print("losses", tensors["losses"])
    save_file(tensors, Path(__file__).with_name("airnet.safetensors"))


if __name__ == "__main__":
    main()
