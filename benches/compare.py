"""cnn-cuda and PyTorch side by side on one machine, interleaved in one run.

    cargo build --release
    python benches/compare.py --device cpu --data data

First checks that both sides compute the same losses from the same weights on the same images. Then runs one bench
process of each side in turn, A B C D A B C D …, so that a machine's slow and fast moments fall on all of them, and
prints per side the median over the rounds, their spread, and the median of the ratios within each round. Writes all
numbers to benches/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRAIN_STEP = ROOT / "benches" / "pytorch" / "train_step.py"
MODES = ("contiguous", "channels_last", "compile")
CHECKED_STEPS = 10


def run(command: list[str | Path], threads: int) -> dict:
    """The JSON object that a program prints last."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def check_same_losses(args: argparse.Namespace, binary: Path) -> float:
    """The largest relative difference of the first losses; ends the program where it is over 1e-4."""
    with tempfile.TemporaryDirectory() as folder:
        initial, out = Path(folder) / "initial.safetensors", Path(folder) / "run"
        script = [sys.executable, TRAIN_STEP, "--save-initial", initial, "--data", args.data, "--json"]
        theirs = run([*script, "--steps", str(CHECKED_STEPS), "--batch-size", "64"], args.threads)["losses"]
        train = [binary, "train", "--device", args.device, "--data", args.data, "--init", initial, "--out", out]
        train += ["--no-shuffle", "--log-steps", "--quiet", "--max-steps", str(CHECKED_STEPS)]
        subprocess.run([str(part) for part in train], check=True, capture_output=True)
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    ours = [record["loss"] for record in records if record["kind"] == "step"]
    difference = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    if difference > 1e-4:
        sys.exit(f"the two sides do not compute the same: losses differ by {difference:.1e}")
    return difference


def cpu_name() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def measure(args: argparse.Namespace, binary: Path, batch: int) -> dict[str, list[dict]]:
    """All rounds of every side, interleaved."""
    common = ["--batch-size", str(batch), "--steps", str(args.steps), "--threads", str(args.threads), "--json"]
    sides = {"cnn-cuda": [binary, "bench", "--device", args.device, *common]}
    for mode in args.modes:
        sides[f"PyTorch {mode}"] = [sys.executable, TRAIN_STEP, "--mode", mode, *common]
    rounds: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, command in sides.items():
            rounds[name].append(run(command, args.threads))
    return rounds


def rows_of(rounds: dict[str, list[dict]]) -> list[dict]:
    """One row per side."""
    medians = {name: [result["ms_per_step"]["median"] for result in results] for name, results in rounds.items()}
    ours = medians["cnn-cuda"]
    return [
        {
            "side": name,
            "ms_per_step": statistics.median(times),
            "spread": [min(times), max(times)],
            "times_slower": statistics.median(t / o for t, o in zip(times, ours)),
            "peak_memory_mb": statistics.median(result["peak_memory_mb"] for result in rounds[name]),
        }
        for name, times in medians.items()
    ]


def markdown(result: dict) -> str:
    """The table of every batch size, as it stands in the README."""
    lines = []
    for batch in result["batches"]:
        versions = "; ".join(dict.fromkeys(batch["versions"].values()))
        lines += [
            f"Batch {batch['batch_size']}, {result['threads']} threads, {result['machine']}, {result['date']}; "
            f"{versions}; {result['rounds']} interleaved rounds of {result['steps']} steps, median:",
            "",
            "| side | ms a step | spread | against cnn-cuda | peak memory |",
            "| --- | --- | --- | --- | --- |",
        ]
        for row in batch["rows"]:
            low, high = row["spread"]
            lines.append(
                f"| {row['side']} | {row['ms_per_step']:.1f} | {low:.1f} to {high:.1f} "
                f"| {row['times_slower']:.2f}× | {row['peak_memory_mb']:.0f} MB |"
            )
        lines.append("")
    return "\n".join(lines)


def write_readme(table: str) -> None:
    """Replaces what stands between the README's markers."""
    path = ROOT / "README.md"
    begin, end = "<!-- benches/compare.py -->\n", "<!-- end -->"
    head, rest = path.read_text().split(begin)
    path.write_text(head + begin + "\n" + table + rest[rest.index(end) :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CNN_CUDA_DATA", "data")))
    parser.add_argument("--out", type=Path, default=ROOT / "benches" / "results" / "cpu.json")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    args = parser.parse_args()
    binary = Path(os.environ.get("CNN_CUDA_BIN", ROOT / "target" / "release" / "cnn-cuda"))
    if not binary.exists():
        sys.exit(f"{binary} is not there; run `cargo build --release` first, or set CNN_CUDA_BIN")
    difference = check_same_losses(args, binary)
    print(f"the first {CHECKED_STEPS} losses agree to {difference:.1e}\n")
    result = {
        "machine": cpu_name(),
        "date": date.today().isoformat(),
        "threads": args.threads,
        "rounds": args.rounds,
        "steps": args.steps,
        "losses_max_relative_difference": difference,
        "batches": [],
    }
    for batch in args.batch_sizes:
        rounds = measure(args, binary, batch)
        rows = rows_of(rounds)
        versions = {name: results[0].get("framework") or results[0]["device"] for name, results in rounds.items()}
        result["batches"].append({"batch_size": batch, "rows": rows, "versions": versions, "rounds": rounds})
    text = markdown(result)
    print(text)
    if args.readme:
        write_readme(text)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
