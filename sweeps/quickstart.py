"""Four policies of equal lr/(B (1 - m)) on the digits: a laptop's view of Smith et al. 2018.

    lrbs run sweeps/quickstart.py        (or: python sweeps/quickstart.py)
    lrbs search sweeps/quickstart.py     cycles with a growing batch, of which the best are sought

Decaying the learning rate, growing the batch in its stead, doing so half-way, and starting with lr and batch four times
as large. Expect about 98 % test accuracy from all four, the last in a seventh of the first one's updates. 12 runs of
seconds each on one CPU core. Partial batches are kept: of 1437 examples, dropping them would waste up to a tenth.
"""

from lrbs_core import Choice, Policy, Range, RunSpec, Steps, Triangular

SOURCE = "after Smith, Kindermans, Ying and Le 2018 (arXiv 1711.00489), Figures 1 and 5, on scikit-learn's digits"
CLAIMS = ()

baseline = Policy(lr=Steps(0.1, at=(8, 14, 18), factor=1 / 3), batch_size=8, momentum=0.9)
POLICIES = {
    "decaying lr": baseline,
    "hybrid": baseline.grow_batch(until=10),
    "increasing batch": baseline.grow_batch(),
    "increased lr + batch": baseline.scale(4).grow_batch(max_batch_size=144),  # a tenth of the examples
}


# What `lrbs search` chooses: half a cycle in epochs, the highest lr, momentum, and the batch's growth half-way.
SPACE = {
    "stepsize": Choice(1, 2, 5),
    "high": Range(0.01, 1, log=True),
    "momentum": Range(0.5, 0.95),
    "growth": Range(1, 8),
}


def spec(label: str, policy: Policy, seed: int) -> RunSpec:
    return RunSpec(
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


def runs() -> list[RunSpec]:
    return [spec(label, policy, seed) for label, policy in POLICIES.items() for seed in range(3)]


def candidate(seed: int, *, stepsize: float, high: float, momentum: float, growth: float) -> RunSpec:
    lr = Triangular(0.1, 1, stepsize).scaled(high)
    return spec("cycles", Policy(lr, Steps(16, at=(10,), factor=growth), momentum), seed)


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
