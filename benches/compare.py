"""cnn-cuda and PyTorch side by side on one machine, interleaved in one run.

    cargo build --release
    python benches/compare.py --device cpu --data data
    python benches/compare.py --device 0 --precisions fp32 tf32 fp16 --data data
    python benches/compare.py --model resnet18 --batch-sizes 8 --data data

First checks that both sides compute the same losses from the same weights on the same images (of `mnist-cnn` on MNIST;
for torchvision's networks that is what `tests/reference/check_torchvision.py` does). Then runs one process of
each side in turn, A B C D A B C D …, so that a machine's slow and fast moments fall on all of them, and prints per side the
median over the rounds, their spread, and the median of the ratios within each round. Writes all numbers to a JSON file, anew
after every block. A mode of PyTorch's that fails is told, noted in the file and left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benches" / "results"
TRAIN_STEP = ROOT / "benches" / "pytorch" / "train_step.py"
CPU_MODES = ("eager-contiguous", "eager-channels_last", "compile-channels_last")
GPU_MODES = tuple(f"{mode}-{layout}" for mode in ("eager", "compile", "graph") for layout in ("contiguous", "channels_last"))
OURS = "cnn-cuda"
CHECKED_STEPS = 10


class Failed(Exception):
    """A program that ended with an error: its command, and what it said."""


def call(command: list[str | Path], threads: int) -> str:
    """What a program prints."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def run(command: list[str | Path], threads: int) -> dict:
    """The JSON object that a program prints last."""
    return json.loads(call(command, threads).strip().splitlines()[-1])


def train_command(args: argparse.Namespace, binary: Path, out: Path, *more: str | Path) -> list[str | Path]:
    """Our training, quietly, into a folder."""
    return [binary, "train", "--device", args.device, "--data", args.data, "--quiet", "--out", out, *more]


def records(folder: Path, kind: str) -> list[dict]:
    """The records of one kind that a run left."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def their_device(args: argparse.Namespace) -> list[str]:
    """PyTorch's name of the device."""
    return ["--device", "cpu" if args.device == "cpu" else f"cuda:{args.device}"]


def check_same_losses(args: argparse.Namespace, binary: Path) -> float:
    """The largest relative difference of the first losses in fp32; ends the program where it is over 1e-4."""
    with tempfile.TemporaryDirectory() as folder:
        initial, out = Path(folder) / "initial.safetensors", Path(folder) / "run"
        script = [sys.executable, TRAIN_STEP, *their_device(args), "--save-initial", initial, "--data", args.data, "--json"]
        theirs = run([*script, "--steps", str(CHECKED_STEPS), "--batch-size", "64"], 2)["losses"]
        more = ["--init", initial, "--no-shuffle", "--log-steps", "--max-steps", str(CHECKED_STEPS)]
        command = train_command(args, binary, out, *more)
        call(command, 2)
        ours = [record["loss"] for record in records(out, "step")]
    differences = [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]
    if not all(difference < 1e-4 for difference in differences):  # NaN is not
        sys.exit(f"the two sides do not compute the same: losses differ by {differences}")
    return max(differences)


def cpu_name() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def steps_of(args: argparse.Namespace, batch: int) -> int:
    """Timed steps of a process: of small batches more, which are over before the machine has settled, of large ones fewer."""
    return args.steps or min(max(20, 512 // batch), max(10, 4096 // batch))


def interleave(args: argparse.Namespace, binary: Path, what: str, batch: int, threads: int, precision: str) -> dict:
    """All rounds of every side, and a row for each."""
    common = ["--batch-size", str(batch), "--steps", str(steps_of(args, batch)), "--threads", str(threads), "--json"]
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
            except Failed as error:
                if name == OURS:
                    raise
                failed[name] = str(error)
                rounds.pop(name)
                print(f"{name} fails and is left out: {error}", file=sys.stderr, flush=True)
    memory = "peak_memory_mb" if args.device == "cpu" else "device_memory_mb"
    times = {name: [result["ms_per_step"]["median"] for result in results] for name, results in rounds.items()}
    rows = [
        {
            "side": name,
            "ms": statistics.median(values),
            "spread": [min(values), max(values)],
            "times_slower": statistics.median(t / o for t, o in zip(values, times[OURS])),
            "peak_memory_mb": statistics.median(result[memory] for result in rounds[name]),
        }
        for name, values in times.items()
    ]
    versions = {name: results[0].get("framework") or results[0]["device"] for name, results in rounds.items()}
    settings = {"what": what, "batch_size": batch, "threads": threads, "precision": precision, "steps": steps_of(args, batch)}
    # How a device runs a step: launches in one graph.
    recorded = {key: [result.get(key) for result in rounds[OURS]] for key in ("graph_nodes",)}
    return {**settings, "rows": rows, "versions": versions, "failed": failed, "ours": recorded}


def epochs(args: argparse.Namespace, binary: Path) -> dict:
    """An epoch of our training against the tutorial script with its DataLoader, in turn."""
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
    """`cnn-cuda eval` against PyTorch's loop under `no_grad`, in turn: seconds for MNIST's test images."""
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


def markdown(result: dict) -> str:
    """The tables as they stand in the README."""
    on_cpu = result["device"] == "cpu"
    steps = sorted({part["steps"] for part in result["parts"]})
    counted = " to ".join(dict.fromkeys(str(count) for count in [*steps[:1], *steps[-1:]])) or "no"
    setting, memory = ("threads", "peak memory") if on_cpu else ("precision", "device memory")
    lines = [
        f"{result['machine']}, {result['date']}; {result['rounds']} interleaved rounds of {counted} steps, "
        f"median of the rounds' medians; {'; '.join(result['versions'])}. Against cnn-cuda: how many times as long a side "
        "takes, the median of the ratios within each round.",
        "",
        f"| what | batch | {setting} | side | ms | spread | against cnn-cuda | {memory} |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for part in result["parts"]:
        name = {"train": "training step", "infer": "forward pass"}[part["what"]]
        for row in part["rows"]:
            low, high = row["spread"]
            lines.append(
                f"| {name} | {part['batch_size']} | {part[setting]} | {row['side']} | {row['ms']:.2f} "
                f"| {low:.2f} to {high:.2f} | {row['times_slower']:.2f}× | {row['peak_memory_mb']:.0f} MB |"
            )
    if result.get("evaluation"):
        lines += ["", "| evaluation of MNIST's test images | batch | seconds | against cnn-cuda |", "| --- | --- | --- | --- |"]
        for row in result["evaluation"]:
            median = statistics.median(row["seconds"])
            lines.append(f"| {row['side']} | {row['batch_size']} | {median:.2f} | {row['times_slower']:.2f}× |")
    if epoch := result.get("epoch"):
        ours, theirs = (statistics.median(epoch[key]) for key in ("ours_seconds", "tutorial_seconds"))
        lines += ["", f"An epoch of MNIST: {ours:.1f} s; the tutorial script with its DataLoader takes {theirs:.1f} s, "]
        lines[-1] += f"{epoch['times_slower']:.2f}× (median of {len(epoch['ours_seconds'])} in turn)."
    return "\n".join([*lines, ""])


def models_markdown() -> str:
    """The README's table of the larger networks on the CPU, from the files of results."""
    lines = ["| network | batch | cnn-cuda | PyTorch's fastest mode | against cnn-cuda |", "| --- | --- | --- | --- | --- |"]
    for path in sorted(RESULTS.glob("*-cpu.json")):
        result = json.loads(path.read_text())
        for part in result["parts"]:
            rows = {row["side"]: row for row in part["rows"]}
            ours, theirs = rows.pop(OURS), min(rows.values(), key=lambda row: row["times_slower"])
            name = f"{theirs['ms']:.0f} ms, {theirs['peak_memory_mb']:.0f} MB ({theirs['side'].removeprefix('PyTorch ')})"
            lines.append(
                f"| {result['model']} | {part['batch_size']} | {ours['ms']:.0f} ms, {ours['peak_memory_mb']:.0f} MB | {name} "
                f"| {theirs['times_slower']:.2f}× |"
            )
    return "\n".join([*lines, ""])


def write_readme() -> None:
    """Replaces what stands between the README's markers by the tables of the files of results."""
    path, end = ROOT / "README.md", "<!-- end -->"
    text = path.read_text(encoding="utf-8")
    tables = {"--device cpu": markdown(json.loads((RESULTS / "cpu.json").read_text())), "--model": models_markdown()}
    for what, table in tables.items():
        begin = f"<!-- benches/compare.py {what} -->\n"
        head, rest = text.split(begin)
        text = head + begin + "\n" + table + "\n" + rest[rest.index(end) :]
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist-cnn", help="network, one that both sides have")
    parser.add_argument("--device", default="cpu", help="cpu, or the number of a CUDA device")
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "tf32", "fp16"])
    parser.add_argument("--threads", type=int, nargs="+", help="of the CPU [default: 1 2; on a GPU 2]")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[1, 16, 64, 256, 1024])
    parser.add_argument("--infer-batch-sizes", type=int, nargs="*", default=[1, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="timed in a process [default: 20, of 512 images at least, and ten or 4096 images at most]")
    parser.add_argument("--epoch-rounds", type=int, default=3, help="epochs against the tutorial script; 0 for none")
    parser.add_argument("--eval-batch-sizes", type=int, nargs="*", default=[1, 128])
    parser.add_argument("--eval-rounds", type=int, default=3)
    parser.add_argument("--modes", nargs="+", choices=sorted({*CPU_MODES, *GPU_MODES}), help="of PyTorch [default: all that the device has]")
    parser.add_argument("--compile-batch-sizes", type=int, nargs="*", help="those at which torch.compile runs too [default: all]")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no block begins after these [default: no limit]")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CNN_CUDA_DATA", "data")))
    parser.add_argument("--out", type=Path, help="[default: benches/results/cpu.json or cuda.json]")
    parser.add_argument("--readme", action="store_true", help="put the tables of benches/results into README.md")
    parser.add_argument("--tables", action="store_true", help="do that alone, without measuring")
    args = parser.parse_args()
    if args.tables:
        write_readme()
        return
    on_cpu = args.device == "cpu"
    if not (on_cpu or args.device.isdigit()):
        parser.error("--device is cpu or the number of a CUDA device")
    if on_cpu and args.precisions != ["fp32"]:
        parser.error("the CPU computes in fp32 alone")
    if args.readme and not on_cpu:
        parser.error("--readme puts the CPU's tables into README.md; those of a GPU are written to --out alone")
    args.threads = args.threads or ([1, 2] if on_cpu else [2])
    args.modes = args.modes or (CPU_MODES if on_cpu else GPU_MODES)
    on_mnist = args.model == "mnist-cnn"
    result_name = ("" if on_mnist else f"{args.model}-") + ("cpu.json" if on_cpu else "cuda.json")
    args.out = args.out or RESULTS / result_name
    if args.readme and args.out.parent.resolve() != RESULTS:
        parser.error("--readme takes the tables from benches/results, so --out must be there")
    binary = Path(os.environ.get("CNN_CUDA_BIN", ROOT / "target" / "release" / "cnn-cuda"))
    if not binary.exists():
        sys.exit(f"{binary} is not there; run `cargo build --release` first, or set CNN_CUDA_BIN")
    try:
        text = compare(args, binary)
    except Failed as error:
        sys.exit(str(error))
    print("\n" + text)
    if args.readme:
        write_readme()


def compare(args: argparse.Namespace, binary: Path) -> str:
    """All blocks, each written to the JSON file as it is done; the tables."""
    start, on_mnist = time.monotonic(), args.model == "mnist-cnn"
    difference = check_same_losses(args, binary) if on_mnist else None
    if on_mnist:
        print(f"the first {CHECKED_STEPS} losses agree to {difference:.1e}", flush=True)
    parts: list[dict] = []
    result = {
        "model": args.model,
        "device": args.device,
        "machine": cpu_name(),
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
            print(f"{block}: not run, the time is over", flush=True)
        return not late

    for threads, (what, batch), precision in itertools.product(args.threads, wanted, args.precisions):
        block = f"{what}, batch {batch}, {threads} threads, {precision}"
        if not has_time(block):
            continue
        parts.append(interleave(args, binary, what, batch, threads, precision))
        rows = [f"{row['side']} {row['ms']:.2f} ms ({row['times_slower']:.2f}×)" for row in parts[-1]["rows"]]
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
    """Writes what there is so far; a reader never sees half a file."""
    written = args.out.with_suffix(".tmp")
    written.write_text(json.dumps(result, indent=1) + "\n")
    written.replace(args.out)


if __name__ == "__main__":
    main()
