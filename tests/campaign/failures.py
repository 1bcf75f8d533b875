#!/usr/bin/env python3
"""Lets system calls of a training run fail, one a run, and checks that the run ends with a sentence and can be continued.

`failures.py PROGRAM [COUNT] [--seed N]`. Needs strace, which replaces a call by its failure. Without COUNT every call is
failed once, which takes some minutes; with it, as many are chosen at random. A run may then succeed, with the files of an
undisturbed run, or end with exit code 1 and a message; the same command without a failure must continue it to these files.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from kills import Run

ARGUMENTS = "--dataset digits --model lenet5 --batch-size 256 --epochs 1 --device cpu --threads 1 --val-fraction 0.2 --save-every 15 --log-steps --quiet"

# Calls that the kernel never fails for a correct program, or that only wait.
NEVER = set(
    "arch_prctl brk execve exit exit_group futex gettid getpid restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn sched_yield "
    "set_robust_list set_tid_address sigaltstack".split()
)
ERRORS = {
    "write": "ENOSPC",
    "mkdir": "ENOSPC",
    "openat": "EMFILE",
    "mmap": "ENOMEM",
    "mprotect": "ENOMEM",
    "munmap": "ENOMEM",
    "madvise": "ENOMEM",
    "brk": "ENOMEM",
    "clone3": "EAGAIN",
    "getrandom": "ENOSYS",
}
# A run takes one or two seconds on a machine that has nothing else to do.
PATIENCE = 300
# What the dynamic loader exits with, before the program has begun.
LOADER_FAILED = 127


def traced(run: Run, log: Path, *options: str) -> subprocess.Popen:
    return run.start(["strace", "-f", "-qq", "-o", str(log), *options])


def calls_of(log: Path) -> list[tuple[str, int]]:
    """Every system call by name and number. strace counts those of each thread from 1."""
    counts: Counter[tuple[str, str]] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        if found := re.match(r"(\d+) +(\w+)\(", line):
            counts[found[1], found[2]] += 1
    most: dict[str, int] = {}
    for (_, name), count in counts.items():
        most[name] = max(most.get(name, 0), count)
    return [(name, number) for name, count in sorted(most.items()) if name not in NEVER for number in range(1, count + 1)]


def fault(run: Run, expected: dict[str, bytes], log: Path, name: str, number: int) -> str | None:
    """What is wrong after one call failed; None if all is well."""
    process = traced(run, log, "-e", f"inject={name}:error={ERRORS.get(name, 'EIO')}:when={number}")
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False)
        process.communicate()
        return f"it still ran after {PATIENCE} s"
    if process.returncode not in (0, 1, LOADER_FAILED):
        return f"it ended with {process.returncode}:\n{output}"
    if process.returncode == 1 and "Error" not in output and "error" not in output:
        return f"it said nothing:\n{output}"
    if process.returncode != 0:
        again = run.start()
        output, _ = again.communicate()
        if again.returncode != 0:
            return f"it could not be continued:\n{output}"
    differing = [name for name, content in run.contents().items() if content != expected[name]]
    return f"{', '.join(differing)} differ from those of an undisturbed run" if differing else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("count", type=int, nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, log = Run(args.program, Path(folder) / "run", arguments=ARGUMENTS), Path(folder) / "log"
        if traced(run, log).wait() != 0:
            raise SystemExit("the undisturbed run failed")
        calls, expected = calls_of(log), run.contents()
        if args.count is not None:
            calls = random.Random(args.seed).sample(calls, args.count)
        faults = 0
        for name, number in calls:
            run.reset()
            if found := fault(run, expected, log, name, number):
                faults += 1
                print(f"call {number} of {name} failed: {found}", file=sys.stderr)
    print(f"{len(calls)} system calls failed, {faults} faults")
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
