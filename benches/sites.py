"""Sites: operators with their shapes, by the names that `cnn-cuda bench --json` gives them."""

from __future__ import annotations

import re
from dataclasses import dataclass

PRECISIONS = ("fp16", "bf16", "tf32", "fp32")
HEAD = re.compile(r"(\w+) ([\d×]+)(?: to (\d+))?(?: k(\d+) s(\d+) p(\d+))?")


def number_after(word: str, parts: list[str], default: int) -> int:
    return next((int(part.removeprefix(f"{word} ")) for part in parts if part.startswith(f"{word} ")), default)


@dataclass(frozen=True)
class Site:
    """An operator with its shape. Sizes that it does not have are 0."""

    operator: str
    channels: int
    height: int
    width: int
    out_channels: int
    kernel: int
    stride: int
    padding: int
    groups: int
    dilation: int
    batch: int
    fused: frozenset[str]
    precision: str

    @classmethod
    def parse(cls, name: str) -> Site:
        """A site from its name, such as `conv2d_forward 64×56×56 to 64 k3 s1 p1, batch 128, with epilogue, fp16`."""
        head, *rest = name.split(", ")
        match = HEAD.fullmatch(head)
        if not match or not rest or rest[-1] not in PRECISIONS:
            raise ValueError(f"{name!r} is not the name of an operator with its shape and precision")
        operator, shape, *numbers = match.groups()
        channels, height, width = ([int(size) for size in shape.split("×")] + [1, 1])[:3]
        more = [number_after(word, rest, default) for word, default in (("groups", 1), ("dilation", 1), ("batch", 0))]
        fused = frozenset(what for part in rest if part.startswith("with ") for what in part.removeprefix("with ").split(" and "))
        return cls(operator, channels, height, width, *(int(text or 0) for text in numbers), *more, fused, rest[-1])

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels, self.height, self.width)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape after a convolution or pooling."""
        extent = self.dilation * (self.kernel - 1) + 1
        along = [(size + 2 * self.padding - extent) // self.stride + 1 for size in (self.height, self.width)]
        return (self.batch, self.out_channels or self.channels, *along)

    @property
    def window(self) -> tuple[list[int], list[int], list[int]]:
        """Stride, padding and dilation, as PyTorch's operators take them."""
        return [self.stride] * 2, [self.padding] * 2, [self.dilation] * 2
