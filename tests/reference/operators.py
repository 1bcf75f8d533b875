"""Reference numbers for each operator: small cases run forward and backward by PyTorch, in float32 and NCHW.

A case is one call of a `Recorder` method; its tensors are stored as `<case>.<tensor>`. Every case draws from a
generator seeded by its own name, so adding a case leaves the others as they are.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

Shape = tuple[int, ...]


class Recorder:
    """Collects the cases of `ops.safetensors`."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.cases: list[dict[str, Any]] = []

    def write(self, path: Path) -> None:
        # save_file rejects tensors that share memory, such as the output of an operator that returns its input.
        tensors = {name: tensor.detach().contiguous().clone() for name, tensor in self.tensors.items()}
        save_file(tensors, path, metadata={"cases": json.dumps(self.cases)})

    def conv2d(
        self,
        name: str,
        input: Shape,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        dilation: int = 1,
    ) -> None:
        normal = normal_source(name)
        in_channels = input[1]
        operands = {
            "input": normal(input),
            "weight": normal((out_channels, in_channels // groups, kernel, kernel)) / kernel,
            "bias": normal((out_channels,)),
        }
        params = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel": kernel,
            "stride": stride,
            "padding": padding,
        }
        if (groups, dilation) != (1, 1):
            params |= {"groups": groups, "dilation": dilation}
        self._differentiate(
            name,
            "conv2d",
            params,
            operands,
            lambda input, weight, bias: functional.conv2d(input, weight, bias, stride, padding, dilation, groups),
        )

    def max_pool2d(
        self, name: str, input: Shape | Tensor, kernel: int, stride: int, padding: int = 0, ceil_mode: bool = False
    ) -> None:
        """PyTorch passes the gradient to the first maximum in scan order; padding is never the maximum."""
        operands = {"input": input if isinstance(input, Tensor) else normal_source(name)(input)}
        params = {"kernel": kernel, "stride": stride, "padding": padding}
        if ceil_mode:
            params["ceil_mode"] = True
        self._differentiate(
            name,
            "max_pool2d",
            params,
            operands,
            lambda input: functional.max_pool2d(input, kernel, stride, padding, ceil_mode=ceil_mode),
        )

    def avg_pool2d(
        self, name: str, input: Shape, kernel: int, stride: int, padding: int = 0, ceil_mode: bool = False
    ) -> None:
        """PyTorch by default counts padding, but not elements of the last window beyond the padding."""
        operands = {"input": normal_source(name)(input)}
        params = {"kernel": kernel, "stride": stride, "padding": padding, "count_include_pad": True}
        if ceil_mode:
            params["ceil_mode"] = True
        self._differentiate(
            name,
            "avg_pool2d",
            params,
            operands,
            lambda input: functional.avg_pool2d(input, kernel, stride, padding, ceil_mode=ceil_mode),
        )

    def adaptive_avg_pool2d(self, name: str, input: Shape, height: int, width: int) -> None:
        operands = {"input": normal_source(name)(input)}
        self._differentiate(
            name,
            "adaptive_avg_pool2d",
            {"height": height, "width": width},
            operands,
            lambda input: functional.adaptive_avg_pool2d(input, (height, width)),
        )

    def lrn(self, name: str, input: Shape, size: int, alpha: float, beta: float, k: float) -> None:
        operands = {"input": normal_source(name)(input)}
        self._differentiate(
            name,
            "lrn",
            {"size": size, "alpha": alpha, "beta": beta, "k": k},
            operands,
            lambda input: functional.local_response_norm(input, size, alpha, beta, k),
        )

    def relu(self, name: str, input: Tensor) -> None:
        """The gradient at zero is zero."""
        self._differentiate(name, "relu", {}, {"input": input}, functional.relu)

    def tanh(self, name: str, input: Tensor) -> None:
        self._differentiate(name, "tanh", {}, {"input": input}, torch.tanh)

    def leaky_relu(self, name: str, input: Tensor, slope: float) -> None:
        """The gradient at zero is the slope."""
        self._differentiate(
            name,
            "leaky_relu",
            {"slope": slope},
            {"input": input},
            lambda input: functional.leaky_relu(input, slope),
        )

    def linear(self, name: str, batch: int, in_features: int, out_features: int) -> None:
        normal = normal_source(name)
        operands = {
            "input": normal((batch, in_features)),
            "weight": normal((out_features, in_features)) / in_features**0.5,
            "bias": normal((out_features,)),
        }
        params = {"in_features": in_features, "out_features": out_features}
        self._differentiate(name, "linear", params, operands, functional.linear)

    def flatten_linear(self, name: str, input: Shape, out_features: int) -> None:
        """The weight's columns are in the order channels, rows, columns of the image."""
        normal = normal_source(name)
        _, channels, height, width = input
        in_features = channels * height * width
        operands = {
            "input": normal(input),
            "weight": normal((out_features, in_features)) / in_features**0.5,
            "bias": normal((out_features,)),
        }
        params = {"channels": channels, "height": height, "width": width, "out_features": out_features}
        self._differentiate(
            name,
            "flatten_linear",
            params,
            operands,
            lambda input, weight, bias: functional.linear(input.flatten(1), weight, bias),
        )

    def add(self, name: str, shape: Shape) -> None:
        normal = normal_source(name)
        self._differentiate(name, "add", {}, {"a": normal(shape), "b": normal(shape)}, torch.add)

    def concat(self, name: str, batch: int, channels: tuple[int, ...], height: int, width: int) -> None:
        normal = normal_source(name)
        operands = {label: normal((batch, count, height, width)) for label, count in zip("abc", channels)}
        self._differentiate(
            name, "concat", {"channels": list(channels)}, operands, lambda *inputs: torch.cat(inputs, 1)
        )

    def cross_entropy(self, name: str, logits: Tensor, targets: list[int], smoothing: float = 0.0) -> None:
        """The mean over the batch; `correct` counts the rows whose first maximum is the target."""
        logits = logits.clone().requires_grad_()
        target = torch.tensor(targets)
        loss = functional.cross_entropy(logits, target, label_smoothing=smoothing)
        (d_logits,) = torch.autograd.grad(loss, logits)
        # numpy documents that argmax returns the first maximum; PyTorch does not.
        first_maximum = torch.from_numpy(numpy.argmax(logits.detach().numpy(), axis=1))
        self._record(
            name,
            "cross_entropy",
            {"classes": logits.shape[1], "smoothing": smoothing} if smoothing else {"classes": logits.shape[1]},
            {
                "logits": logits,
                "targets": target,
                "loss": loss,
                "d_logits": d_logits,
                "correct": (first_maximum == target).sum(),
            },
        )

    def _differentiate(
        self,
        name: str,
        op: str,
        params: dict[str, Any],
        operands: dict[str, Tensor],
        forward: Callable[..., Tensor],
    ) -> None:
        """Runs `forward` on the operands in order, then backward from a random `d_output`.

        The gradient of operand `x` is stored as `d_x`.
        """
        operands = {label: tensor.detach().requires_grad_() for label, tensor in operands.items()}
        output = forward(*operands.values())
        d_output = normal_source(name + "/d_output")(tuple(output.shape))
        gradients = torch.autograd.grad(output, list(operands.values()), d_output)
        d_operands = {f"d_{label}": gradient for label, gradient in zip(operands, gradients)}
        self._record(name, op, params, {**operands, "output": output, "d_output": d_output, **d_operands})

    def _record(self, name: str, op: str, params: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        assert all(case["name"] != name for case in self.cases), f"two cases are named {name}"
        self.cases.append({"name": name, "op": op, "params": params})
        self.tensors.update({f"{name}.{label}": tensor for label, tensor in tensors.items()})


def normal_source(name: str) -> Callable[[Shape], Tensor]:
    """Returns a source of standard normal tensors that is seeded by the name alone."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return lambda shape: torch.randn(shape, generator=generator)


def integers(name: str, shape: Shape, low: int, high: int) -> Tensor:
    """Whole numbers `low..=high` as floats: a narrow range gives many ties."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randint(low, high + 1, shape, generator=generator).float()


def with_zeros(name: str, shape: Shape) -> Tensor:
    """Normal values with every third element zero, of alternating sign, to test the kink of activations."""
    values = normal_source(name)(shape)
    values.view(-1)[::6] = 0.0
    values.view(-1)[3::6] = -0.0
    return values


def make_operators(path: Path) -> None:
    """Writes `ops.safetensors`. Sizes mostly differ between dimensions, so that swapped indices are detected."""
    record = Recorder()
    convolutions(record)
    poolings(record)
    normalisations(record)
    activations(record)
    linears(record)
    branches(record)
    losses(record)
    record.write(path)


def convolutions(record: Recorder) -> None:
    record.conv2d("conv2d_3x3", (2, 3, 7, 7), 5, kernel=3)
    record.conv2d("conv2d_one_channel", (3, 1, 9, 9), 4, kernel=3)
    record.conv2d("conv2d_to_one_channel", (2, 5, 6, 6), 1, kernel=3)
    record.conv2d("conv2d_stride_2", (2, 3, 9, 9), 4, kernel=3, stride=2)
    # No window reads the last row and column, so their gradient is zero.
    record.conv2d("conv2d_stride_2_uncovered", (2, 3, 8, 8), 4, kernel=3, stride=2)
    record.conv2d("conv2d_padding_1", (2, 3, 5, 5), 4, kernel=3, padding=1)
    record.conv2d("conv2d_stride_2_padding_1", (2, 3, 7, 7), 5, kernel=3, stride=2, padding=1)
    record.conv2d("conv2d_stride_3_kernel_2", (2, 3, 8, 8), 4, kernel=2, stride=3)
    record.conv2d("conv2d_5x5_padding_2", (2, 2, 7, 7), 3, kernel=5, padding=2)
    record.conv2d("conv2d_1x1", (2, 5, 5, 5), 3, kernel=1)
    record.conv2d("conv2d_1x1_stride_2", (2, 5, 7, 7), 3, kernel=1, stride=2)
    record.conv2d("conv2d_1x1_padding_1", (2, 3, 4, 4), 5, kernel=1, padding=1)
    record.conv2d("conv2d_one_pixel", (3, 4, 1, 1), 5, kernel=1)
    record.conv2d("conv2d_kernel_is_input", (2, 3, 5, 5), 4, kernel=5)
    record.conv2d("conv2d_batch_1", (1, 3, 7, 7), 4, kernel=3)
    record.conv2d("conv2d_non_square", (2, 3, 5, 9), 4, kernel=3)
    record.conv2d("conv2d_non_square_stride_2_padding_1", (2, 3, 9, 4), 4, kernel=3, stride=2, padding=1)
    record.conv2d("conv2d_kernel_over_input", (2, 3, 3, 3), 4, kernel=5, padding=1)
    # More channels than the width of a vector register or tensor-core tile, and not a multiple of either.
    record.conv2d("conv2d_wide", (2, 17, 5, 5), 19, kernel=3, padding=1)
    record.conv2d("conv2d_groups", (2, 6, 5, 6), 4, kernel=3, padding=1, groups=2)
    record.conv2d("conv2d_depthwise_stride_2", (2, 5, 7, 6), 5, kernel=3, stride=2, padding=1, groups=5)
    record.conv2d("conv2d_dilation_2", (2, 3, 7, 8), 4, kernel=3, padding=2, dilation=2)
    record.conv2d("conv2d_groups_dilation", (2, 4, 9, 8), 6, kernel=3, stride=2, padding=3, groups=2, dilation=2)


def poolings(record: Recorder) -> None:
    record.max_pool2d("max_pool2d_2", (2, 3, 6, 6), kernel=2, stride=2)
    record.max_pool2d("max_pool2d_3_stride_2_padding_1", (2, 3, 7, 7), kernel=3, stride=2, padding=1)
    record.max_pool2d("max_pool2d_3_stride_1", (2, 3, 6, 5), kernel=3, stride=1)
    record.max_pool2d("max_pool2d_uncovered", (2, 3, 7, 9), kernel=2, stride=2)
    record.max_pool2d("max_pool2d_2_stride_3", (2, 3, 8, 8), kernel=2, stride=3)
    record.max_pool2d("max_pool2d_ties", integers("ties", (2, 3, 6, 6), -1, 1), kernel=2, stride=2)
    record.max_pool2d(
        "max_pool2d_ties_overlapping", integers("ties/overlapping", (2, 3, 7, 7), 0, 2), kernel=3, stride=2, padding=1
    )
    record.max_pool2d("max_pool2d_all_equal", torch.zeros(2, 2, 5, 5), kernel=3, stride=1)
    negative = -1 - normal_source("negative")((2, 3, 7, 5)).abs()
    record.max_pool2d("max_pool2d_negative_padding_1", negative, kernel=3, stride=2, padding=1)
    record.max_pool2d("max_pool2d_global", (3, 5, 4, 4), kernel=4, stride=4)

    record.avg_pool2d("avg_pool2d_2", (2, 3, 6, 6), kernel=2, stride=2)
    record.avg_pool2d("avg_pool2d_3_stride_2_padding_1", (2, 3, 7, 7), kernel=3, stride=2, padding=1)
    record.avg_pool2d("avg_pool2d_3_stride_1", (2, 3, 6, 5), kernel=3, stride=1)
    record.avg_pool2d("avg_pool2d_uncovered", (2, 3, 7, 9), kernel=2, stride=2)
    record.avg_pool2d("avg_pool2d_global", (3, 5, 4, 4), kernel=4, stride=4)

    # The output size is rounded up: the last window may reach beyond the padding, but must not start in it.
    record.max_pool2d("max_pool2d_ceil", (2, 3, 6, 8), kernel=3, stride=2, ceil_mode=True)
    record.max_pool2d("max_pool2d_ceil_padding_1", (2, 3, 6, 5), kernel=3, stride=2, padding=1, ceil_mode=True)
    record.max_pool2d("max_pool2d_ceil_not_in_padding", (2, 2, 4, 5), kernel=2, stride=3, padding=1, ceil_mode=True)
    record.avg_pool2d("avg_pool2d_ceil", (2, 3, 6, 8), kernel=3, stride=2, ceil_mode=True)
    record.avg_pool2d("avg_pool2d_ceil_padding_1", (2, 3, 6, 5), kernel=3, stride=2, padding=1, ceil_mode=True)

    record.adaptive_avg_pool2d("adaptive_avg_pool2d_overlapping", (2, 3, 7, 5), 3, 2)
    record.adaptive_avg_pool2d("adaptive_avg_pool2d_global", (2, 5, 4, 3), 1, 1)
    record.adaptive_avg_pool2d("adaptive_avg_pool2d_larger", (2, 3, 3, 4), 6, 6)


def normalisations(record: Recorder) -> None:
    record.lrn("lrn", (2, 9, 3, 4), size=5, alpha=1e-4, beta=0.75, k=2.0)
    record.lrn("lrn_strong", (2, 7, 3, 3), size=5, alpha=0.5, beta=0.75, k=1.0)
    record.lrn("lrn_even", (2, 6, 3, 2), size=4, alpha=0.3, beta=0.6, k=1.0)
    record.lrn("lrn_wide", (1, 3, 2, 2), size=7, alpha=0.8, beta=0.75, k=2.0)


def activations(record: Recorder) -> None:
    record.relu("relu", normal_source("relu")((2, 3, 5, 7)))
    record.relu("relu_zeros", with_zeros("relu_zeros", (3, 2, 5, 5)))
    record.relu("relu_features", with_zeros("relu_features", (3, 11)))
    record.tanh("tanh", normal_source("tanh")((2, 3, 5, 7)) * 2)
    record.leaky_relu("leaky_relu_0.01", with_zeros("leaky_relu_0.01", (2, 3, 5, 7)), slope=0.01)
    record.leaky_relu("leaky_relu_0.2", with_zeros("leaky_relu_0.2", (3, 2, 5, 5)), slope=0.2)


def linears(record: Recorder) -> None:
    record.linear("linear", batch=5, in_features=13, out_features=7)
    record.linear("linear_batch_1", batch=1, in_features=9, out_features=5)
    record.linear("linear_one_feature", batch=5, in_features=1, out_features=3)
    record.linear("linear_to_one_feature", batch=3, in_features=7, out_features=1)
    record.linear("linear_wide", batch=3, in_features=67, out_features=35)
    record.flatten_linear("flatten_linear", (3, 5, 2, 3), out_features=7)
    record.flatten_linear("flatten_linear_batch_1", (1, 3, 4, 2), out_features=5)
    record.flatten_linear("flatten_linear_one_pixel", (2, 6, 1, 1), out_features=3)


def branches(record: Recorder) -> None:
    record.add("add", (2, 3, 5, 7))
    record.add("add_one_pixel", (3, 5, 1, 1))
    record.concat("concat_two", 2, (3, 5), 5, 4)
    record.concat("concat_three", 3, (1, 4, 2), 3, 5)
    record.concat("concat_one_pixel", 2, (3, 1), 1, 1)


def losses(record: Recorder) -> None:
    record.cross_entropy("cross_entropy", normal_source("cross_entropy")((7, 10)), [3, 0, 9, 5, 5, 1, 7])
    record.cross_entropy("cross_entropy_batch_1", normal_source("cross_entropy_batch_1")((1, 10)), [4])
    record.cross_entropy("cross_entropy_two_classes", normal_source("cross_entropy_two")((5, 2)), [0, 1, 1, 0, 1])
    record.cross_entropy("cross_entropy_many_classes", normal_source("cross_entropy_many")((3, 37)), [36, 0, 17])
    # exp of these overflows float32 unless the maximum of the row is subtracted first.
    eighty = torch.tensor([[80.0, -80.0, 0.0], [-80.0, 80.0, 79.0], [-80.0, -80.0, -80.0], [80.0, 80.0, -80.0]])
    record.cross_entropy("cross_entropy_80", eighty, [0, 0, 2, 1])
    record.cross_entropy("cross_entropy_10000", eighty * 125, [0, 0, 2, 1])
    smoothed = normal_source("cross_entropy_smoothed")((7, 10))
    record.cross_entropy("cross_entropy_smoothed", smoothed, [3, 0, 9, 5, 5, 1, 7], smoothing=0.1)
    smoothed = normal_source("cross_entropy_smoothed_many")((3, 37)) * 20
    record.cross_entropy("cross_entropy_smoothed_many", smoothed, [36, 0, 17], smoothing=0.3)
    # With ties, the first maximum is the prediction.
    record.cross_entropy("cross_entropy_ties", torch.zeros(4, 5), [0, 1, 4, 0])
