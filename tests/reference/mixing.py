"""Writes mixing.json: torchvision's mixup and cutmix, and PyTorch's losses of mixed, smoothed and weighted labels.

`boxes`: the rectangles and weights of `CutMix` for given λ and random pixels. `images`: a batch, and what `MixUp` and
`CutMix` make of it. `losses`: `CrossEntropyLoss` with its gradient in float64, of labels as they are or mixed, with and
without label smoothing and weights of classes.

    python tests/reference/mixing.py
"""

import json
from pathlib import Path
from unittest.mock import patch

import torch
import torchvision
from torch.nn import CrossEntropyLoss
from torchvision.transforms.v2 import CutMix, MixUp

BATCH, CHANNELS, HEIGHT, WIDTH, CLASSES = 5, 3, 4, 6, 7


def fixed(transform, lam, pixel=None):
    """The transform with this λ and, for cutmix, the column and row of its rectangle's centre."""
    values = iter(torch.tensor([value]) for value in pixel or ())
    transform._dist = type("Fixed", (), {"sample": lambda self, shape: torch.tensor([lam])})()
    return patch("torch.randint", lambda *_, **__: next(values))


def boxes():
    for height, width, lam, column, row in [
        (4, 6, 0.25, 3, 2), (4, 6, 0.0, 0, 0), (4, 6, 1.0, 5, 3), (32, 32, 0.5, 31, 0), (32, 32, 0.9, 16, 16),
        (28, 28, 0.1, 27, 27), (9, 17, 0.7, 1, 8), (5, 5, 0.3, 2, 2), (224, 224, 0.123, 100, 200),
    ]:
        transform = CutMix(num_classes=CLASSES)
        with fixed(transform, lam, (column, row)):
            params = transform.make_params([torch.zeros(2, 3, height, width)])
        yield {"height": height, "width": width, "lambda": lam, "column": column, "row": row,
               "box": params["box"], "adjusted": params["lam_adjusted"]}


def images(batch, labels):
    for name, transform, lam, pixel in [
        ("mixup", MixUp(num_classes=CLASSES), 0.3, None), ("mixup", MixUp(num_classes=CLASSES), 1.0, None),
        ("cutmix", CutMix(num_classes=CLASSES), 0.4, (4, 1)), ("cutmix", CutMix(num_classes=CLASSES), 1.0, (0, 0)),
    ]:
        for count in (BATCH, 2, 1):
            with fixed(transform, lam, pixel):
                mixed, _ = transform(batch[:count], labels[:count])
            yield {"name": name, "lambda": lam, "pixel": pixel, "count": count, "mixed": mixed.flatten().tolist()}


def losses(logits, labels, weights):
    for lam in (None, 0.3, 0.75, 0.0, 1.0):
        for smoothing in (0.0, 0.1):
            for weighted in (False, True):
                target = labels
                if lam is not None:
                    target = MixUp(num_classes=CLASSES)._mixup_label(labels, lam=lam).double()
                leaf = logits.clone().requires_grad_()
                loss = CrossEntropyLoss(weight=weights if weighted else None, label_smoothing=smoothing)(leaf, target)
                loss.backward()
                yield {"lambda": lam, "smoothing": smoothing, "weighted": weighted, "loss": loss.item(),
                       "gradient": leaf.grad.flatten().tolist()}


def main():
    torch.manual_seed(0)
    batch = torch.randn(BATCH, CHANNELS, HEIGHT, WIDTH)
    logits = (4 * torch.randn(BATCH, CLASSES)).double()
    labels = torch.tensor([2, 2, 0, 6, 1])  # the second has the label of its partner
    weights = torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0, 1.5, 0.25]).double()
    numbers = {
        "torch": torch.__version__, "torchvision": torchvision.__version__,
        "shape": [CHANNELS, HEIGHT, WIDTH], "batch": batch.flatten().tolist(), "labels": labels.tolist(),
        "logits": logits.flatten().tolist(), "weights": weights.tolist(), "boxes": list(boxes()),
        "images": list(images(batch, labels)), "losses": list(losses(logits, labels, weights)),
    }
    Path(__file__).with_name("mixing.json").write_text(json.dumps(numbers) + "\n")


if __name__ == "__main__":
    main()
