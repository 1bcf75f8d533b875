"""The PyTorch side of `benches/kernels.py`: single operators of a training step, checked and timed.

`Timer.measure` times a `Site` in three ways, in microseconds:

- `same`: on the same operands again and again, as cnn-cuda times its candidates;
- `rotated`: on several sets of operands in turn, so that they are not all in the L2 cache;
- `deterministic`: like `same`, with cuDNN's deterministic algorithms instead of its fastest (convolutions only).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sites import Site  # noqa: E402

# The relative error (Frobenius norm) of a correct result: fp16 and TF32 operands have mantissas of 10 bits, bf16 of 7. Sums
# of the libraries may be rounded to 16 bits too.
LARGEST_ERROR = {"fp16": 2e-3, "bf16": 1.6e-2, "tf32": 2e-3, "fp32": 1e-5}

# Sets of operands: enough to exceed the L2 cache three times, within these bounds.
FEWEST_SETS, MOST_SETS = 2, 8
ASSUMED_L2 = 50_000_000  # Bytes, for a device or version of PyTorch that does not report it.

SAMPLES = 7
SAMPLE_MICROSECONDS = 1000.0  # Approximate length of a sample on a GPU, which is one CUDA graph of many calls.
MOST_CALLS = 40

Call = Callable[[], tuple[torch.Tensor, ...]]
Shapes = dict[str, tuple[int, ...]]


def conv2d_shapes(site: Site) -> Shapes:
    return {"x": site.input_shape, "w": (site.out_channels, site.channels // site.groups, site.kernel, site.kernel), "dy": site.output_shape}


def conv2d_forward(site: Site, t: dict[str, torch.Tensor]) -> Call:
    return lambda: (F.conv2d(t["x"], t["w"], None, *site.window, site.groups),)


def conv2d_backward(site: Site, t: dict[str, torch.Tensor], mask: list[bool]) -> Call:
    """The gradients that `mask` selects, of input, weight and bias."""
    stride, padding, dilation = site.window
    fixed = (None, stride, padding, dilation, False, [0, 0], site.groups, mask)
    return lambda: tuple(g for g in torch.ops.aten.convolution_backward(t["dy"], t["x"], t["w"], *fixed) if g is not None)


def conv2d_backward_weight(site: Site, t: dict[str, torch.Tensor]) -> Call:
    return conv2d_backward(site, t, [False, True, False])


def conv2d_backward_input(site: Site, t: dict[str, torch.Tensor]) -> Call:
    return conv2d_backward(site, t, [True, False, False])


def linear_shapes(site: Site) -> Shapes:
    return {"x": (site.batch, site.channels), "w": (site.out_channels, site.channels), "dy": (site.batch, site.out_channels)}


def linear_forward(site: Site, t: dict[str, torch.Tensor]) -> Call:
    return lambda: (t["x"] @ t["w"].T,)


def linear_backward_weight(site: Site, t: dict[str, torch.Tensor]) -> Call:
    return lambda: (t["dy"].T @ t["x"],)


def linear_backward_input(site: Site, t: dict[str, torch.Tensor]) -> Call:
    return lambda: (t["dy"] @ t["w"],)


def norm_shapes(site: Site) -> Shapes:
    return {"x": site.input_shape, "residual": site.input_shape, "dy": site.input_shape, "fp32 w": (site.channels,), "fp32 b": (site.channels,)}


def batch_norm2d_forward(site: Site, t: dict[str, torch.Tensor]) -> Call:
    mean, variance = torch.zeros_like(t["fp32 w"]), torch.ones_like(t["fp32 w"])

    def call() -> tuple[torch.Tensor, ...]:
        y = F.batch_norm(t["x"], mean, variance, t["fp32 w"], t["fp32 b"], training=True)
        y = y + t["residual"] if "sum" in site.fused else y
        return (F.relu(y) if "relu" in site.fused else y,)

    return call


def batch_norm2d_backward(site: Site, t: dict[str, torch.Tensor]) -> Call:
    names = ["x", "fp32 w", "fp32 b"] + (["residual"] if "sum" in site.fused else [])
    inputs = [t[name].requires_grad_() for name in names]
    with torch.enable_grad():
        y = batch_norm2d_forward(site, t)()[0]
    return lambda: torch.autograd.grad(y, inputs, t["dy"], retain_graph=True)


def pool_shapes(site: Site) -> Shapes:
    return {"x": site.input_shape, "dy": site.output_shape}


def max_pool2d_forward(site: Site, t: dict[str, torch.Tensor]) -> Call:
    return lambda: F.max_pool2d(t["x"], site.kernel, site.stride, site.padding, return_indices=True)[:1]


def max_pool2d_backward(site: Site, t: dict[str, torch.Tensor]) -> Call:
    x = F.relu(t["x"]) if "relu" in site.fused else t["x"]
    _, indices = F.max_pool2d(x, site.kernel, site.stride, site.padding, return_indices=True)
    fixed = ([site.kernel] * 2, *site.window, False, indices)

    def call() -> tuple[torch.Tensor, ...]:
        dx = torch.ops.aten.max_pool2d_with_indices_backward(t["dy"], x, *fixed)
        dx = torch.ops.aten.threshold_backward(dx, x, 0) if "relu" in site.fused else dx
        return (dx, dx.sum((0, 2, 3))) if "bias gradient" in site.fused else (dx,)

    return call


def loss_shapes(site: Site) -> Shapes:
    return {"logits": (site.batch, site.channels), "labels": (site.batch,)}


def softmax_cross_entropy(site: Site, t: dict[str, torch.Tensor]) -> Call:
    logits, labels = t["logits"].requires_grad_(), t["labels"] % site.channels

    def call() -> tuple[torch.Tensor, ...]:
        with torch.enable_grad():
            # Half precision is widened first, as autocast does.
            loss = F.cross_entropy(logits.float() if logits.dtype == torch.float16 else logits, labels)
        gradient = torch.autograd.grad(loss, logits)[0]
        return (loss.detach(), gradient, gradient.sum(0)) if "bias gradient" in site.fused else (loss.detach(), gradient)

    return call


def sgd_shapes(site: Site) -> Shapes:
    return {"fp32 w": (site.channels,), "fp32 g": (site.channels,)}


def sgd(site: Site, t: dict[str, torch.Tensor]) -> Call:
    """An update of all parameters as one tensor. Unlike cnn-cuda's, it checks no overflow and rounds no weights to 16 bits."""
    weights = torch.nn.Parameter(t["fp32 w"].clone())
    weights.grad = t["fp32 g"].clone()
    implementation = {"fused": True} if weights.is_cuda else {"foreach": True}
    optimiser = torch.optim.SGD([weights], lr=0.01, momentum=0.9 if "momentum" in site.fused else 0.0, **implementation)

    def call() -> tuple[torch.Tensor, ...]:
        optimiser.step()
        return (weights.detach(),)

    return call


def gather_shapes(site: Site) -> Shapes:
    return {"images": site.input_shape, "labels": (site.batch,), "order": (site.batch,), "like": (1,)}


def gather(site: Site, t: dict[str, torch.Tensor]) -> Call:
    order = t["order"] % site.batch

    def call() -> tuple[torch.Tensor, ...]:
        wide = torch.float64 if t["like"].dtype == torch.float64 else torch.float32
        x = ((t["images"][order].to(wide) / 255 - 0.5) / 0.5).to(t["like"].dtype)
        return x.contiguous(memory_format=torch.channels_last), t["labels"][order]

    return call


# By the operator's name: the shapes of its operands, and a function that prepares a call. Operands named `fp32 …` are fp32 in
# all precisions; INTEGERS are integers.
OPERATORS: dict[str, tuple[Callable[[Site], Shapes], Callable[[Site, dict[str, torch.Tensor]], Call]]] = {
    "conv2d_forward": (conv2d_shapes, conv2d_forward),
    "conv2d_backward_weight": (conv2d_shapes, conv2d_backward_weight),
    "conv2d_backward_input": (conv2d_shapes, conv2d_backward_input),
    "linear_forward": (linear_shapes, linear_forward),
    "linear_backward_weight": (linear_shapes, linear_backward_weight),
    "linear_backward_input": (linear_shapes, linear_backward_input),
    "batch_norm2d_forward": (norm_shapes, batch_norm2d_forward),
    "batch_norm2d_backward": (norm_shapes, batch_norm2d_backward),
    "max_pool2d_forward": (pool_shapes, max_pool2d_forward),
    "max_pool2d_backward": (pool_shapes, max_pool2d_backward),
    "softmax_cross_entropy": (loss_shapes, softmax_cross_entropy),
    "sgd": (sgd_shapes, sgd),
    "gather": (gather_shapes, gather),
}
INTEGERS = {"images": torch.uint8, "labels": torch.int64, "order": torch.int64}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}


def operands(site: Site, device: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random operands in the site's precision; images and filters are in the layout channels_last."""
    made = {}
    for name, shape in OPERATORS[site.operator][0](site).items():
        if name in INTEGERS:
            value = torch.randint(0, 256, shape, device=device, generator=generator, dtype=INTEGERS[name])
        else:
            value = torch.randn(shape, device=device, generator=generator)
            # Products of about unit variance, which 16 bits represent well.
            value = value / max(1, value[0].numel()) ** 0.5 if name == "w" else value
            value = value if name.startswith("fp32 ") else value.to(DTYPES[site.precision])
        made[name] = value.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else value
    return made


def prepare(site: Site, tensors: dict[str, torch.Tensor]) -> Call:
    return OPERATORS[site.operator][1](site, tensors)


def configure(*, cudnn: bool = True, search: bool = True, tf32: bool = False) -> None:
    """Chooses cuDNN's fastest algorithms by measurement, or deterministic ones."""
    torch.backends.cudnn.enabled = cudnn
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = search, not search
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32


def relative_error(result: torch.Tensor, reference: torch.Tensor) -> float:
    difference = torch.linalg.vector_norm(result.double() - reference.double())
    return float(difference / torch.linalg.vector_norm(reference.double()).clamp(min=1e-300))


class Timer:
    """Checks and times sites on one device. On a GPU, use it with a stream that is not the default one."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.on_gpu = device.startswith("cuda")
        self.generator = torch.Generator(device).manual_seed(0)
        properties = torch.cuda.get_device_properties(device) if self.on_gpu else None
        self.l2 = getattr(properties, "L2_cache_size", ASSUMED_L2)
        if self.on_gpu:
            torch.cuda.set_stream(torch.cuda.Stream(device))

    def measure(self, site: Site) -> dict:
        """The site's largest relative error, and its times as (median, minimum, maximum)."""
        try:
            return self.checked_times(site)
        finally:
            if self.on_gpu:
                torch.cuda.empty_cache()  # Every captured graph has its own memory, which is otherwise kept.

    def checked_times(self, site: Site) -> dict:
        tf32 = site.precision == "tf32" and self.on_gpu
        sets = [operands(site, self.device, self.generator)]
        size = sum(value.numel() * value.element_size() for value in sets[0].values())
        count = min(MOST_SETS, max(FEWEST_SETS, -(-3 * self.l2 // size)))
        sets += [operands(site, self.device, self.generator) for _ in range(count - 1)]
        with torch.no_grad():
            configure(tf32=tf32)
            calls = [prepare(site, tensors) for tensors in sets]
            found = {"error": self.error(site, calls[0], sets[0])}
            configure(tf32=tf32)
            found |= {"same": self.times(calls[:1]), "rotated": self.times(calls), "sets": count}
            if site.operator.startswith("conv2d"):
                configure(search=False, tf32=tf32)
                found["deterministic"] = self.times(calls[:1])
        return found

    def error(self, site: Site, call: Call, tensors: dict[str, torch.Tensor]) -> float:
        """The largest relative error of the results, compared with float64 without cuDNN."""
        results = [result.clone() for result in call()]
        configure(cudnn=False)
        wide = {name: value.detach() if name in INTEGERS else value.detach().double() for name, value in tensors.items()}
        return max(map(relative_error, results, prepare(site, wide)()))

    def times(self, calls: list[Call]) -> tuple[float, float, float]:
        """Microseconds per call: median, minimum and maximum of the samples."""
        for call in calls * 2:  # Chooses algorithms and allocates memory.
            call()
        samples = self.graph_samples(calls) if self.on_gpu else [self.host_sample(calls) for _ in range(SAMPLES)]
        return statistics.median(samples), min(samples), max(samples)

    def host_sample(self, calls: list[Call]) -> float:
        start = time.perf_counter()
        for call in calls:
            call()
        return (time.perf_counter() - start) * 1e6 / len(calls)

    def graph_samples(self, calls: list[Call]) -> list[float]:
        """Times replays of a CUDA graph of many calls by events."""
        single = self.event_microseconds(lambda: [call() for call in calls]) / len(calls)
        count = max(len(calls), min(MOST_CALLS, int(SAMPLE_MICROSECONDS / single)))
        # The context manager torch.cuda.graph empties PyTorch's cache of memory each time, which takes long.
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin()
        try:
            for index in range(count):
                calls[index % len(calls)]()
        finally:
            graph.capture_end()
        graph.replay()
        return [self.event_microseconds(graph.replay) / count for _ in range(SAMPLES)]

    def event_microseconds(self, work: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3
