"""How much of bare compute the training loop reaches: examples a second of `train` over those of a bare loop.

The bare loop is forward, backward and SGD update on one batch that lies in memory, normalised, in channels_last.
`train` also draws the order, gathers, crops and flips, counts loss and accuracy, and sets the policy's lr. Both are
timed in turns, so that what else the machine does falls on both.

    python tests/bench/throughput.py [--rounds 5] [--batch-size 128] [--device cpu]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time

import numpy as np
import torch
from torch.nn import functional

from lrbs_core import Machine, Policy, RunSpec, models
from lrbs_core.data import Dataset, Stream, to_device
from lrbs_core.decoding import Arrays
from lrbs_core.devices import device_of
from lrbs_core.training import train

NETS = {"caffe_quick": (None, "mean_image"), "caffe_full": (None, "mean_image"), "resnet8": (128, "channel")}


def made_data(examples: int, device: torch.device) -> Dataset:
    """Random images of CIFAR's size."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (examples + 256, 32, 32, 3), dtype=np.uint8)
    labels = draw.integers(0, 10, examples + 256)
    split = Arrays(pixels[:examples], labels[:examples], pixels[examples:], labels[examples:], tuple("0123456789"))
    return to_device(split, device)


def bare(spec: RunSpec, data: Dataset, device: torch.device, updates: int) -> float:
    """Examples a second of forward, backward, update on a fixed batch."""
    model = models.build(spec.model, data.classes, data.channels, data.image_size, spec.ghost_size)
    model.to(device=device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4, fused=True)
    size = spec.policy(0.0).batch_size
    images, labels = Stream(data, 0, "none", spec.normalization).batch(0, size)

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    for _ in range(3):
        update()
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(updates):
        update()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return updates * size / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    machine = Machine(device=options.device, threads=1)
    device = device_of(machine)
    torch.set_num_threads(1)
    examples = options.updates * options.batch_size
    data = made_data(examples, device)
    print(
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} CPUs, 1 thread, {device}, "
        f"B = {options.batch_size}, n = {options.rounds} rounds"
    )
    print(f"{'net':12} {'bare/s':>8} {'train/s':>8} {'ratio: median':>14} {'min':>6} {'max':>6}")
    for net, (ghost_size, normalization) in NETS.items():
        spec = RunSpec(
            label=net, policy=Policy(0.001, options.batch_size, 0.9), dataset="imagefolder:made", examples=examples,
            model=net, optimizer="sgd", weight_decay=5e-4, ghost_size=ghost_size, augmentation="flip_crop",
            normalization=normalization, epochs=2, partial="keep", seed=0,
        )  # fmt: skip
        pairs = []
        for _ in range(options.rounds):
            # The first epoch warms up; the second row times the second epoch.
            pairs.append(
                (
                    bare(spec, data, device, options.updates),
                    list(train(spec, machine=machine, data=data))[1]["examples_per_second"],
                )
            )
        ratios = sorted(ours / theirs for theirs, ours in pairs)
        medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
        print(
            f"{net:12} {medians[0]:8.0f} {medians[1]:8.0f} {statistics.median(ratios):14.3f} "
            f"{ratios[0]:6.3f} {ratios[-1]:6.3f}"
        )


if __name__ == "__main__":
    main()
