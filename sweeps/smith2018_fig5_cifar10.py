"""Figure 5 of Smith et al. 2018: four policies of equal lr/(B (1 - m)), WRN-16-4 on CIFAR-10.

    lrbs run sweeps/smith2018_fig5_cifar10.py --gpus-per-run 1 --bf16

Section 5.2: the batch is capped at 5120 where the lr starts higher; past the cap lr takes the rest, so (640, 0.5)
becomes (3200, 0.5), (5120, 0.16), (5120, 0.032). 'Increasing batch size' is called the same as in Figure 1, growing
to 16000, above that cap; its end point in the figure fits 16000, which is taken. Expected: 94.3, 94.4, 94.5 and 93.3
% in 80000, 29000, below 6500 and below 2500 updates. The trades keep lr/(B (1 - m)); the noise scale with N/B - 1 is 10
% lower at B 5120 and 32 % at 16000. Weight decay and augmentation: see smith2018_fig1_cifar10.py.

Count convention: a stream that carries the last batch over the epoch's edge meets all four counts that are stated
(80000, 28891, 6454, 2352); keeping the partial batch gives 78200, 29000, 6500, 2360 in 200 epochs and does not.
Cost: 4 policies x 9 seeds, 10.24 million examples each; about 57 h a run on one CPU core, minutes on a large GPU.
"""

from lrbs_core import Accuracies, Claim, Policy, RunSpec, Steps

SOURCE = "Smith, Kindermans, Ying and Le 2018 (arXiv 1711.00489), Figure 5"
PAPER = Accuracies(
    {"original": 94.3, "increasing batch": 94.4, "increased initial lr": 94.5, "increased momentum": 93.3}, 10_000
)
CLAIMS = (
    Claim("Section 5.2, about 80000", "original", "updates", 80_000, tolerance=500),
    Claim("Section 5.2, about 29000", "increasing batch", "updates", 29_000, tolerance=500),
    Claim("Section 5.2", "increased initial lr", "updates", 6500, relation="below"),
    Claim("Section 5.2", "increased momentum", "updates", 2500, relation="below"),
    *PAPER.each("Figure 5", tolerance=0.3),
    PAPER.difference("Figure 5, no loss", "increasing batch", "original", tolerance=0.3),
    PAPER.difference("Figure 5, no loss", "increased initial lr", "original", tolerance=0.3),
    PAPER.difference("Figure 5, momentum costs 1 %", "increased momentum", "original", tolerance=0.5),
)

baseline = Policy(lr=Steps(0.1, at=(60, 120, 160), factor=1 / 5), batch_size=128, momentum=0.9)
POLICIES = {
    "original": baseline,
    "increasing batch": baseline.grow_batch(),
    "increased initial lr": baseline.scale(5).grow_batch(max_batch_size=5120),
    "increased momentum": baseline.scale(5).raise_momentum(0.98).grow_batch(max_batch_size=5120),
}


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=label,
            policy=policy,
            dataset="cifar10",
            model="wrn_16_4",
            optimizer="sgd",
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
