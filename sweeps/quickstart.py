"""Four policies of equal noise scale on the digits: a laptop's view of Smith et al. 2018.

    lrbs run sweeps/quickstart.py        (or: python sweeps/quickstart.py)

Decaying the learning rate, growing the batch in its stead, doing so half-way, and starting with lr and batch four times
as large. Expect about 98 % test accuracy from all four, the last in a seventh of the first one's updates. 12 runs of
seconds each on one CPU core. Partial batches are kept: of 1437 examples, dropping them would waste up to a tenth.
"""

from lrbs_core import Policy, RunSpec, Steps

SOURCE = "after Smith, Kindermans, Ying and Le 2018 (arXiv 1711.00489), Figures 1 and 5, on scikit-learn's digits"
CLAIMS = ()

baseline = Policy(lr=Steps(0.1, at=(8, 14, 18), factor=1 / 3), batch_size=8, momentum=0.9)
POLICIES = {
    "decaying lr": baseline,
    "hybrid": baseline.grow_batch(until=10),
    "increasing batch": baseline.grow_batch(),
    "increased lr + batch": baseline.scale(4).grow_batch(max_batch_size=144),  # a tenth of the examples
}


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=label,
            policy=policy,
            dataset="digits",
            model="convnet",
            optimizer="sgd",
            weight_decay=5e-4,
            ghost_size=8,
            augmentation="none",
            normalization="channel",
            epochs=20,
            partial="keep",
            seed=seed,
        )
        for label, policy in POLICIES.items()
        for seed in range(3)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
