"""L. N. Smith and Topin 2017, super-convergence: ResNet-56 on CIFAR-10 in an eighth of the updates.

    lrbs run sweeps/smith2017_super_convergence_cifar10.py --gpus-per-run 1 --bf16

B 1000. One cycle of lr from 0.1 to 3.0 and back, stepsize 5000, in 10000 updates, against a piecewise constant rate
of 0.35 in 80000. Expected: 92.44 and 90.32 % (the authors' logs). Taken, as not stated: the drops of the piecewise
rate, a tenth at 50 and 75 % of the training; momentum 0.9, weight decay 1e-4, flips and crops, ghost batches of 125.

Count convention: none is needed, B divides N. Cost: 2 policies x 5 seeds, 10 and 80 million images; hours on a large
GPU.
"""

from lrbs_core import Accuracies, Claim, Policy, RunSpec, Schedule, Steps, Triangular, to_epochs

SOURCE = "L. N. Smith and Topin 2017 (arXiv 1708.07120)"


def epochs(updates: int) -> float:
    return to_epochs(updates, batch_size=1000, examples=50_000)


# Label: lr, updates, test accuracy.
POLICIES: dict[str, tuple[Schedule, int, float]] = {
    "piecewise": (Steps(0.35, at=(epochs(40_000), epochs(60_000)), factor=0.1), 80_000, 90.32),
    "one cycle": (Triangular(0.1, 3.0, stepsize=epochs(5000)), 10_000, 92.44),
}
PAPER = Accuracies({label: value for label, (_, _, value) in POLICIES.items()}, test_examples=10_000)
CLAIMS = (
    *(Claim("Logs", label, "updates", updates) for label, (_, updates, _) in POLICIES.items()),
    *PAPER.each("Logs", tolerance=0.5),
    PAPER.below("Super-convergence gains", "piecewise", "one cycle"),
)


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=label,
            policy=Policy(lr, batch_size=1000, momentum=0.9),
            dataset="cifar10",
            model="resnet56",
            optimizer="sgd",
            weight_decay=1e-4,
            ghost_size=125,
            augmentation="flip_crop",
            normalization="channel",
            epochs=epochs(updates),
            partial="keep",
            seed=seed,
        )
        for label, (lr, updates, _) in POLICIES.items()
        for seed in range(5)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
