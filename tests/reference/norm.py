"""Writes norm.safetensors: PyTorch's batch normalisation, trained from given running statistics and then evaluated.

    python tests/reference/norm.py
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from operators import Shape, normal_source


def case(name: str, shape: Shape, relu: bool = False, residual: bool = False, offset: float = 0.0) -> dict[str, Tensor]:
    """Odd sizes; a large `offset` moves the values far from zero."""
    normal = normal_source("batch_norm/" + name)
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1])
    with torch.no_grad():
        norm.weight.copy_(normal(norm.weight.shape))
        norm.bias.copy_(normal(norm.bias.shape))
        norm.running_mean.copy_(normal(norm.bias.shape))
        norm.running_var.copy_(normal(norm.bias.shape).exp())
    before = {f"before.{key}": value.clone() for key, value in norm.named_buffers() if key.startswith("running")}
    operands = {"input": (normal(shape) + offset).requires_grad_()}
    if residual:
        operands["residual"] = normal(shape).requires_grad_()

    def compute() -> Tensor:
        output = norm(operands["input"])
        output = output + operands["residual"] if residual else output
        return torch.relu(output) if relu else output

    output, d_output = compute(), normal(shape)
    differentiated = {**operands, "weight": norm.weight, "bias": norm.bias}
    gradients = torch.autograd.grad(output, list(differentiated.values()), d_output)
    after = {f"after.{key}": value.clone() for key, value in norm.named_buffers() if key.startswith("running")}
    norm.eval()
    tensors = {**differentiated, **before, **after, "output": output, "d_output": d_output, "evaluated": compute()}
    tensors |= {f"d_{key}": gradient for key, gradient in zip(differentiated, gradients)}
    return {f"{name}.{key}": tensor.detach().clone().contiguous() for key, tensor in tensors.items()}


torch.set_num_threads(1)
cases = [
    case("plain", (3, 5, 4, 3)),
    case("relu", (2, 8, 3, 5), relu=True),
    case("residual", (3, 6, 5, 2), relu=True, residual=True),
    case("features", (7, 3)),
    case("offset", (2, 3, 7, 5), offset=10.0),
]
save_file({key: tensor for one in cases for key, tensor in one.items()}, Path(__file__).parent / "norm.safetensors")
