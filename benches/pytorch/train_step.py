"""The PyTorch side of every comparison: times training steps of a model, or prints their losses.

    python benches/pytorch/train_step.py --mode eager --layout channels_last --threads 2 --batch-size 64 --json
    python benches/pytorch/train_step.py --device cuda:0 --mode graph --precision tf32 --batch-size 64 --json

A step does the same as in `cnn-cuda bench`: it gathers and normalises a batch from bytes in memory, then runs the forward
pass, the loss, the backward pass and SGD. The data is resident and there is no DataLoader, so this is PyTorch at its best.
`--mode` is `eager`, `compile` (`torch.compile`, on a GPU with `max-autotune`) or `graph` (the whole step as one CUDA graph).
`--precision` is fp32 or bf16 (autocast), on a GPU also tf32 and fp16 (autocast with a loss scale).
With several modes and precisions, all combinations are timed, and each result is printed on a separate line. `--what infer`
times forward passes under `torch.no_grad()`, `--what eval` an evaluation of MNIST's test images, and `--what epoch` an epoch
of the usual tutorial script with its DataLoader.

On a GPU, steps are timed in groups and the device is synchronised only after each group, as in a training loop.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "reference"))
from models import MODELS, TORCHVISION, build, classes, input_shape  # noqa: E402

MODES = ("eager", "compile", "graph")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
# tf32 and a loss scale for fp16 are only for GPUs.
CPU_PRECISIONS = ("fp32", "bf16")
WARM_UP = 5

# The number of steps between two synchronisations with a GPU, as in `cnn-cuda bench`.
GROUP = 16


class Step:
    """One optimiser step on the resident images with the indices `order`. Returns the loss."""

    def __init__(self, args: argparse.Namespace, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.device, self.layout = torch.device(args.device), LAYOUTS[args.layout]
        self.images, self.labels = images.to(self.device), labels.to(self.device)
        self.model = build(args.model).to(self.device, memory_format=self.layout)
        self.forward = compiled(args, self.model)
        self.loss = nn.CrossEntropyLoss()
        # Update all parameters in one kernel if PyTorch has one for the device.
        fused = {"fused": True} if self.device.type == "cuda" else {"foreach": True}
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=args.lr, **fused)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=args.precision == "fp16")
        self.autocast = autocast(args)

    def __call__(self, order: torch.Tensor) -> torch.Tensor:
        x = (self.images[order].float() / 255 - 0.5) / 0.5
        x = x.contiguous(memory_format=self.layout)
        self.optimiser.zero_grad(set_to_none=True)
        with self.autocast():
            outputs, labels = self.forward(x), self.labels[order]
            # GoogLeNet's auxiliary classifiers have a loss weight of 0.3 each.
            main, *auxiliary = [outputs] if isinstance(outputs, torch.Tensor) else outputs
            loss = self.loss(main, labels) + 0.3 * sum(self.loss(head, labels) for head in auxiliary)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss.detach()


class Graph:
    """A step captured as one CUDA graph, which is replayed with other images."""

    def __init__(self, step: Step, order: torch.Tensor) -> None:
        self.order = order.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        # The first steps allocate memory and choose algorithms, which must happen before the capture.
        with torch.cuda.stream(side):
            for _ in range(3):
                step(self.order)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = step(self.order)

    def __call__(self, order: torch.Tensor) -> torch.Tensor:
        self.order.copy_(order)
        self.graph.replay()
        return self.loss


def compiled(args: argparse.Namespace, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model, compiled if `--mode compile` was given."""
    if args.mode != "compile":
        return model
    return torch.compile(model, mode="max-autotune" if args.device.startswith("cuda") else None)


def autocast(args: argparse.Namespace) -> Callable[[], object]:
    """The context for the forward pass. The cast cache is off, so that a captured step casts the weights on every replay."""
    if args.precision not in AUTOCAST:
        return nullcontext
    return lambda: torch.autocast(torch.device(args.device).type, AUTOCAST[args.precision], cache_enabled=False)


def device_memory(device: str) -> float:
    """The device memory in use in MB, by all processes. It includes libraries, as in the measurement of cnn-cuda."""
    free, total = torch.cuda.mem_get_info(device)
    return (total - free) / 1e6


def wait(args: argparse.Namespace) -> None:
    """Waits until the device has finished all submitted work."""
    if args.device.startswith("cuda"):
        torch.cuda.synchronize(args.device)


def read_mnist(folder: Path, name: str, offset: int) -> torch.Tensor:
    """The bytes of an MNIST file after its header."""
    import gzip

    for candidate in (folder / "mnist" / f"{name}.gz", folder / f"{name}.gz", folder / "MNIST" / "raw" / f"{name}.gz"):
        if candidate.exists():
            data = np.frombuffer(gzip.decompress(candidate.read_bytes()), dtype=np.uint8, offset=offset)
            return torch.from_numpy(data.copy())
    sys.exit(f"there is no {name}.gz in {folder}")


def time_calls(args: argparse.Namespace, call: Callable[[], torch.Tensor]) -> list[float]:
    """Milliseconds per call. On a GPU, every value is the mean over a group of calls."""
    group = GROUP if args.device.startswith("cuda") else 1
    for _ in range(WARM_UP * group):
        value = call()
    times = []
    for _ in range(args.steps):
        wait(args)
        start = time.perf_counter()
        for _ in range(group):
            value = call()
        wait(args)
        times.append((time.perf_counter() - start) * 1e3 / group)
    assert torch.isfinite(value).all(), "the results are not finite, so the times are meaningless"
    return times


def time_steps(args: argparse.Namespace) -> dict:
    """Median, minimum and maximum time of a training step on one batch of noise."""
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch_size, *input_shape(args.model))
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, classes(args.model), (args.batch_size,), generator=generator)
    args.lr = 0.01
    step, order = Step(args, images, labels), torch.arange(args.batch_size, device=args.device)
    run = Graph(step, order) if args.mode == "graph" else step
    return result(args, time_calls(args, lambda: run(order)))


def time_inference(args: argparse.Namespace) -> dict:
    """Median, minimum and maximum time of a forward pass of one batch."""
    torch.manual_seed(0)
    layout, device = LAYOUTS[args.layout], torch.device(args.device)
    model = build(args.model).eval().to(device, memory_format=layout)
    forward, context = compiled(args, model), autocast(args)
    x = (torch.rand(args.batch_size, *input_shape(args.model)) * 2 - 1).to(device).contiguous(memory_format=layout)
    with torch.no_grad(), context():
        if args.mode != "graph":
            return result(args, time_calls(args, lambda: forward(x)))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                forward(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = forward(x)

        def replay() -> torch.Tensor:
            graph.replay()
            return logits

        return result(args, time_calls(args, replay))


def time_evaluation(args: argparse.Namespace) -> dict:
    """Seconds to evaluate MNIST's test images from bytes in memory, with the loss and the number of correct predictions."""
    torch.manual_seed(0)
    layout, device = LAYOUTS[args.layout], torch.device(args.device)
    images = read_mnist(args.data, "t10k-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28).to(device)
    labels = read_mnist(args.data, "t10k-labels-idx1-ubyte", 8).long().to(device)
    model = build(args.model).eval().to(device, memory_format=layout)
    forward, loss = compiled(args, model), nn.CrossEntropyLoss(reduction="sum")

    def evaluate(count: int) -> tuple[float, int]:
        total, correct = torch.zeros((), device=device), torch.zeros((), dtype=torch.long, device=device)
        for x, y in zip(images[:count].split(args.batch_size), labels[:count].split(args.batch_size), strict=True):
            logits = forward(((x.float() / 255 - 0.5) / 0.5).contiguous(memory_format=layout))
            total += loss(logits, y)
            correct += (logits.argmax(1) == y).sum()
        return total.item(), correct.item()

    with torch.no_grad(), autocast(args)():
        evaluate(WARM_UP * args.batch_size + len(images) % args.batch_size)  # Warms up every batch size.
        start = time.perf_counter()
        total, correct = evaluate(len(images))
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "loss": total / len(images), "correct": correct, "framework": f"PyTorch {torch.__version__}"}


def tutorial_epoch(args: argparse.Namespace) -> dict:
    """Seconds for one epoch as in PyTorch's tutorials, with transforms and a DataLoader."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    class Mnist(Dataset):
        """Loads an item in the same way as `torchvision.datasets.MNIST`."""

        def __init__(self) -> None:
            self.images = read_mnist(args.data, "train-images-idx3-ubyte", 16).reshape(-1, 28, 28)
            self.labels = read_mnist(args.data, "train-labels-idx1-ubyte", 8)
            normalise = transforms.Normalize((0.5,), (0.5,))
            self.transform = transforms.Compose([transforms.ToTensor(), normalise])

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return self.transform(Image.fromarray(self.images[index].numpy(), mode="L")), int(self.labels[index])

    model, loss = build(args.model).to(args.device), nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(model.parameters(), lr=args.lr)
    loader = DataLoader(Mnist(), batch_size=args.batch_size, shuffle=True)
    start = time.perf_counter()
    for images, labels in loader:
        images, labels = images.to(args.device), labels.to(args.device)
        optimiser.zero_grad()
        value = loss(model(images), labels)
        value.backward()
        optimiser.step()
    last = value.item()
    return {"seconds": time.perf_counter() - start, "last_loss": last, "framework": f"PyTorch {torch.__version__}"}


def result(args: argparse.Namespace, times: list[float]) -> dict:
    """The result to print: the settings, the times and the memory."""
    on_gpu = args.device.startswith("cuda")
    return {
        "framework": f"PyTorch {torch.__version__}",
        "device": torch.cuda.get_device_name(args.device) if on_gpu else "CPU",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mode": args.mode,
        "layout": args.layout,
        "precision": args.precision,
        "model": args.model,
        "batch_size": args.batch_size,
        "threads": args.threads,
        "ms_per_step": {"median": statistics.median(times), "min": min(times), "max": max(times)},
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        "device_memory_mb": device_memory(args.device) if on_gpu else None,
    }


def losses(args: argparse.Namespace) -> dict:
    """The losses of the first steps on MNIST without shuffling. Saves the initial weights to a file."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    images = read_mnist(args.data, "train-images-idx3-ubyte", 16).reshape(-1, 1, 28, 28)
    labels = read_mnist(args.data, "train-labels-idx1-ubyte", 8).long()
    step = Step(args, images, labels)
    save_file({name: value.cpu().contiguous() for name, value in step.model.state_dict().items()}, args.save_initial)
    batches = torch.arange(args.steps * args.batch_size, device=args.device).split(args.batch_size)
    return {"losses": [step(batch).item() for batch in batches]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*MODELS, *TORCHVISION], default="mnist-cnn")
    parser.add_argument("--what", choices=("train", "infer", "eval", "epoch"), default="train")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--mode", choices=MODES, nargs="+", default=["eager"], help="one or more; all are timed")
    parser.add_argument("--layout", choices=LAYOUTS, default="channels_last")
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=["fp32"], help="one or more; all are timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30, help="timed steps; on a GPU, groups of 16 steps")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--save-initial", type=Path, help="file for the initial weights; prints the first losses instead of times")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    on_gpu = args.device.startswith("cuda")
    if not on_gpu and ("graph" in args.mode or not set(args.precision) <= set(CPU_PRECISIONS)):
        parser.error(f"--mode graph and precisions other than {' and '.join(CPU_PRECISIONS)} need --device cuda:N")
    if "graph" in args.mode and args.what == "eval":
        parser.error("--what eval does not support --mode graph")
    if on_gpu and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: PyTorch finds no GPU")
    torch.set_num_threads(args.threads)
    for mode, precision in itertools.product(args.mode, args.precision):
        measured = measure(argparse.Namespace(**{**vars(args), "mode": mode, "precision": precision}))
        print(json.dumps(measured) if args.json else json.dumps(measured, indent=2), flush=True)


def measure(args: argparse.Namespace) -> dict:
    """Measures one mode in one precision."""
    if args.device.startswith("cuda"):
        torch.cuda.empty_cache()  # Frees the memory of the previous measurement.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
        torch.backends.cudnn.benchmark = True
    kinds = {"train": time_steps, "infer": time_inference, "eval": time_evaluation, "epoch": tutorial_epoch}
    return losses(args) if args.save_initial else kinds[args.what](args)


if __name__ == "__main__":
    main()
