"""Figure 4b of Smith et al. 2018: the three schedules of Figure 1 with Adam, WRN-16-4 on CIFAR-10.

    lrbs run sweeps/smith2018_fig4b_cifar10.py --gpus-per-run 1 --bf16

Adam with betas 0.9 and 0.999, the lr schedule of Figure 1 divided by 100; weight decay is an L2 term, as for SGD. All
else as in smith2018_fig1_cifar10.py. Expected: all three reach about 93 % (read off Figure 4b, +-0.3).

Count convention: the last batch is carried over the epoch's edge, as for Figure 1 (80000 updates x 128 = 204.8
epochs).
Cost: 3 policies x 11 seeds, 10.24 million examples each; about 57 h a run on one CPU core, minutes on a large GPU.
"""

from lrbs_core import Accuracies, Policy, RunSpec, Steps

SOURCE = "Smith, Kindermans, Ying and Le 2018 (arXiv 1711.00489), Figure 4b"

baseline = Policy(lr=Steps(0.001, at=(60, 120, 160), factor=1 / 5), batch_size=128, momentum=0.9)
POLICIES = {
    "decaying lr": baseline,
    "hybrid": baseline.grow_batch(until=100),
    "increasing batch": baseline.grow_batch(),
}
PAPER = Accuracies(dict.fromkeys(POLICIES, 93), test_examples=10_000)
CLAIMS = (
    *PAPER.each("Figure 4b", tolerance=0.3),
    PAPER.difference("Figure 4b, curves overlap", "hybrid", "decaying lr", tolerance=0.3),
    PAPER.difference("Figure 4b, curves overlap", "increasing batch", "decaying lr", tolerance=0.3),
)


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=label,
            policy=policy,
            dataset="cifar10",
            model="wrn_16_4",
            optimizer="adam",
            weight_decay=5e-4,
            ghost_size=128,
            augmentation="flip_crop",
            normalization="channel",
            epochs=204.8,
            partial="carry",
            seed=seed,
        )
        for label, policy in POLICIES.items()
        for seed in range(11)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
