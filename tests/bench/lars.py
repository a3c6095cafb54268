"""Milliseconds an update of LARS on a ResNet-50's 25.6 million weights: ours beside timm's and torch's fused SGD.

All are timed in turns on tensors of their own, so that what else the machine does falls on all of them alike; a ratio
is of two timings of one round. Fused SGD reads and writes what any of them must, and takes no norms: it is the bound.

    python tests/bench/lars.py [--rounds 25] [--threads 1] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
import torchvision
from timm.optim import Lars

from lrbs_core import Machine
from lrbs_core.devices import describe
from lrbs_core.lars import LARS

LR, MOMENTUM, WEIGHT_DECAY, TRUST = 0.01, 0.9, 5e-4, 0.001
WARM_UP_ROUNDS = 3


def made_parameters(device: torch.device) -> list[torch.nn.Parameter]:
    """Fresh weights of a ResNet-50 with random gradients."""
    parameters = [torch.nn.Parameter(p.detach().to(device)) for p in torchvision.models.resnet50().parameters()]
    for parameter in parameters:
        parameter.grad = 1e-3 * torch.randn_like(parameter)
    return parameters


def timm_lars(parameters: list[torch.nn.Parameter], foreach: bool | None) -> Lars:
    return Lars(parameters, LR, MOMENTUM, weight_decay=WEIGHT_DECAY, trust_coeff=TRUST, foreach=foreach)


OPTIMIZERS: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "timm, default": lambda parameters: timm_lars(parameters, None),
    "timm, foreach=True": lambda parameters: timm_lars(parameters, True),
    "timm, foreach=False": lambda parameters: timm_lars(parameters, False),
    "ours": lambda parameters: LARS(parameters, LR, MOMENTUM, WEIGHT_DECAY, TRUST),
    "torch SGD, fused": lambda parameters: torch.optim.SGD(
        parameters, LR, MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True
    ),
}


def timed(optimizer: torch.optim.Optimizer, device: torch.device) -> float:
    """Milliseconds of one update."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):8.2f} {min(values):8.2f} {max(values):8.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    optimizers = {name: make(made_parameters(device)) for name, make in OPTIMIZERS.items()}
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for number in range(WARM_UP_ROUNDS + options.rounds):
        for name, optimizer in optimizers.items():
            milliseconds = timed(optimizer, device)
            if number >= WARM_UP_ROUNDS:
                times[name].append(milliseconds)

    machine = Machine(device=options.device, threads=options.threads)
    print(f"{describe(machine)}, timm {timm.__version__}, {options.rounds} rounds")
    print(f"{'ms an update':28} {'median':>8} {'min':>8} {'max':>8}")
    for name, values in times.items():
        print(f"{name:28} {spread(values)}")
    best = min((name for name in times if name.startswith("timm")), key=lambda name: statistics.median(times[name]))
    print(f"{'ratio':28} {'median':>8} {'min':>8} {'max':>8}")
    for above, below in dict.fromkeys((("timm, default", "ours"), (best, "ours"), ("ours", "torch SGD, fused"))):
        ratios = [first / second for first, second in zip(times[above], times[below], strict=True)]
        print(f"{f'{above} / {below}':28} {spread(ratios)}")


if __name__ == "__main__":
    main()
