"""Figure 3b of Smith et al. 2018: the three schedules of Figure 1 with Nesterov momentum, WRN-16-4 on CIFAR-10.

    lrbs run sweeps/smith2018_fig3b_cifar10.py --gpus-per-run 1 --bf16

Nesterov momentum 0.9, lr 0.1. All else as in smith2018_fig1_cifar10.py. Expected: all three reach about 94.3 % (read
off Figure 3b, +-0.3).

Count convention: the last batch is carried over the epoch's edge, as for Figure 1 (80000 updates x 128 = 204.8
epochs).
Cost: 3 policies x 9 seeds, 10.24 million examples each; about 57 h a run on one CPU core, minutes on a large GPU.
"""

from lrbs_core import Accuracies, Policy, RunSpec, Steps

SOURCE = "Smith, Kindermans, Ying and Le 2018 (arXiv 1711.00489), Figure 3b"

baseline = Policy(lr=Steps(0.1, at=(60, 120, 160), factor=1 / 5), batch_size=128, momentum=0.9)
POLICIES = {
    "decaying lr": baseline,
    "hybrid": baseline.grow_batch(until=100),
    "increasing batch": baseline.grow_batch(),
}
PAPER = Accuracies(dict.fromkeys(POLICIES, 94.3), test_examples=10_000)
CLAIMS = (
    *PAPER.each("Figure 3b", tolerance=0.3),
    PAPER.difference("Figure 3b, curves overlap", "hybrid", "decaying lr", tolerance=0.3),
    PAPER.difference("Figure 3b, curves overlap", "increasing batch", "decaying lr", tolerance=0.3),
)


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=label,
            policy=policy,
            dataset="cifar10",
            model="wrn_16_4",
            optimizer="nesterov",
            weight_decay=5e-4,
            ghost_size=128,
            augmentation="flip_crop",
            normalization="channel",
            epochs=204.8,
            partial="carry",
            seed=seed,
        )
        for label, policy in POLICIES.items()
        for seed in range(9)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
