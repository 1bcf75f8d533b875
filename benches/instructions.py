"""Prints how many instructions a warp issues per tile of a synchronous implicit GEMM, counted in the assembled kernels
without a GPU.

    python benches/instructions.py FOLDER [--ptxas PATH] [--nvdisasm PATH] [--target sm_90]

FOLDER contains the PTX files of a build with NVRTC (target/*/build/cnn-cuda-*/out). `ptxas` is part of the Python package
nvidia-cuda-nvcc-cu12, and `nvdisasm` of the CUDA toolkit or the Python package triton. The count of a main loop includes all
of its branches, even rarely taken ones. It is halved, because an iteration multiplies two tiles of 4096 accumulators with a
depth of 16 words. A kernel has one main loop.
"""

from __future__ import annotations

import argparse
import collections
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PRODUCTS = {"implicit_f32": "FFMA", "implicit_f16": "HMMA"}


def listing(ptx: Path, args: argparse.Namespace) -> str:
    """The disassembly of a PTX file, as printed by `nvdisasm`."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        subprocess.run([args.ptxas, "--gpu-name", args.target, ptx, "--output-file", cubin], check=True)
        command = [args.nvdisasm, "--print-code", cubin]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def loops(text: str, product: str) -> list[collections.Counter]:
    """The instruction counts of every loop of a kernel that contains multiplications."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    found = []
    for line in text.splitlines():
        if label := re.match(r"(\.L_x?_?\w+):", line):
            labels[label.group(1)] = len(instructions)
        elif instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(instruction.group(1))
            jump = re.search(r"BRA.*`\((\.L\w+)\)", instructions[-1])
            if jump and jump.group(1) in labels:
                body = instructions[labels[jump.group(1)] :]
                names = (re.sub(r"^@!?U?P\d+ ", "", each).split()[0].split(".")[0] for each in body)
                count = collections.Counter(names)
                if count[product] >= 16:
                    found.append(count)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ptxas", default="ptxas")
    parser.add_argument("--nvdisasm", default="nvdisasm")
    parser.add_argument("--target", default="sm_90")
    args = parser.parse_args()
    print(f"| kernel, {args.target} | instructions per tile | FFMA or HMMA | loads from shared memory |")
    print("| --- | --- | ---: | ---: |")
    for module, product in PRODUCTS.items():
        ptx = args.folder / f"{module}.ptx"
        if not ptx.is_file():
            sys.exit(f"{ptx} is missing; build with NVRTC (CNN_CUDA_NVRTC) and give the output folder of that build")
        for kernel in re.split(r"\n(?=\.text\.)", listing(ptx, args)):
            name = re.match(r"\.text\.(\w+)", kernel)
            counts = loops(kernel, product) if name else []
            if not name or not counts:
                continue
            totals = ", ".join(str(round(count.total() / 2)) for count in counts)
            print(f"| {name.group(1)} | {totals} | {counts[0][product] // 2} | {counts[0]['LDS'] // 2} |")


if __name__ == "__main__":
    main()
