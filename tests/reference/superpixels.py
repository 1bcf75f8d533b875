"""Writes superpixels.safetensors: small images, and their superpixels by scikit-image's `slic` with its defaults.

`NAME.image` is [height, width, channels] in uint8, `NAME.COUNT` the labels from 0 for so many superpixels. Gray images are
given to `slic` as colour images.

    python tests/reference/superpixels.py
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from skimage import color, data, segmentation, transform


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return (transform.resize(image, (height, width), anti_aliasing=True) * 255).round().astype(np.uint8)


def regions(height: int, width: int, count: int, noise: float) -> np.ndarray:
    """Regions of one colour each around random points, with noise."""
    rng = np.random.default_rng(7)
    points, colours = rng.uniform(size=(count, 2)) * [height, width], rng.integers(0, 256, (count, 3))
    rows, columns = np.mgrid[:height, :width]
    distances = (rows[..., None] - points[:, 0]) ** 2 + (columns[..., None] - points[:, 1]) ** 2
    image = colours[distances.argmin(-1)] + rng.normal(size=(height, width, 3)) * noise
    return image.clip(0, 255).round().astype(np.uint8)


def main() -> None:
    astronaut = data.astronaut()[:300, 80:380]
    images = {
        "face": (resized(astronaut, 64, 64), [40, 100, 250]),
        "oblong": (resized(astronaut, 32, 48), [12, 50]),
        "gray": (resized(data.camera(), 28, 28)[..., None], [49, 100]),
        "regions": (regions(40, 40, 9, 6.0), [16, 64]),
        "strip": (regions(3, 50, 5, 2.0), [7]),
        "tower": (regions(50, 4, 5, 2.0), [6]),
        "pale": (regions(24, 24, 5, 3.0) // 8 + 90, [30]),
        "tiny": (regions(5, 5, 3, 1.0), [25]),
    }
    tensors = {}
    for name, (image, counts) in images.items():
        tensors[f"{name}.image"] = np.ascontiguousarray(image)
        colour = color.gray2rgb(image[..., 0]) if image.shape[2] == 1 else image
        for count in counts:
            labels = segmentation.slic(colour, n_segments=count, start_label=0)
            tensors[f"{name}.{count}"] = np.ascontiguousarray(labels.astype(np.int32))
    save_file(tensors, Path(__file__).with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
