"""Explanations of narrow networks by PyTorch, captum and grad-cam, in float64.

    python tests/reference/explanations.py

writes `explanations.safetensors`, for the networks and images of `networks.safetensors` and `resnets.safetensors`: the
first image of each, and the logit of one class, the first whose Grad-CAM is not zero.

    <name>.class        that class
    <name>.saliency     captum's Saliency, [channels][height][width]
    <name>.smoothgrad   absolute mean gradient over noisy images, with the program's noise (`NOISE`, `SAMPLES`)
    <name>.occlusion    captum's Occlusion of windows of all channels (`WINDOW`, `STRIDE`), [height][width]
    <name>.gradcam      captum's LayerGradCam with ReLU, [height][width] of the layer
    <name>.camimage     the same by the package grad-cam, enlarged and normalised, [height][width]
    <name>.units        row and column of each channel's strongest activation of a layer, [channels][2]
    <name>.deconv       the deconvolution of the first `UNITS` of them by the equations of Zeiler and Fergus,
                        [units][channels][height][width]

It needs torch, torchvision, captum (0.9) and grad-cam (1.5).
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from captum.attr import LayerGradCam, Occlusion, Saliency
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

import networks
import resnets

WINDOW, STRIDE = 7, 4
SAMPLES, NOISE = 5, 0.15
UNITS = 2
# The program's number of the noise's random streams.
PURPOSE = 28
FOLDER = Path(__file__).parent


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4x32-10 (Salmon et al., SC11)."""
    for _ in range(10):
        a, b = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        mask = 0xFFFFFFFF
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & mask, (a >> 32) ^ counter[3] ^ key[1], a & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return counter


def normals(count: int, sample: int) -> Tensor:
    """Standard normal numbers by the Box-Muller transform, in the order [height][width][channels]."""
    words = [word for block in range((2 * count + 3) // 4) for word in philox([block, 0, sample, PURPOSE], [0, 0])]
    uniform = np.array([word >> 8 for word in words[: 2 * count]], dtype=np.float64) / (1 << 24)
    radius, angle = np.sqrt(-2 * np.log(1 - uniform[0::2])), 2 * np.pi * uniform[1::2]
    return torch.from_numpy(radius * np.cos(angle))


class RectifiedRelu(torch.autograd.Function):
    """ReLU, whose backward pass is the ReLU of the output's gradient."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, d_output: Tensor) -> Tensor:
        return d_output.clamp(min=0)


def activations(net: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    kept = []
    hook = layer.register_forward_hook(lambda _module, _input, output: kept.append(output))
    net(x)
    hook.remove()
    return kept[-1]


def deconvolve(net: nn.Module, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The strongest unit of every channel of a layer, and its deconvolution, by autograd with another ReLU."""
    others = nn.ReLU.forward, functional.relu, torch.relu_
    nn.ReLU.forward = lambda _self, x: RectifiedRelu.apply(x)
    functional.relu = lambda x, inplace=False: RectifiedRelu.apply(x)
    torch.relu_ = RectifiedRelu.apply
    x = x.clone().requires_grad_()
    output = activations(net, layer, x)
    units, projections = [], []
    for channel in output[0]:
        at = int(channel.argmax())
        units.append([at // channel.shape[1], at % channel.shape[1]])
        seed = channel.flatten()[at]
        projections.append(torch.autograd.grad(seed, x, seed.detach(), retain_graph=True)[0][0])
    nn.ReLU.forward, functional.relu, torch.relu_ = others
    return torch.tensor(units), torch.stack(projections)


def deconvnet(features: nn.Sequential, last: int, x: Tensor) -> Tensor:
    """The same for a chain of convolutions, ReLUs and max poolings, by the paper's equations: unpool by the switches,
    rectify, filter with the transposed filters."""
    inputs, switches = [], {}
    for index, module in enumerate(features[: last + 1]):
        inputs.append(x)
        if isinstance(module, nn.MaxPool2d):
            x, switches[index] = functional.max_pool2d(
                x, module.kernel_size, module.stride, module.padding, return_indices=True
            )
        else:
            x = module(x)
    projections = []
    for channel in range(x.shape[1]):
        signal = torch.zeros_like(x).flatten()
        at = channel * x[0, 0].numel() + int(x[0, channel].argmax())
        signal[at] = x.flatten()[at]
        signal = signal.view_as(x)
        for index in reversed(range(last + 1)):
            module, size = features[index], inputs[index].shape
            if isinstance(module, nn.MaxPool2d):
                # Not max_unpool2d, which keeps one of several values where windows overlap; they add up.
                unpooled = torch.zeros(size, dtype=x.dtype).flatten(2)
                unpooled.scatter_add_(2, switches[index].flatten(2), signal.flatten(2))
                signal = unpooled.view(size)
            elif isinstance(module, nn.ReLU):
                signal = signal.clamp(min=0)
            else:
                signal = nn.grad.conv2d_input(size, module.weight, signal, module.stride, module.padding)
        projections.append(signal[0])
    return torch.stack(projections)


def explain(
    name: str, net: nn.Module, x: Tensor, cam_layer: Callable, deconv_layer: Callable, chain: int | None = None
) -> dict[str, Tensor]:
    net = net.double().eval()
    x = x.double()
    layer = cam_layer(net)
    for target in range(net(x).shape[1]):
        cam = LayerGradCam(net, layer).attribute(x, target=target, relu_attributions=True)[0, 0]
        if cam.max() > 0:
            break
    assert cam.max() > 0, name
    result = {"class": torch.tensor([target]), "gradcam": cam.detach()}
    result["saliency"] = Saliency(net).attribute(x, target=target)[0]
    gradients = []
    for sample in range(SAMPLES):
        noise = normals(x.numel(), sample).view(x.shape[2], x.shape[3], x.shape[1]).permute(2, 0, 1)
        noisy = (x + NOISE * (x.max() - x.min()) * noise).requires_grad_()
        gradients.append(torch.autograd.grad(net(noisy)[0, target], noisy)[0][0])
    result["smoothgrad"] = torch.stack(gradients).mean(0).abs()
    window, stride = (x.shape[1], WINDOW, WINDOW), (x.shape[1], STRIDE, STRIDE)
    with torch.no_grad():
        occlusion = Occlusion(net).attribute(x, window, stride, target=target)[0]
    assert torch.equal(occlusion[0], occlusion[-1])
    result["occlusion"] = occlusion[0]
    image = GradCAM(model=net, target_layers=[layer])(x, [ClassifierOutputTarget(target)])[0]
    result["camimage"] = torch.from_numpy(image)
    units, projections = deconvolve(net, deconv_layer(net), x)
    if chain is not None:
        own = deconvnet(net.features, chain, x)
        assert torch.allclose(own, projections, atol=1e-12), (own - projections).abs().max()
    result |= {"units": units, "deconv": projections[:UNITS]}
    print(name, {key: float(value.abs().max()) for key, value in result.items()})
    single = {key: value.float() if value.is_floating_point() else value for key, value in result.items()}
    return {f"{name}.{key}": value.detach().contiguous() for key, value in single.items()}


def loaded(net: nn.Module, tensors: dict[str, Tensor], prefix: str) -> nn.Module:
    net.load_state_dict({key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)})
    return net


def main() -> None:
    torch.set_num_threads(1)
    tensors = load_file(FOLDER / "networks.safetensors")
    result: dict[str, Tensor] = {}
    # Constructor, the layer of Grad-CAM, that of the deconvolution, and its index if all layers before it are plain.
    table = {
        "alexnet": (networks.alexnet, lambda net: net.features[11], lambda net: net.features[7], 7),
        "zfnet": (networks.zfnet, lambda net: net.features[13], lambda net: net.features[4], None),
        "vgg_bn": (lambda: networks.vgg(True), lambda net: net.features[-2], lambda net: net.features[10], None),
        "googlenet": (networks.GoogLeNet, lambda net: net.inception5b, lambda net: net.inception3a, None),
    }
    for name, (make, cam, deconv, chain) in table.items():
        net = loaded(make(), tensors, f"{name}.weight.")
        x = (tensors[f"{name}.images"][:1].float() / 255 - 0.5) / 0.5
        result |= explain(name, net, x, cam, deconv, chain)
    tensors = load_file(FOLDER / "resnets.safetensors")
    for name, make in resnets.NETWORKS.items():
        net = loaded(make(), tensors, f"{name}.initial.")
        x = ((tensors[f"{name}.images"][:1].float() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
        result |= explain(name, net, x, lambda net: net.layer3[-1], lambda net: net.layer2[-1])
    save_file(result, FOLDER / "explanations.safetensors")


if __name__ == "__main__":
    main()
