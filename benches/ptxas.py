"""Assembles the PTX files of a build with ptxas, and reads each kernel's code size, registers, spills and shared memory."""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPORT = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Kernel:
    name: str
    code_bytes: int
    registers: int
    spilled_bytes: int
    # Known when it is compiled. What a launch adds is not included.
    shared_bytes: int


def code_sizes(cubin: bytes) -> dict[str, int]:
    """The size in bytes of each kernel's section `.text.NAME` in an ELF file, by kernel name."""
    (sections,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<3H", cubin, 58)
    headers = [struct.unpack_from("<IIQQQQ", cubin, sections + i * size) for i in range(count)]
    text = headers[names][4]
    found = {}
    for header in headers:
        begin = text + header[0]
        name = cubin[begin : cubin.index(b"\0", begin)].decode()
        if name.startswith(".text."):
            found[name.removeprefix(".text.")] = header[5]
    return found


def ptx_target(text: str) -> str:
    """The architecture that PTX was compiled for, such as `80` or `90a`."""
    target = re.search(r"^\.target sm_(\w+)", text, re.MULTILINE)
    if not target:
        raise ValueError("PTX without a .target")
    return target[1]


def number(target: str) -> int:
    return int(target.rstrip("af"))


def targets(folder: Path) -> list[str]:
    """The architectures to assemble for: those of the PTX files, and `90` beside `90a`, whose devices load other PTX too."""
    found = {ptx_target(path.read_text()) for path in folder.glob("*.ptx")}
    found |= {str(number(target)) for target in found}
    return sorted(found, key=lambda target: (number(target), target))


def is_for(ptx: str, target: str) -> bool:
    """Whether PTX is assembled for a target: PTX such as sm_90a for that target alone, other PTX for any later one."""
    if ptx.isdigit() and target.isdigit():
        return int(ptx) <= int(target)
    return ptx == target


def assemble(ptxas: str, ptx: Path, target: str) -> list[Kernel]:
    """The kernels of a PTX file, assembled for a target."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "cubin"
        command = [ptxas, "--verbose", "--gpu-name", f"sm_{target}", ptx, "--output-file", cubin]
        log = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr
        return parse_report(log, code_sizes(cubin.read_bytes()))


def parse_report(log: str, sizes: dict[str, int]) -> list[Kernel]:
    """The kernels in what `ptxas --verbose` prints."""
    found = REPORT.findall(log)
    if missing := sizes.keys() - {name for name, *_ in found}:
        raise ValueError(f"ptxas reported nothing about {', '.join(sorted(missing))}")
    return [Kernel(name, sizes[name], int(used), int(stores) + int(loads), int(shared or 0)) for name, stores, loads, used, shared in found]


def kernels(ptxas: str, folder: Path, target: str) -> list[Kernel]:
    """The kernels that a device of this target loads: of PTX for several targets, that for the latest."""
    texts = {path: path.read_text() for path in sorted(folder.glob("*.ptx"))}
    suitable = [path for path in texts if is_for(ptx_target(texts[path]), target)]
    suitable.sort(key=lambda path: -number(ptx_target(texts[path])))
    found: dict[str, Kernel] = {}
    for path in suitable:
        names = set(re.findall(r"\.entry (\w+)", texts[path]))
        if not names <= found.keys():
            found |= {kernel.name: kernel for kernel in assemble(ptxas, path, target) if kernel.name not in found}
    return list(found.values())


def loaded(folder: Path, module: str, target: str) -> Path | None:
    """The PTX of a module and storage type, such as `implicit_f16`, that a device of this target loads: that for the latest."""
    suitable = [path for path in folder.glob(f"{module}_*.ptx") if is_for(ptx_target(path.read_text()), target)]
    return max(suitable, key=lambda path: number(ptx_target(path.read_text())), default=None)


def ptxas_version(ptxas: str) -> str:
    text = subprocess.run([ptxas, "--version"], check=True, capture_output=True, text=True).stdout
    return re.search(r"V([\d.]+)", text)[1]


def nvrtc_version(folder: Path) -> str:
    """The version of the compiler that wrote the PTX files."""
    found = {version for path in folder.glob("*.ptx") for version in re.findall(r"^// Cuda compilation tools.*V([\d.]+)", path.read_text(), re.MULTILINE)}
    return ", ".join(sorted(found))


def newest_build(target_folder: Path) -> Path:
    """The folder with the PTX files of the last build with NVRTC below cargo's target folder."""
    found = sorted(target_folder.glob("*/build/cnn-cuda-*/out/conv_f32*.ptx"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise FileNotFoundError(f"{target_folder} contains no PTX; build with NVRTC (set CNN_CUDA_NVRTC to its library)")
    return found[-1].parent
