"""Compares single operators of cnn-cuda with PyTorch's (cuDNN, cuBLAS) on a GPU, in two minutes without the tests.

    python benches/kernels.py --out kernels.jsonl                  # measure, print tables
    python benches/kernels.py --tables kernels.jsonl               # print the tables again
    python benches/kernels.py --ours bench.jsonl --out kernels.jsonl

First runs the device tests of all operators, from the test executables in CNN_CUDA_TESTS (`--no-tests` skips them). Then, for
each network: takes cnn-cuda's times of every convolution and linear layer from `cnn-cuda bench --algorithms --json` (the
program is CNN_CUDA_BIN, default target/release/cnn-cuda), and times the same operations in PyTorch, channels_last, the most
expensive ones first. At last, the other operators, whose times `cnn-cuda bench --profile --json` prints: batch norm, max
pooling, loss, update and gather. Sums of gradients, average pooling and other passes are not compared.
`--ours FILE` takes what these commands printed, one JSON object per line, instead of running them, and runs no tests.

PyTorch's result is compared with float64 first. A site whose result is wrong is marked and not counted. PyTorch's time is of
the bare operation; cnn-cuda's includes what is fused with a product: bias, activation, pooling or their gradients, and the
sums of a batch norm beside it. PyTorch's batch norm includes these sums, cnn-cuda's does not: compare the totals of a step.

--out gets a JSON object per line: one for the run, one per site. Exits with 1 if anything was wrong or is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

from sites import PRECISIONS, Site

ROOT = Path(__file__).resolve().parents[1]

# Networks with batch size and precision, the most important first.
PARTS = (
    "resnet18:128:fp16 mnist-cnn:64:fp16 resnet20:128:fp16 resnet50:64:fp16 resnet18:128:tf32 mnist-cnn:64:tf32 resnet20:128:tf32 resnet50:64:tf32"
).split()
BENCH_SECONDS = 40  # The most that cnn-cuda may take for one network.
TEST_SECONDS = 90


class Missing(Exception):
    """Something that the comparison needs is missing or failed; the message says what to do."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", metavar="NETWORK:BATCH:PRECISION", help=f"[default: all in the files of --ours, or {' '.join(PARTS)}]")
    parser.add_argument("--seconds", type=float, default=110, help="time limit, without the tests [default: %(default)s]")
    parser.add_argument("--part-seconds", type=float, default=25, help="time limit of PyTorch's side of one network [default: %(default)s]")
    parser.add_argument("--device", default="cuda:0", help="PyTorch's device; `cpu` only tests this script [default: %(default)s]")
    parser.add_argument("--ours", type=Path, nargs="+", metavar="FILE", help="what `cnn-cuda bench --json` printed, one object per line")
    parser.add_argument("--no-tests", action="store_true", help="do not run the device tests first")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON lines to write")
    parser.add_argument("--tables", type=Path, metavar="FILE", help="measure nothing, but print the tables of an earlier --out")
    args = parser.parse_args()
    if not args.tables and not args.out:
        parser.error("--out FILE is required")
    return args


def program() -> str:
    path = os.environ.get("CNN_CUDA_BIN", str(ROOT / "target" / "release" / "cnn-cuda"))
    if not Path(path).exists():
        raise Missing(f"{path} does not exist; run `cargo build --release`, set CNN_CUDA_BIN, or give --ours FILE")
    return path


def run_tests() -> str:
    """Runs the device tests of all operators; returns what failed, or an empty string."""
    executables = os.environ.get("CNN_CUDA_TESTS", "").split()
    if not executables:
        raise Missing("CNN_CUDA_TESTS names no test executables; set it as benches/gpu.sh describes, or give --no-tests")
    passed = 0
    for executable in executables:
        command = [executable, "--test-threads", "8", "ops::cuda"]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=TEST_SECONDS, env={**os.environ, "CNN_CUDA_NEED_GPU": "1"})
        except subprocess.TimeoutExpired:
            return f"{executable} took more than {TEST_SECONDS} s"
        if ran.returncode:
            failed = re.findall(r"^test (\S+) \.\.\. .*FAILED$", ran.stdout, re.MULTILINE)
            return ", ".join(failed) or f"{executable} ended with {ran.returncode}: {ran.stderr[-300:]}"
        passed += sum(map(int, re.findall(r"^test result: ok\. (\d+) passed", ran.stdout, re.MULTILINE)))
    return "" if passed else "no executable has tests named ops::cuda"


def bench(part: str, what: str, seconds: float) -> dict:
    """The JSON of `cnn-cuda bench` for a network, with `--algorithms` or `--profile`."""
    model, batch, precision = part.split(":")
    command = [program(), "bench", "--device", "0", "--steps", "1", what, "--json", "--model", model]
    command += ["--batch-size", batch, "--precision", precision]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=max(1, min(BENCH_SECONDS, seconds)))
    except subprocess.TimeoutExpired as error:
        raise Missing(f"{' '.join(command)} was stopped after {error.timeout:.0f} s") from error
    if ran.returncode:
        raise Missing(f"{' '.join(command)} failed: {ran.stderr.strip()[-500:]}")
    return json.loads(ran.stdout)


def given_results(files: list[Path], parts: list[str] | None, key: str) -> list[dict]:
    """The first result of each network that has `key`, in the order of `parts` or of the files."""
    found: dict[str, dict] = {}
    for line in filter(str.strip, (line for file in files for line in file.read_text(encoding="utf-8").splitlines())):
        result = json.loads(line)
        if result.get(key):
            found.setdefault(part_name(result), result)
    return [found[part] for part in parts or found if part in found]


def part_name(result: dict) -> str:
    return f"{result['model']}:{result['batch_size']}:{result['precision']}"


def product_rows(result: dict) -> list[dict]:
    """cnn-cuda's side of every convolution and linear layer: the chosen candidate, and the fastest other one. cuDNN as a
    candidate, with the passes that follow it, is listed but is neither."""
    rows = []
    for chosen in result.get("algorithms", []):
        times = {name: time for name, time in chosen["microseconds"].items() if name != "cudnn"}
        best = chosen["algorithm"]
        if best == "cudnn" and times:
            best = min(times, key=times.__getitem__)
        others = sorted((time, name) for name, time in times.items() if name != best)
        row = {"part": part_name(result), "ours_device": result["device"], "site": chosen["site"], "count": len(chosen["parts"]), "algorithm": best}
        row |= {"ours": times.get(best), "floor_h200": chosen["h200_microseconds"], "candidates": times}
        row["cudnn_candidate"] = chosen["microseconds"].get("cudnn")
        rows.append(row | ({"runner_up": others[0][1], "runner_up_us": others[0][0]} if others else {}))
    return by_importance(rows)


def other_rows(result: dict) -> list[dict]:
    """cnn-cuda's side of the operators that a profile names with their shapes; the mean time where a site occurs again."""
    profiled = [step for step in result.get("profile", {}).get("parts", []) if "site" in step]
    counts = Counter(step["site"] for step in profiled)
    total: Counter[str] = Counter()
    for step in profiled:
        total[step["site"]] += step["milliseconds"] * 1e3
    part = {"part": part_name(result), "ours_device": result["device"]}
    return by_importance([{**part, "site": site, "count": count, "ours": total[site] / count} for site, count in counts.items()])


def by_importance(rows: list[dict]) -> list[dict]:
    """The rows with the largest share of a step first, so that a time limit leaves out the least."""
    return sorted(rows, key=lambda row: -(row["ours"] or 0) * row["count"])


def load_pytorch(device: str):
    """The module with PyTorch's side."""
    sys.path.insert(0, str(ROOT / "benches" / "pytorch"))
    try:
        import operators
        import torch
    except ImportError as error:
        raise Missing(f"PyTorch is missing ({error}), so only cnn-cuda's times are listed; install it with `pip install torch`") from error
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Missing(f"this PyTorch ({torch.__version__}) finds no CUDA device, so only cnn-cuda's times are listed")
    return operators


def driver_version() -> str | None:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.split()[0]
    except (OSError, IndexError, subprocess.SubprocessError):
        return None


def run_record(args: argparse.Namespace, pytorch: bool) -> dict:
    """The device and versions of a run."""
    record = {"kind": "run", "date": date.today().isoformat(), "command": " ".join(sys.argv), "driver": driver_version()}
    if pytorch:
        import torch

        name = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "CPU: a test of the script, no measurement"
        record |= {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return record


class Comparison:
    """Measures and writes one record after the other."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.problems, self.records = args, [], []
        self.end = math.inf
        self.pytorch = self.attempt(lambda: load_pytorch(args.device))
        self.timer = self.pytorch and self.pytorch.Timer(args.device)
        self.file = args.out.open("w", encoding="utf-8")
        self.write(run_record(args, bool(self.pytorch)))

    def start_clock(self) -> None:
        """The time limit counts from here."""
        self.end = time.monotonic() + self.args.seconds

    def write(self, record: dict) -> None:
        self.records.append(record)
        print(json.dumps(record, ensure_ascii=False), file=self.file, flush=True)

    def attempt(self, action):
        """The result of an action; None, and a problem that is printed at once, if something is missing."""
        try:
            return action()
        except Missing as error:
            self.problems.append(str(error))
            print(f"problem: {error}", file=sys.stderr, flush=True)
            return None

    def results(self, what: str, key: str) -> Iterator[dict]:
        """What `cnn-cuda bench` prints for each network, while there is time."""
        if self.args.ours:
            yield from given_results(self.args.ours, self.args.parts, key)
            return
        for part in self.args.parts or PARTS:
            left = self.end - time.monotonic()
            if left <= 0:
                self.write({"kind": "skipped", "what": f"{part} {what}"})
                continue
            result = self.attempt(lambda part=part, left=left: bench(part, what, left))
            if result:
                yield result

    def compare(self, rows: list[dict]) -> None:
        end = min(self.end, time.monotonic() + self.args.part_seconds)
        for row in rows:
            self.write({"kind": "site", **row, **self.measure(row["site"], end)})

    def measure(self, name: str, end: float) -> dict:
        """PyTorch's side of a row, and the verdict."""
        if not self.pytorch:
            return {"status": "not timed"}
        if time.monotonic() > end:
            return {"status": "out of time"}
        try:
            site = Site.parse(name)
            if site.operator not in self.pytorch.OPERATORS:
                return {"status": "not timed"}
            found = self.timer.measure(site)
        except Exception as error:  # One operator must not end the run.
            self.problems.append(f"{name}: {str(error)[:300]}")
            return {"status": "FAILED", "reason": str(error)[:300]}
        right = found["error"] <= self.pytorch.LARGEST_ERROR[site.precision]  # False for NaN.
        if not right:
            self.problems.append(f"{name}: PyTorch's relative error is {found['error']:.1e}")
        return {"status": "ok" if right else "WRONG", **found}


def microseconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def is_counted(row: dict) -> bool:
    return row["status"] == "ok" and bool(row["ours"])


def ratio(row: dict) -> float:
    """PyTorch's time divided by cnn-cuda's: above 1, cnn-cuda is faster. Both sides use the same operands again and again."""
    return row["same"][0] / row["ours"]


def site_line(row: dict) -> str:
    pytorch = row.get("same")
    theirs = row["status"] if row["status"] != "ok" else f"{pytorch[0]:.1f} ({pytorch[1]:.1f} to {pytorch[2]:.1f})"
    cells = [row["site"], row["count"], row.get("algorithm", "–"), microseconds(row["ours"])]
    cells.append(f"{row['runner_up']} {row['runner_up_us']:.1f}" if "runner_up" in row else "–")
    cells += [microseconds(row.get("cudnn_candidate")), microseconds(row.get("floor_h200")), theirs]
    cells += [microseconds(row[way][0]) if way in row else "–" for way in ("rotated", "deterministic")]
    cells.append(f"{ratio(row):.2f}" if is_counted(row) else "–")
    return f"| {' | '.join(map(str, cells))} |"


def mean_line(name: str, rows: list[dict]) -> str:
    """The number of sites, the geometric mean of their ratios, and their time in a training step."""
    mean = math.exp(sum(math.log(ratio(row)) for row in rows) / len(rows))
    ours = sum(row["count"] * row["ours"] for row in rows)
    theirs = sum(row["count"] * row["same"][0] for row in rows)
    return f"| {name} | {len(rows)} | {mean:.2f} | {ours:.0f} | {theirs:.0f} | {theirs / ours:.2f} |"


def mean_table(rows: Iterable[dict]) -> list[str]:
    rows = [row for row in rows if is_counted(row)]
    if not rows:
        return ["No site was timed on both sides."]
    lines = ["| operator | sites | geometric mean of PyTorch / cnn-cuda | cnn-cuda, µs per step | PyTorch | ratio of these |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(Site.parse(row["site"]).operator, []).append(row)
    lines += [mean_line(name, group) for name, group in sorted(groups.items())]
    return [*lines, mean_line("all", rows)]


def tables(records: list[dict]) -> str:
    """All tables, as Markdown."""
    run, rows = records[0], [record for record in records if record["kind"] == "site"]
    versions = [f"{name} {run[name]}" for name in ("driver", "torch", "cuda", "cudnn") if run.get(name)]
    lines = [", ".join([run.get("device", "PyTorch was not timed"), *versions, run["date"]])]
    tested = next((record for record in records if record["kind"] == "tests"), None)
    if not tested:
        lines.append("The device tests were not run here.")
    elif tested["failed"]:
        lines.append(f"DEVICE TESTS FAILED, so no time of cnn-cuda counts: {tested['failed']}")
        rows = [row | {"status": "UNTESTED"} for row in rows]
    skipped = [record["what"] for record in records if record["kind"] == "skipped"]
    lines += [f"Out of time before: {', '.join(skipped)}"] if skipped else []
    for part in dict.fromkeys(row["part"] for row in rows):
        mine = [row for row in rows if row["part"] == part]
        lines += ["", f"## {part} on {mine[0]['ours_device']}", "", "| site | times | cnn-cuda | µs | runner-up | by cuDNN, here | floor, H200 | PyTorch (spread) | rotated | deterministic | PyTorch / cnn-cuda |"]
        lines.append("| --- | ---: | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        lines += [*map(site_line, mine), "", *mean_table(mine)]
    for precision in PRECISIONS:
        mine = [row for row in rows if Site.parse(row["site"]).precision == precision]
        lines += ["", f"## All, {precision}", "", *mean_table(mine)] if mine else []
    return "\n".join([*lines, ""])


def main() -> None:
    args = parse_arguments()
    if args.tables:
        print(tables([json.loads(line) for line in args.tables.read_text(encoding="utf-8").splitlines()]))
        return
    if not args.ours:
        try:
            program()
        except Missing as error:
            sys.exit(str(error))
    comparison = Comparison(args)
    if not (args.no_tests or args.ours):
        failed = comparison.attempt(run_tests)
        if failed is not None:
            comparison.write({"kind": "tests", "failed": failed})
            comparison.problems += [f"device tests: {failed}"] if failed else []
    comparison.start_clock()
    for result in comparison.results("--algorithms", "algorithms"):
        comparison.compare(product_rows(result))
    for result in comparison.results("--profile", "profile"):
        comparison.compare(other_rows(result))
    print(tables(comparison.records))
    if comparison.problems:
        sys.exit("\n".join(["Problems:", *comparison.problems]))


if __name__ == "__main__":
    main()
