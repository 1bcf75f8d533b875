#!/usr/bin/env python3
"""Kills training runs at random moments, continues them, and compares the result with that of a run that was left alone.

`kills.py PROGRAM KILLS [--seed N] [--power]`. All six files of a finished run must be equal, bit for bit apart from times.
With `--power` each kill is a loss of power: what was not synchronised (fsync of the file, and of its folder) is gone too.
After each kill `verify` must find what is left undamaged, and at least as many steps as before.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES = ["checkpoint.safetensors", "config.toml", "curves.svg", "last.safetensors", "metrics.jsonl", "model.safetensors"]
STEPS_PER_SAVE = 50
ARGUMENTS = f"--dataset digits --model lenet5 --epochs 3 --device cpu --threads 1 --momentum 0.9 --ema 0.99 --val-fraction 0.2 --save-every {STEPS_PER_SAVE} --log-steps --quiet"


class Run:
    """A run in the folder `run` of a folder of its own."""

    def __init__(self, program: str, folder: Path, library: Path | None = None, arguments: str = ARGUMENTS) -> None:
        self.program, self.folder, self.preload, self.arguments = program, folder, library, arguments.split()
        self.record = folder.with_name(folder.name + ".record")
        self.reset()

    def reset(self) -> None:
        for folder in (self.folder, self.record):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def start(self, tracer: list[str] | None = None) -> subprocess.Popen:
        """Begins the run, or continues it if it has a checkpoint; as a child of `tracer`, if given."""
        resumes = (self.out / "checkpoint.safetensors").exists()
        arguments = ["--resume", str(self.out)] if resumes else ["--out", str(self.out), *self.arguments]
        environment = {**os.environ, "UNSYNCED_RECORD": str(self.record)}
        if self.preload:
            environment["LD_PRELOAD"] = str(self.preload)
        return subprocess.Popen([*(tracer or []), self.program, "train", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def lose_power(self) -> None:
        """Leaves only what was synchronised. The folder itself is on the disk."""
        left = self.folder.with_name(self.folder.name + ".left")
        shutil.rmtree(left, ignore_errors=True)
        self.rebuild(self.folder, left)
        shutil.rmtree(self.folder)
        left.rename(self.folder)
        shutil.rmtree(self.record)
        self.record.mkdir()
        # What is left is on the disk, so it is synchronised.
        if self.preload:
            names = [self.folder, *self.folder.rglob("*")]
            script = "import os, sys\nfor name in sys.argv[1:]:\n  os.fsync(os.open(name, os.O_RDONLY))"
            environment = {**os.environ, "LD_PRELOAD": str(self.preload), "UNSYNCED_RECORD": str(self.record)}
            subprocess.run([sys.executable, "-c", script, *map(str, names)], env=environment, check=True)

    def rebuild(self, folder: Path, to: Path) -> None:
        to.mkdir()
        listing = self.record / f"folder-{identity(folder)}"
        if not listing.exists():
            return
        for line in listing.read_text().splitlines():
            name, found = line.split("\t")
            content, inner = self.record / f"file-{found}", self.record / f"folder-{found}"
            now = folder / name
            if inner.exists() or (now.is_dir() and identity(now) == found):
                self.rebuild(now, to / name)
            elif content.exists():
                shutil.copyfile(content, to / name)
            else:
                (to / name).touch()  # The name is on the disk, the content is not.

    def steps(self) -> int:
        """The steps in the checkpoint, which must be undamaged; 0 if there is none."""
        if not (self.out / "checkpoint.safetensors").exists():
            return 0
        ran = subprocess.run([self.program, "verify", str(self.out)], capture_output=True, text=True)
        found = re.search(r"checkpoint\.safetensors: SHA-256 matches; .*steps: (\d+)", ran.stdout)
        if not found:
            raise SystemExit(f"the checkpoint does not pass `verify`:\n{ran.stdout}{ran.stderr}")
        return int(found[1])

    def contents(self) -> dict[str, bytes]:
        return {name: without_times(name, (self.out / name).read_bytes()) for name in FILES}


def identity(path: Path) -> str:
    """As `unsynced.c` names it."""
    found = subprocess.run(["stat", "--format=%i %W %w", str(path)], capture_output=True, text=True, check=True).stdout.split()
    return f"{found[0]}-{found[1]}-{int(found[3].split('.')[1])}"


def without_times(name: str, content: bytes) -> bytes:
    if name == "config.toml":
        return re.sub(rb'^started = "[-0-9 :]*"$', b"", content, flags=re.MULTILINE)
    if name != "metrics.jsonl":
        return content
    records = [json.loads(line) for line in content.splitlines()]
    return json.dumps([{key: value for key, value in record.items() if key not in ("seconds", "images_per_second")} for record in records]).encode()


def build_library(folder: Path) -> Path:
    library = folder / "unsynced.so"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(Path(__file__).with_name("unsynced.c")), "-ldl"], check=True)
    return library


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--power", action="store_true")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        library = build_library(Path(folder)) if args.power else None
        began = time.monotonic()
        alone = Run(args.program, Path(folder) / "alone", library)
        if alone.start().wait() != 0:
            raise SystemExit("the run that is left alone failed")
        whole, expected = time.monotonic() - began, alone.contents()
        run, kills, finished, steps = Run(args.program, Path(folder) / "killed", library), 0, 0, 0
        while kills < args.kills or finished == 0:
            # Half of the kills come early, where a run is set up.
            delay = chance.uniform(0, whole) if chance.random() < 0.5 else chance.uniform(0, 0.3)
            process = run.start()
            try:
                output, _ = process.communicate(timeout=delay if kills < args.kills else None)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
                before = steps
                if args.power:
                    # The save that was under way may be lost.
                    before = max(before, run.steps() - STEPS_PER_SAVE)
                    run.lose_power()
                steps = run.steps()
                if steps < before:
                    raise SystemExit(f"kill {kills}: {steps} steps are left of {before}") from None
                continue
            if process.returncode != 0:
                raise SystemExit(f"after {kills} kills, the run failed with {process.returncode}:\n{output}")
            for name, content in run.contents().items():
                if content != expected[name]:
                    raise SystemExit(f"after {kills} kills, {name} differs from that of the run that was left alone")
            finished, steps = finished + 1, 0
            run.reset()
    what = "losses of power" if args.power else "kills"
    print(f"{kills} {what}, {finished} finished runs with equal files, none lost")


if __name__ == "__main__":
    main()
