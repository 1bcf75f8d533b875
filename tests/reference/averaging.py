"""Writes averaging.json: PyTorch's numbers for clipped gradients and averaged weights.

A linear layer without bias takes steps of SGD with Nesterov momentum and weight decay on given gradients, with
`clip_grad_norm_` before each step and `AveragedModel` with `get_ema_avg_fn` after it. A second average has a smaller
decay at first, as in the packages torch-ema and timm: after n updates at most (1 + n) / (10 + n).

    python tests/reference/averaging.py
"""

import json
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

LENGTH, STEPS, CLIP, DECAY = 7, 6, 1.5, 0.75
WARM_DECAY = 0.3  # (1 + n) / (10 + n) exceeds it from n = 3 on


def warm_average(average, weight, n):
    decay = min(WARM_DECAY, (1 + float(n)) / (10 + float(n)))
    return decay * average + (1 - decay) * weight


def main():
    torch.manual_seed(0)
    model = torch.nn.Linear(LENGTH, 1, bias=False)
    initial = model.weight.detach().clone()
    average = AveragedModel(model, avg_fn=get_ema_avg_fn(DECAY))
    warm = AveragedModel(model, avg_fn=warm_average)
    sgd = torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.5, nesterov=True, weight_decay=0.125)
    steps = []
    for step in range(STEPS):
        # Every third gradient is small enough not to be clipped.
        gradient = torch.randn(1, LENGTH) * (0.1 if step % 3 == 2 else 2.0)
        model.weight.grad = gradient.clone()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        sgd.step()
        average.update_parameters(model)
        warm.update_parameters(model)
        values = lambda tensor: tensor.detach().flatten().tolist()
        steps.append({"gradient": values(gradient), "norm": norm.item(), "weight": values(model.weight),
                      "average": values(average.module.weight), "warm_average": values(warm.module.weight)})
    settings = {"torch": torch.__version__, "clip": CLIP, "decay": DECAY, "warm_decay": WARM_DECAY, "lr": 0.25,
                "momentum": 0.5, "weight_decay": 0.125}
    text = json.dumps({"settings": settings, "initial": initial.flatten().tolist(), "steps": steps}, indent=1)
    Path(__file__).with_name("averaging.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
