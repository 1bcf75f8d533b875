"""Prints a table of the step times of cnn-cuda and PyTorch from the steps.jsonl that `benches/gpu.sh --quick` writes.

    python benches/step_table.py OUT/steps.jsonl
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

OURS = "cnn-cuda"


def medians(lines: list[str]) -> dict[tuple[str, int, str], dict[str, list[float]]]:
    """Median milliseconds per step by network, batch size and precision, then by side, in the order of measurement."""
    times: dict[tuple[str, int, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in map(json.loads, lines):
        side = record["mode"] if "framework" in record else OURS
        key = (record["model"], record["batch_size"], record["precision"])
        times[key][side].append(record["ms_per_step"]["median"])
    return times


def cell(times: list[float]) -> str:
    """All times of one side: two of cnn-cuda, one of PyTorch."""
    return " / ".join(f"{time:.3f}" for time in times) or "-"


def ratio(ours: list[float], theirs: list[float]) -> str:
    """PyTorch's time divided by the mean of cnn-cuda's times."""
    return f"{theirs[0] * len(ours) / sum(ours):.2f}" if ours and theirs else "-"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    path = Path(sys.argv[1])
    print("| ms per training step | precision | cnn-cuda, before / after | PyTorch graph | eager | graph/ours | eager/ours |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (model, batch, precision), sides in medians(path.read_text().splitlines() if path.exists() else []).items():
        ours, graph, eager = sides[OURS], sides["graph"], sides["eager"]
        cells = [cell(ours), cell(graph), cell(eager), ratio(ours, graph), ratio(ours, eager)]
        print(f"| {model}, {batch} | {precision} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
