"""Compares cnn-cuda with PyTorch on one machine, in interleaved measurements.

    cargo build --release
    python benches/compare.py --device cpu --data data
    python benches/compare.py --device cpu --precisions fp32 bf16 --data data
    python benches/compare.py --device 0 --precisions fp32 tf32 fp16 --data data
    python benches/compare.py --model resnet18 --batch-sizes 8 --data data

First checks that both sides compute the same losses from the same weights and images. This check uses `mnist-cnn` on MNIST;
`tests/reference/check_torchvision.py` does it for torchvision's networks. Then runs one process of each side after the other,
A B C D A B C D …, so that variations in the machine's speed affect all sides equally. Prints for each side the median over
the rounds, the spread, and the median of the ratios within each round. Writes all numbers to a JSON file after every block.
A PyTorch mode that fails is reported, recorded in the file and skipped. So is cnn-cuda in a precision that it does not have
on the CPU; PyTorch's times then have no relative time.

    python benches/compare.py --tables

measures nothing. It writes the tables in docs/benchmarks.md and README.md from the files in benches/results.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import step_table  # in the same folder

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benches" / "results"
TRAIN_STEP = ROOT / "benches" / "pytorch" / "train_step.py"
CPU_MODES = tuple(f"{mode}-{layout}" for mode in ("eager", "compile") for layout in ("contiguous", "channels_last"))
CPU_PRECISIONS = ("fp32", "bf16")
GPU_MODES = tuple(f"{mode}-{layout}" for mode in ("eager", "compile", "graph") for layout in ("contiguous", "channels_last"))
OURS = "cnn-cuda"
CHECKED_STEPS = 10

# The processor's features that matter for speed, as Linux names them: vector and matrix units, and 16-bit formats.
FEATURES = (
    "sse4_2 avx avx2 fma f16c avx512f avx512bw avx512_vnni avx512_bf16 avx512_fp16 avx_vnni amx_tile amx_int8 amx_bf16 amx_fp16 "
    "asimd asimdhp sve sve2 bf16 i8mm sme"
).split()

# How cnn-cuda says that it does not have a precision on the CPU.
UNAVAILABLE = re.compile(r"the CPU supports [a-z0-9, ]+ only")


class CommandFailed(Exception):
    """A program exited with an error. The message holds its command and stderr."""


def call(command: list[str | Path], threads: int) -> str:
    """Runs a program and returns its stdout."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def run(command: list[str | Path], threads: int) -> dict:
    """Runs a program and parses the last line of its stdout as JSON."""
    return json.loads(call(command, threads).strip().splitlines()[-1])


def train_command(args: argparse.Namespace, binary: Path, out: Path, *more: str | Path) -> list[str | Path]:
    """The command of a quiet training run that writes to the folder `out`."""
    return [binary, "train", "--device", args.device, "--data", args.data, "--quiet", "--out", out, *more]


def records(folder: Path, kind: str) -> list[dict]:
    """The records of one kind in the metrics of a run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def their_device(args: argparse.Namespace) -> list[str]:
    """The arguments that select the device in the PyTorch script."""
    return ["--device", "cpu" if args.device == "cpu" else f"cuda:{args.device}"]


def check_same_losses(args: argparse.Namespace, binary: Path) -> float:
    """The largest relative difference between the first losses in fp32. Exits with an error if one exceeds 1e-4."""
    with tempfile.TemporaryDirectory() as folder:
        initial, out = Path(folder) / "initial.safetensors", Path(folder) / "run"
        script = [sys.executable, TRAIN_STEP, *their_device(args), "--save-initial", initial, "--data", args.data, "--json"]
        theirs = run([*script, "--steps", str(CHECKED_STEPS), "--batch-size", "64"], 2)["losses"]
        more = ["--init", initial, "--no-shuffle", "--log-steps", "--max-steps", str(CHECKED_STEPS)]
        command = train_command(args, binary, out, *more)
        call(command, 2)
        ours = [record["loss"] for record in records(out, "step")]
    differences = [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]
    if not all(difference < 1e-4 for difference in differences):  # Also rejects NaN.
        sys.exit(f"cnn-cuda and PyTorch do not agree: the losses differ by {differences}")
    return max(differences)


def processor() -> dict:
    """The processor: its name, or its architecture if the system does not report the name, its features and its number."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    return {**parse_cpuinfo(text), "processors": os.cpu_count()}


def parse_cpuinfo(text: str) -> dict:
    """Name and features of the first processor in Linux's /proc/cpuinfo; the features are None if they are not in it."""
    values: dict[str, str] = {}
    for key, separator, value in (line.partition(":") for line in text.splitlines()):
        if separator:
            values.setdefault(key.strip(), value.strip())
    flags = values.get("flags", values.get("Features"))
    features = None if flags is None else [name for name in FEATURES if name in flags.split()]
    return {"name": values.get("model name") or platform.processor() or platform.machine(), "features": features}


def software(binary: Path) -> dict[str, str]:
    """The versions of cnn-cuda, Python and the system. PyTorch's is among the versions of the sides."""
    version = call([binary, "--version"], 1).strip()
    return {OURS: version.removeprefix(OURS).strip(), "python": platform.python_version(), "system": platform.platform()}


def timed_steps(args: argparse.Namespace, batch: int) -> int:
    """The timed steps of a process: more for small batches, whose steps are too short for a stable time."""
    return args.steps or min(max(20, 512 // batch), max(10, 4096 // batch))


def interleave(args: argparse.Namespace, binary: Path, what: str, batch: int, threads: int, precision: str) -> dict:
    """Runs all rounds of every side and returns one row per side."""
    common = ["--batch-size", str(batch), "--steps", str(timed_steps(args, batch)), "--threads", str(threads), "--json"]
    common += ["--precision", precision]
    common += ["--model", args.model]
    sides = {OURS: [binary, "bench", "--mode", what, "--device", args.device, *common]}
    compiles = args.compile_batch_sizes is None or batch in args.compile_batch_sizes
    for name in (name for name in args.modes if compiles or not name.startswith("compile")):
        mode, layout = name.split("-")
        script = [sys.executable, TRAIN_STEP, *their_device(args), "--what", what, "--mode", mode, "--layout", layout]
        sides[f"PyTorch {name.replace('-', ', ')}"] = [*script, *common]
    rounds: dict[str, list[dict]] = {name: [] for name in sides}
    failed: dict[str, str] = {}
    for _ in range(args.rounds):
        for name, command in sides.items():
            if name in failed:
                continue
            try:
                rounds[name].append(run(command, threads))
            except CommandFailed as error:
                missing = name == OURS and UNAVAILABLE.search(str(error))
                if name == OURS and not missing:
                    raise
                failed[name] = str(error)
                rounds.pop(name)
                reason = f"is not available in {precision}: {missing[0]}" if missing else f"fails and is skipped: {error}"
                print(f"{name} {reason}", file=sys.stderr, flush=True)
    memory = "peak_memory_mb" if args.device == "cpu" else "device_memory_mb"
    times = {name: [result["ms_per_step"]["median"] for result in results] for name, results in rounds.items()}
    ours = times.get(OURS)
    rows = [
        {
            "side": name,
            "ms": statistics.median(values),
            "spread": [min(values), max(values)],
            "times_slower": statistics.median(t / o for t, o in zip(values, ours)) if ours else None,
            "peak_memory_mb": statistics.median(result[memory] for result in rounds[name]),
        }
        for name, values in times.items()
    ]
    versions = {name: results[0].get("framework") or results[0]["device"] for name, results in rounds.items()}
    settings = {"what": what, "batch_size": batch, "threads": threads, "precision": precision, "steps": timed_steps(args, batch)}
    # The number of launches in the CUDA graph of a step.
    recorded = {key: [result.get(key) for result in rounds.get(OURS, [])] for key in ("graph_nodes",)}
    # The instructions that PyTorch was compiled for and uses here, such as AVX512.
    capabilities = sorted({result["cpu_capability"] for results in rounds.values() for result in results if "cpu_capability" in result})
    return {**settings, "rows": rows, "versions": versions, "failed": failed, "ours": recorded, "pytorch_cpu_capability": capabilities}


def epochs(args: argparse.Namespace, binary: Path) -> dict:
    """Times an epoch of cnn-cuda and of the tutorial script with its DataLoader, interleaved."""
    ours, theirs = [], []
    for _ in range(args.epoch_rounds):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            command = train_command(args, binary, out, "--epochs", "1", "--threads", "2")
            call(command, 2)
            record = records(out, "epoch")[0]
            ours.append(60_000 / record["images_per_second"])
        script = [sys.executable, TRAIN_STEP, *their_device(args), "--what", "epoch", "--threads", "2", "--data", args.data]
        script.append("--json")
        theirs.append(run(script, 2)["seconds"])
    ratio = statistics.median(t / o for t, o in zip(theirs, ours))
    return {"ours_seconds": ours, "tutorial_seconds": theirs, "times_slower": ratio}


def evaluations(args: argparse.Namespace, binary: Path) -> list[dict]:
    """Times the evaluation of MNIST's test images by `cnn-cuda eval` and by PyTorch under `no_grad`, interleaved."""
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "initial.safetensors"
        script = [sys.executable, TRAIN_STEP, *their_device(args), "--data", args.data, "--json", "--threads", "2"]
        run([*script, "--save-initial", weights, "--steps", "1"], 2)
        ours = [binary, "eval", "--weights", weights, "--device", args.device, "--data", args.data, "--threads", "2", "--json"]
        for batch in args.eval_batch_sizes:
            sides = {OURS: [*ours, "--batch-size", str(batch)]}
            for name in (mode for mode in args.modes if not mode.startswith("graph")):
                mode, layout = name.split("-")
                options = ["--what", "eval", "--mode", mode, "--layout", layout, "--batch-size", str(batch)]
                sides[f"PyTorch {name.replace('-', ', ')}"] = [*script, *options]
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(args.eval_rounds):
                for name, command in sides.items():
                    seconds[name].append(run(command, 2)["seconds"])
            for name, values in seconds.items():
                ratio = statistics.median(t / o for t, o in zip(values, seconds[OURS]))
                parts.append({"batch_size": batch, "side": name, "seconds": values, "times_slower": ratio})
    return parts


def machine(result: dict) -> str:
    """The processor's name, with its features if the file has them."""
    features = result.get("processor", {}).get("features")
    return result["machine"] + (f" ({', '.join(features)})" if features else "")


def ratio(row: dict) -> str:
    """The relative time of a side; a dash if cnn-cuda was not measured."""
    return "–" if row["times_slower"] is None else f"{row['times_slower']:.2f}×"


def markdown(result: dict) -> str:
    """The full tables of one comparison, as Markdown."""
    on_cpu = result["device"] == "cpu"
    steps = sorted({part["steps"] for part in result["parts"]})
    counted = " to ".join(dict.fromkeys(str(count) for count in [*steps[:1], *steps[-1:]])) or "no"
    settings, memory = (["threads"], "peak memory") if on_cpu else (["precision"], "device memory")
    if on_cpu and {part.get("precision", "fp32") for part in result["parts"]} != {"fp32"}:
        settings.append("precision")
    lines = [
        f"{machine(result)}, {result['date']}; {result['rounds']} interleaved rounds of {counted} steps, "
        f"median of the rounds' medians; {'; '.join(result['versions'])}. Relative time: the time of a side divided by "
        "cnn-cuda's, as the median of the ratios within each round.",
        "",
        f"| measurement | batch size | {' | '.join(settings)} | side | ms | spread | relative time | {memory} |",
        "| --- " * (7 + len(settings)) + "|",
    ]
    for part in result["parts"]:
        name = {"train": "training step", "infer": "forward pass"}[part["what"]]
        begin = " | ".join(["", name, str(part["batch_size"]), *(str(part.get(setting, "fp32")) for setting in settings)]).strip()
        if OURS not in (row["side"] for row in part["rows"]):
            lines.append(f"{begin} | {OURS} | not available | – | – | – |")
        for row in part["rows"]:
            low, high = row["spread"]
            lines.append(
                f"{begin} | {row['side']} | {row['ms']:.2f} "
                f"| {low:.2f} to {high:.2f} | {ratio(row)} | {row['peak_memory_mb']:.0f} MB |"
            )
    if result.get("evaluation"):
        lines += ["", "| evaluation of MNIST's test images | batch size | seconds | relative time |", "| --- | --- | --- | --- |"]
        for row in result["evaluation"]:
            median = statistics.median(row["seconds"])
            lines.append(f"| {row['side']} | {row['batch_size']} | {median:.2f} | {row['times_slower']:.2f}× |")
    if epoch := result.get("epoch"):
        ours, theirs = (statistics.median(epoch[key]) for key in ("ours_seconds", "tutorial_seconds"))
        lines += ["", f"An epoch of MNIST takes {ours:.1f} s. PyTorch's tutorial script with its DataLoader takes {theirs:.1f} s, "]
        lines[-1] += f"{epoch['times_slower']:.2f}× as long (medians of {len(epoch['ours_seconds'])} interleaved runs)."
    return "\n".join([*lines, ""])


def fastest(part: dict) -> tuple[dict, dict]:
    """The rows of cnn-cuda and of PyTorch's fastest mode in a block. The latter gets the name of its mode as `mode`."""
    rows = {row["side"]: row for row in part["rows"]}
    ours, theirs = rows.pop(OURS), min(rows.values(), key=lambda row: row["times_slower"])
    return ours, {**theirs, "mode": theirs["side"].removeprefix("PyTorch ")}


def networks_markdown() -> str:
    """The table of training steps on the CPU in the files `benches/results/*-cpu.json`, one or more for each network."""
    lines = [
        "| network | batch size | precision | cnn-cuda | PyTorch's fastest mode | PyTorch / cnn-cuda | processor, date |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for path in sorted(RESULTS.glob("*-cpu.json")):
        result = json.loads(path.read_text())
        for part in result["parts"]:
            ours, theirs = fastest(part)
            name = f"{theirs['ms']:.0f} ms, {theirs['peak_memory_mb']:.0f} MB ({theirs['mode']})"
            lines.append(
                f"| {result['model']} | {part['batch_size']} | {part.get('precision', 'fp32')} "
                f"| {ours['ms']:.0f} ms, {ours['peak_memory_mb']:.0f} MB | {name} | {theirs['times_slower']:.2f}× "
                f"| {result['machine']}, {result['date']} |"
            )
    return "\n".join([*lines, ""])


class GpuSteps:
    """The times of training steps on a GPU, from the results of `benches/gpu.sh --quick` in a folder."""

    def __init__(self, folder: Path) -> None:
        lines = (folder / "steps.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        # Milliseconds by network, batch size and precision, then by side.
        self.times = {key: dict(sides) for key, sides in step_table.medians(lines).items()}
        self.device = records[0]["device"].split(" (")[0]
        self.pytorch = next((record["framework"] for record in records if "framework" in record), None)
        self.layouts = sorted({record["layout"] for record in records if "layout" in record})
        driver = re.search(r"[0-9]{3}\.[0-9]+\.[0-9]+", (folder / "device.txt").read_text())
        self.driver = driver[0] if driver else "unknown"
        dated = re.search(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", folder.name)
        self.date = dated[0] if dated else "undated"

    def heading(self) -> str:
        theirs = f"; {self.pytorch}, {', '.join(self.layouts)}" if self.pytorch else "; PyTorch was not timed in this run"
        return f"{self.device}, driver {self.driver}, {self.date}{theirs}."

    def ours(self, key: tuple[str, int, str]) -> float:
        """The mean of cnn-cuda's medians, which were measured before and after PyTorch's."""
        return statistics.mean(self.times[key][OURS])

    def fastest(self, key: tuple[str, int, str]) -> tuple[str, float] | None:
        """PyTorch's fastest mode and its median time."""
        theirs = {mode: times[0] for mode, times in self.times[key].items() if mode != OURS}
        return min(theirs.items(), key=lambda item: item[1]) if theirs else None

    def markdown(self) -> str:
        modes = [mode for mode in MODE_NAMES if any(mode in sides for sides in self.times.values())]
        titles = ["network", "batch", "precision", "cnn-cuda", *(f"PyTorch, {MODE_NAMES[mode]}" for mode in modes)]
        lines = ["| " + " | ".join(titles) + " |", "| --- | --- | --- " + "| ---: " * (len(modes) + 1) + "|"]
        for (model, batch, precision), sides in self.times.items():
            ours = self.ours((model, batch, precision))
            cells = [model, str(batch), precision, milliseconds(ours)]
            for mode in modes:
                theirs = sides.get(mode)
                cells.append(f"{milliseconds(theirs[0])} ({theirs[0] / ours:.2f}×)" if theirs else "–")
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([self.heading(), "", *lines, ""])


# The names of PyTorch's GPU modes in tables.
MODE_NAMES = {"graph": "whole step as one CUDA graph", "eager": "eager"}


def milliseconds(value: float) -> str:
    """Formats a time with three significant digits."""
    decimals = next((decimals for limit, decimals in ((1, 3), (10, 2), (100, 1)) if value < limit), 0)
    return f"{value:.{decimals}f} ms"


def gpu_steps() -> list[GpuSteps]:
    """All GPU runs in benches/results."""
    return [GpuSteps(path.parent) for path in sorted(RESULTS.glob("*/steps.jsonl"))]


def gpu_markdown() -> str:
    """The tables of training steps on GPUs."""
    return "\n".join(run.markdown() for run in gpu_steps())


def find_part(result: dict, what: str, batch: int, threads: int) -> dict:
    """The block with the given settings in fp32."""
    wanted = {"what": what, "batch_size": batch, "threads": threads, "precision": "fp32"}
    return next(part for part in result["parts"] if all(part.get(key, "fp32") == value for key, value in wanted.items()))


def claims_markdown() -> str:
    """One measured result for the CPU and one for a GPU, each with its hardware."""
    result = json.loads((RESULTS / "cpu.json").read_text())
    ours, theirs = fastest(find_part(result, "train", 64, 2))
    pytorch = next(version for version in result["versions"] if version.startswith("PyTorch"))
    vectors = next(version for version in result["versions"] if version.startswith("CPU (2 threads"))
    on_cpu = (
        f"- **CPU**, {result['machine']}, {vectors.removeprefix('CPU (').removesuffix(')')}: {ours['ms']:.1f} ms and "
        f"{ours['peak_memory_mb']:.0f} MB; {pytorch} in its fastest mode ({theirs['mode']}) {theirs['ms']:.1f} ms and "
        f"{theirs['peak_memory_mb']:.0f} MB."
    )
    run = next(run for run in gpu_steps() if run.pytorch)
    key = ("mnist-cnn", 64, "fp16")
    mode, time = run.fastest(key)
    on_gpu = (
        f"- **GPU**, {run.device}, fp16: {milliseconds(run.ours(key))}; {run.pytorch} in its fastest mode "
        f"({MODE_NAMES[mode]}) {milliseconds(time)}."
    )
    return "A training step of `mnist-cnn` at batch 64:\n\n" + on_cpu + "\n" + on_gpu + "\n"


# The rows of README.md's table: for the CPU by file, measurement and batch size; for a GPU by network, batch size and precision.
CPU_ROWS = (("cpu", "train", 64), ("cpu", "infer", 128), ("resnet20-cpu", "train", 128), ("resnet18-cpu", "train", 8))
GPU_ROWS = (("mnist-cnn", 64, "fp16"), ("mnist-cnn", 64, "tf32"), ("resnet20", 128, "fp16"), ("resnet18", 128, "fp16"))


def short_markdown() -> str:
    """The short table of README.md."""
    lines = ["| | batch | on | cnn-cuda | PyTorch's fastest mode | PyTorch / cnn-cuda |", "| --- | ---: | --- | ---: | --- | ---: |"]
    for name, what, batch in CPU_ROWS:
        result = json.loads((RESULTS / f"{name}.json").read_text())
        ours, theirs = fastest(find_part(result, what, batch, 2))
        label = f"{result['model']}, {'training step' if what == 'train' else 'forward pass'}"
        cells = [label, str(batch), f"{result['machine']}, 2 threads", milliseconds(ours["ms"])]
        cells += [f"{milliseconds(theirs['ms'])} ({theirs['mode']})", f"{theirs['times_slower']:.2f}×"]
        lines.append("| " + " | ".join(cells) + " |")
    run = next(run for run in gpu_steps() if run.pytorch)
    for key in GPU_ROWS:
        (model, batch, precision), (mode, time) = key, run.fastest(key)
        cells = [f"{model}, training step", str(batch), f"{run.device}, {precision}", milliseconds(run.ours(key))]
        cells += [f"{milliseconds(time)} ({MODE_NAMES[mode]})", f"{time / run.ours(key):.2f}×"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def pages_with_tables() -> dict[str, str]:
    """README.md and docs/benchmarks.md with the tables between their markers generated from benches/results."""
    full = markdown(json.loads((RESULTS / "cpu.json").read_text()))
    readme = {"claims": claims_markdown(), "short table": short_markdown()}
    benchmarks = {"CPU": full, "networks on the CPU": networks_markdown(), "GPU": gpu_markdown()}
    pages, end = {}, "<!-- end -->"
    for page, tables in {"README.md": readme, "docs/benchmarks.md": benchmarks}.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        for what, table in tables.items():
            begin = f"<!-- benches/compare.py --tables: {what} -->\n"
            head, rest = text.split(begin)
            text = head + begin + "\n" + table + "\n" + rest[rest.index(end) :]
        pages[page] = text
    return pages


def write_tables() -> None:
    """Regenerates the tables in README.md and docs/benchmarks.md."""
    for page, text in pages_with_tables().items():
        (ROOT / page).write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist-cnn", help="a network that both sides have")
    parser.add_argument("--device", default="cpu", help="cpu, or the number of a CUDA device")
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "tf32", "fp16", "bf16"], help="PyTorch autocasts to 16 bits")
    parser.add_argument("--threads", type=int, nargs="+", help="CPU threads [default: 1 2; on a GPU 2]")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[1, 16, 64, 256, 1024])
    parser.add_argument("--infer-batch-sizes", type=int, nargs="*", default=[1, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="timed steps per process [default: max(20, 512 / batch), limited to max(10, 4096 / batch)]")
    parser.add_argument("--epoch-rounds", type=int, default=3, help="epochs to compare with the tutorial script; 0 for none")
    parser.add_argument("--eval-batch-sizes", type=int, nargs="*", default=[1, 128])
    parser.add_argument("--eval-rounds", type=int, default=3)
    parser.add_argument("--modes", nargs="+", choices=sorted({*CPU_MODES, *GPU_MODES}), help="PyTorch modes [default: all for the device]")
    parser.add_argument("--compile-batch-sizes", type=int, nargs="*", help="batch sizes at which to time torch.compile [default: all]")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time after which no block starts [default: no limit]")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CNN_CUDA_DATA", "data")))
    parser.add_argument("--out", type=Path, help="JSON file to write [default: benches/results/cpu.json or cuda.json]")
    parser.add_argument("--readme", action="store_true", help="afterwards, update the tables like --tables")
    parser.add_argument("--tables", action="store_true", help="measure nothing, but update the tables in README.md and docs/benchmarks.md")
    args = parser.parse_args()
    if args.tables:
        write_tables()
        return
    on_cpu = args.device == "cpu"
    if not (on_cpu or args.device.isdigit()):
        parser.error("--device must be cpu or the number of a CUDA device")
    if on_cpu and not set(args.precisions) <= set(CPU_PRECISIONS):
        parser.error(f"--precisions on the CPU can be {' and '.join(CPU_PRECISIONS)}")
    if args.readme and not on_cpu:
        parser.error("--readme is only for results of the CPU; the GPU tables come from benches/gpu.sh --quick")
    args.threads = args.threads or ([1, 2] if on_cpu else [2])
    args.modes = args.modes or (CPU_MODES if on_cpu else GPU_MODES)
    on_mnist = args.model == "mnist-cnn"
    result_name = ("" if on_mnist else f"{args.model}-") + ("cpu.json" if on_cpu else "cuda.json")
    args.out = args.out or RESULTS / result_name
    if args.readme and args.out.parent.resolve() != RESULTS:
        parser.error("--readme reads benches/results, so --out must be in that folder")
    binary = Path(os.environ.get("CNN_CUDA_BIN", ROOT / "target" / "release" / "cnn-cuda"))
    if not binary.exists():
        sys.exit(f"{binary} does not exist; run `cargo build --release` first, or set CNN_CUDA_BIN")
    try:
        text = compare(args, binary)
    except CommandFailed as error:
        sys.exit(str(error))
    print("\n" + text)
    if args.readme:
        write_tables()


def compare(args: argparse.Namespace, binary: Path) -> str:
    """Measures all blocks, updates the JSON file after each of them, and returns the tables."""
    start, on_mnist = time.monotonic(), args.model == "mnist-cnn"
    difference = check_same_losses(args, binary) if on_mnist else None
    if on_mnist:
        print(f"the first {CHECKED_STEPS} losses agree to {difference:.1e}", flush=True)
    parts: list[dict] = []
    cpu = processor()
    result = {
        "model": args.model,
        "device": args.device,
        "machine": cpu["name"],
        "processor": cpu,
        "software": software(binary),
        "date": date.today().isoformat(),
        "command": " ".join(sys.argv[1:]),
        "rounds": args.rounds,
        "versions": [],
        "losses_max_relative_difference": difference,
        "parts": parts,
    }
    wanted = [("train", batch) for batch in args.batch_sizes] + [("infer", batch) for batch in args.infer_batch_sizes]
    skipped = []

    def has_time(block: str) -> bool:
        late = time.monotonic() - start > args.seconds
        if late:
            skipped.append(block)
            print(f"{block}: skipped, out of time", flush=True)
        return not late

    for threads, (what, batch), precision in itertools.product(args.threads, wanted, args.precisions):
        block = f"{what}, batch {batch}, {threads} threads, {precision}"
        if not has_time(block):
            continue
        parts.append(interleave(args, binary, what, batch, threads, precision))
        rows = [f"{row['side']} {row['ms']:.2f} ms ({ratio(row)})" for row in parts[-1]["rows"]]
        print(f"{block}: {', '.join(rows)}", flush=True)
        result["versions"] = sorted({version for part in parts for version in part["versions"].values()})
        save(args, result)
    if args.eval_rounds and args.eval_batch_sizes and on_mnist and has_time("evaluation"):
        result["evaluation"] = evaluations(args, binary)
        save(args, result)
    if args.epoch_rounds and on_mnist and has_time("epoch"):
        result["epoch"] = epochs(args, binary)
    result["not_run"] = skipped
    save(args, result)
    return markdown(result)


def save(args: argparse.Namespace, result: dict) -> None:
    """Writes the results so far. The file is replaced atomically, so readers never see a partial one."""
    written = args.out.with_suffix(".tmp")
    written.write_text(json.dumps(result, indent=1) + "\n")
    written.replace(args.out)


if __name__ == "__main__":
    main()
