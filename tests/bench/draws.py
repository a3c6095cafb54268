"""Dropout by place beside torch's, forward and backward: the layer alone, and AlexNet with its two.

Both are timed in turns on the same input, so that what else the machine does falls on both.

    python tests/bench/draws.py [--rounds 25] [--threads 1] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from lrbs_core import Machine, models
from lrbs_core.devices import describe
from lrbs_core.draws import use_draws

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dropout [128, 9216]": (lambda: nn.Sequential(nn.Dropout(0.5)), (128, 9216)),
    "alexnet [32, 3, 224, 224]": (lambda: models.build("alexnet", 1000, 3, 224, None), (32, 3, 224, 224)),
}


def timed(model: nn.Module, x: torch.Tensor, before: Callable[[], None]) -> float:
    """Milliseconds of a forward and backward pass."""
    if x.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    before()
    model(x).sum().backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(f"{describe(Machine(device=options.device, threads=options.threads))}, n = {options.rounds} rounds")
    print(f"{'':26} {'torch ms':>9} {'ours ms':>9} {'ratio: median':>14} {'min':>6} {'max':>6}")
    for name, (make, shape) in CASES.items():
        x = torch.randn(shape, device=device, requires_grad=True)
        theirs, ours = make().to(device), make().to(device)
        draws, pairs = use_draws(ours, 0, device), []
        for number in range(options.rounds + 2):
            place = shape[0] * number
            pair = timed(theirs, x, lambda: None), timed(ours, x, partial(draws.at, place, shape[0], place))
            if number >= 2:  # the first two warm up
                pairs.append(pair)
        ratios = sorted(after / before for before, after in pairs)
        medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
        median = statistics.median(ratios)
        print(f"{name:26} {medians[0]:9.2f} {medians[1]:9.2f} {median:14.3f} {ratios[0]:6.3f} {ratios[-1]:6.3f}")


if __name__ == "__main__":
    main()
