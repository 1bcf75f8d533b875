"""Compares a GPU run with the targets for an H200, as a table from the files that `benches/gpu.sh` left in a folder.

    python benches/targets.py benches/results/gpu-2026-01-31

Exits with 1 if a result is missing or does not meet its target.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

PRECISIONS = ("tf32", "fp16")
OURS = "cnn-cuda"


def step_microseconds(folder: Path, precision: str) -> float:
    """The median time of a training step at batch size 64."""
    return 1e3 * json.loads((folder / f"bench-{precision}-64.json").read_text())["ms_per_step"]["median"]


def seconds(folder: Path, name: str) -> float:
    """The duration of a process, which was recorded next to its log."""
    return float((folder / f"{name}-seconds.txt").read_text())


def speedup(folder: Path, precision: str, mode: str) -> float:
    """The speedup of a training step at batch size 64 over the fastest of PyTorch's modes that start with `mode`."""
    parts = json.loads((folder / "compare.json").read_text())["parts"]
    settings = {"what": "train", "batch_size": 64, "precision": precision}
    part = next(part for part in parts if all(part[key] == value for key, value in settings.items()))
    sides = [row for row in part["rows"] if row["side"] != OURS and row["side"].startswith(f"PyTorch {mode}")]
    return min(row["times_slower"] for row in sides)


def mean_accuracy(folder: Path) -> float:
    """The mean test accuracy after 20 epochs over all seeds, in per cent."""
    last = [(folder / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()[-1] for seed in range(5)]
    return 100 * statistics.mean(json.loads(line)["test_accuracy"] for line in last)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    rows = []
    for precision in PRECISIONS:
        rows += [
            (f"training step, batch size 64, {precision}, µs", lambda p=precision: step_microseconds(folder, p), "at most", 200, 100),
            (f"speedup over PyTorch eager, {precision}", lambda p=precision: speedup(folder, p, "eager"), "at least", 6, 10),
            (f"speedup over PyTorch's fastest mode, {precision}", lambda p=precision: speedup(folder, p, ""), "at least", 1.2, 1.5),
            (
                f"20 epochs with evaluation, without start-up, {precision}, s",
                lambda p=precision: seconds(folder, f"train-{p}") - seconds(folder, f"first-step-{p}"),
                "at most",
                3.8,
                1.9,
            ),
        ]
        rows.append(
            (f"start-up until the end of the first steps, {precision}, s", lambda p=precision: seconds(folder, f"first-step-{p}"), "at most", 1.0, 0.5)
        )
    rows.append(("test accuracy after 20 epochs, mean of 5 seeds, %", lambda: mean_accuracy(folder), "at least", 99.2, 99.3))
    print("| quantity | target | stretch target | measured | result |\n| --- | --- | --- | --- | --- |")
    any_missed = False
    for quantity, measure, bound, target, stretch in rows:
        try:
            value = measure()
        except (OSError, KeyError, IndexError, StopIteration, ValueError) as error:
            measured, verdict = "-", f"missing ({type(error).__name__} {error})"
        else:
            measured = f"{value:.2f}"
            met = [value <= limit if bound == "at most" else value >= limit for limit in (target, stretch)]
            verdict = "stretch target met" if met[1] else "target met" if met[0] else "missed"
        any_missed |= verdict not in ("target met", "stretch target met")
        print(f"| {quantity} | {bound} {target} | {bound} {stretch} | {measured} | {verdict} |")
    sys.exit(any_missed)


if __name__ == "__main__":
    main()
