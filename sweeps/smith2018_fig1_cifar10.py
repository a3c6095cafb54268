"""Figures 1, 2 and 3a of Smith et al. 2018: decaying the learning rate or increasing the batch, WRN-16-4 on CIFAR-10.

    lrbs run sweeps/smith2018_fig1_cifar10.py --gpus-per-run 1 --bf16

Settings of section 5.1: SGD with momentum 0.9, lr 0.1, B 128, ghost batches of 128, three steps of factor 5 at epochs
60, 120, 160 (read off Figure 1, as in WRN's own code). Not stated there and taken from WRN's code: weight decay 5e-4,
flips and reflecting crops padded by 4. The trades keep lr/(B (1 - m)); the noise scale, with N/B - 1, ends 32 % lower
at B 16000 (`grow_batch(exact=50_000)` would end at 12145). Expected: all three reach 94.2-94.5 % (read off Figure 3a,
+-0.3) with one training loss (Figure 2; taken as within 0.01 nats. Its deviation between seeds is the larger of two in
the .csv beside this file, at a loss of 0.75, where the paper's is far lower).

Count convention: the paper's curves end at 204.8 epochs = 80000 x 128 / 50000, and a stream that carries the last batch
over the epoch's edge meets every count that it states (Figure 5: about 80000, about 29000, below 6500, below 2500).
Cost: 3 policies x 9 seeds, 10.24 million examples each; about 57 h a run on one CPU core, minutes on a large GPU.
"""

from lrbs_core import Accuracies, Claim, Policy, RunSpec, Steps

SOURCE = "Smith, Kindermans, Ying and Le 2018 (arXiv 1711.00489), Figures 1 to 3a"
PAPER = Accuracies(dict.fromkeys(("decaying lr", "hybrid", "increasing batch"), 94.35), test_examples=10_000)
CLAIMS = (
    Claim("Figure 5, 'original'", "decaying lr", "updates", 80_000, tolerance=500),
    Claim("Figure 5, 'increasing batch size'", "increasing batch", "updates", 29_000, tolerance=500),
    *PAPER.each("Figure 3a", tolerance=0.45),
    PAPER.difference("Figure 3a, curves overlap", "hybrid", "decaying lr", tolerance=0.3),
    PAPER.difference("Figure 3a, curves overlap", "increasing batch", "decaying lr", tolerance=0.3),
    *(
        Claim("Figure 2, curves overlap", label, "train_loss", 0, 0.01, versus="decaying lr", deviation=0.0031)
        for label in ("hybrid", "increasing batch")
    ),
)

baseline = Policy(lr=Steps(0.1, at=(60, 120, 160), factor=1 / 5), batch_size=128, momentum=0.9)
POLICIES = {
    "decaying lr": baseline,
    "hybrid": baseline.grow_batch(until=100),
    "increasing batch": baseline.grow_batch(),
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
