"""What measuring the gradient noise scale costs: time of an update with it and without, an eighth more being due.

Of batches of one ghost batch, where every eighth update has as many examples again to measure by, and of eight, where
each has. Both are timed in turns, so that what else the machine does falls on both.

    python tests/bench/noise.py [--rounds 9] [--device cpu]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from dataclasses import replace

import torch
from throughput import made_data

from lrbs_core import Machine, Policy, RunSpec
from lrbs_core.devices import describe, device_of
from lrbs_core.training import train

PART = 64
NETS = {"caffe_full": (None, "mean_image"), "resnet8": (PART, "channel"), "wrn_16_4": (PART, "channel")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--examples", type=int, default=1024, help="of an epoch, in multiples of 512")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    options = parser.parse_args()
    plain = Machine(device=options.device, micro_batch=PART)
    examples = options.examples
    data = made_data(examples, device_of(plain))
    print(f"{describe(plain)}, n = {options.rounds} rounds")
    print(f"{'net':12} {'B':>8} {'plain ms':>9} {'measured ms':>12} {'ratio: median':>14} {'min':>6} {'max':>6}")
    for net, parts in itertools.product(options.nets, (1, 8)):
        ghost_size, normalization = NETS[net]
        spec = RunSpec(
            label=net, policy=Policy(0.001, parts * PART, 0.9), dataset="imagefolder:made", examples=examples,
            model=net, optimizer="sgd", weight_decay=5e-4, ghost_size=ghost_size, augmentation="flip_crop",
            normalization=normalization, epochs=2, partial="keep", seed=0,
        )  # fmt: skip
        pairs = []
        for _ in range(options.rounds):
            # The first epoch warms up; the second row times the second epoch.
            speeds = [
                list(train(spec, machine=replace(plain, measure_noise=on), data=data))[1]["examples_per_second"]
                for on in (False, True)
            ]
            pairs.append([1000 * parts * PART / speed for speed in speeds])
        ratios = sorted(measured / without for without, measured in pairs)
        medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
        print(
            f"{net:12} {f'{parts} x {PART}':>8} {medians[0]:9.1f} {medians[1]:12.1f} {statistics.median(ratios):14.3f} "
            f"{ratios[0]:6.3f} {ratios[-1]:6.3f}"
        )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
