"""Writes schedules.json: the learning rates of PyTorch's schedulers over short runs.

    python tests/reference/schedules.py
"""

import json
from pathlib import Path

import torch
from torch.optim import lr_scheduler

RATE, STEPS_PER_EPOCH, EPOCHS = 0.5, 7, 6
TOTAL = STEPS_PER_EPOCH * EPOCHS


def rates(make) -> list[float]:
    """The learning rate of every step, with the scheduler stepped after each."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    scheduler, seen = make(optimiser), []
    for _ in range(TOTAL):
        seen.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return seen


def one_cycle(rise: float):
    return lambda o: lr_scheduler.OneCycleLR(o, max_lr=RATE, total_steps=TOTAL, pct_start=rise, anneal_strategy="linear")


schedules = {
    "constant": lambda o: lr_scheduler.ConstantLR(o, factor=1.0),
    "step:2:0.1": lambda o: lr_scheduler.StepLR(o, step_size=2 * STEPS_PER_EPOCH, gamma=0.1),
    "linear": lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=TOTAL),
    "linear:0.2": lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=TOTAL),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=TOTAL),
    "one-cycle": one_cycle(0.3),
    "one-cycle:0.5": one_cycle(0.5),
}
result = {"rate": RATE, "steps_per_epoch": STEPS_PER_EPOCH, "epochs": EPOCHS}
result["rates"] = {name: rates(make) for name, make in schedules.items()}
(Path(__file__).parent / "schedules.json").write_text(json.dumps(result, indent=1) + "\n")
