"""What a GPU run reached of what is wanted of an H200: a table from the files that `benches/gpu.sh` left in a folder.

    python benches/targets.py benches/results/gpu-2026-01-31

Ends with 1 where something is missing or below what it must be.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

PRECISIONS = ("tf32", "fp16")
OURS = "cnn-cuda"


def step_microseconds(folder: Path, precision: str) -> float:
    """A training step at batch 64."""
    return 1e3 * json.loads((folder / f"bench-{precision}-64.json").read_text())["ms_per_step"]["median"]


def seconds(folder: Path, name: str) -> float:
    """What a process took, as it was written down beside its log."""
    return float((folder / f"{name}-seconds.txt").read_text())


def against(folder: Path, precision: str, mode: str) -> float:
    """How many times as long the fastest of PyTorch's modes of that beginning takes for a training step at batch 64."""
    parts = json.loads((folder / "compare.json").read_text())["parts"]
    wanted = {"what": "train", "batch_size": 64, "precision": precision}
    part = next(part for part in parts if all(part[key] == value for key, value in wanted.items()))
    sides = [row for row in part["rows"] if row["side"] != OURS and row["side"].startswith(f"PyTorch {mode}")]
    return min(row["times_slower"] for row in sides)


def mean_accuracy(folder: Path) -> float:
    """Test accuracy after 20 epochs, in per cent, over the seeds."""
    last = [(folder / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()[-1] for seed in range(5)]
    return 100 * statistics.mean(json.loads(line)["test_accuracy"] for line in last)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    rows = []
    for precision in PRECISIONS:
        rows += [
            (f"step, batch 64, {precision}, µs", lambda p=precision: step_microseconds(folder, p), "at most", 200, 100),
            (f"against PyTorch eager, {precision}", lambda p=precision: against(folder, p, "eager"), "at least", 6, 10),
            (f"against PyTorch's fastest mode, {precision}", lambda p=precision: against(folder, p, ""), "at least", 1.2, 1.5),
            (
                f"20 epochs with evaluation after start-up, {precision}, s",
                lambda p=precision: seconds(folder, f"train-{p}") - seconds(folder, f"first-step-{p}"),
                "at most",
                3.8,
                1.9,
            ),
        ]
        rows.append(
            (f"start to the end of the first steps, {precision}, s", lambda p=precision: seconds(folder, f"first-step-{p}"), "at most", 1.0, 0.5)
        )
    rows.append(("test accuracy after 20 epochs, mean of 5 seeds, %", lambda: mean_accuracy(folder), "at least", 99.2, 99.3))
    print("| what | must | hard | measured | |\n| --- | --- | --- | --- | --- |")
    short = False
    for what, measure, bound, must, hard in rows:
        try:
            value = measure()
        except (OSError, KeyError, IndexError, StopIteration, ValueError) as error:
            measured, verdict = "-", f"missing ({type(error).__name__} {error})"
        else:
            measured = f"{value:.2f}"
            reached = [value <= limit if bound == "at most" else value >= limit for limit in (must, hard)]
            verdict = "hard" if reached[1] else "must" if reached[0] else "missed"
        short |= verdict not in ("must", "hard")
        print(f"| {what} | {bound} {must} | {bound} {hard} | {measured} | {verdict} |")
    sys.exit(short)


if __name__ == "__main__":
    main()
