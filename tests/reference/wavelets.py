"""Writes wavelets.json: Morlet wavelets sampled on small kernels, scaled to the variance of PyTorch's initialisation.

The formula is that of Bruna and Mallat (2013), in complex numbers, with the parameters of Kymatio's `filter_bank`.

    python tests/reference/wavelets.py
"""

import json
from pathlib import Path

import numpy as np


def morlet(kernel: int, angle: float, scale: int) -> np.ndarray:
    """A complex wavelet [kernel, kernel] that sums to zero."""
    rows, columns = np.mgrid[:kernel, :kernel] - (kernel - 1) / 2
    direction = columns * np.cos(angle) + rows * np.sin(angle)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    shape = rotation.T @ np.diag([1.0, 0.25]) @ rotation
    positions = np.stack([columns, rows], axis=-1)
    sigma = 0.8 * 2**scale
    envelope = np.exp(-np.einsum("yxi,ij,yxj->yx", positions, shape, positions) / (2 * sigma**2))
    wave = np.exp(1j * 3 * np.pi / 4 / 2**scale * direction)
    return envelope * (wave - (envelope * wave).sum() / envelope.sum())


def main() -> None:
    cases = []
    for kernel, scales, orientations, channels in [(3, 1, 8, 1), (5, 1, 3, 1), (5, 2, 8, 3), (7, 2, 16, 3), (11, 3, 11, 3)]:
        filters = []
        for scale in range(scales):
            waves = [morlet(kernel, np.pi * i / orientations, scale) for i in range(orientations)]
            for part in [np.real, np.imag]:
                for wave in map(part, waves):
                    filters.append(wave / np.sqrt((wave**2).sum() * 3 * channels))
        cases.append({"kernel": kernel, "channels": channels, "filters": [f.ravel().round(9).tolist() for f in filters]})
    Path(__file__).with_suffix(".json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main()
