"""A ladder of batch sizes with and without LARS on CIFAR-10, each at a tuned rate: does LARS help? No paper's table.

    lrbs search sweeps/you2017_ladder_cifar10.py --sampler grid --trials 48 --json    # tunes
    lrbs run sweeps/you2017_ladder_cifar10.py --gpus-per-run 0.25                     # compares

You et al. 2017 show LARS on ImageNet; its gain on CIFAR-10 is disputed. ResNet-20, 100 epochs, batches of 256 to 8192,
warm-up over the first twentieth, then polynomial decay of power 2; trust coefficient 0.001, ghost batches of 128,
weight decay 5e-4, momentum 0.9.

An optimizer is as good as its rate (Shallue et al. 2018, arXiv 1811.03600): each is tuned at each batch size, over six
rates a factor of 2 apart, by a tenth of the training examples that are set aside. Only then are the two compared, by
the test set and over other seeds. `LR` is what the first command found with `--scale 0.05 --model convnet`, the
settings of the results beside this file: at any other settings, tune again first.

Count convention: partial batches are kept, so that every image is seen.
Cost: 48 runs to tune and 8 policies x 3 seeds, of 100 epochs of 50000 images; a fast GPU takes minutes for each.
"""

from lrbs_core import Choice, Claim, Policy, RunSpec, warmup_polynomial

SOURCE = "after You, Gitman and Ginsburg 2017 (arXiv 1708.03888), on CIFAR-10"
CLAIMS = (
    Claim("LARS gains at a large batch", "sgd 4096", "test_accuracy", 0, relation="below", versus="lars 4096"),
    Claim("LARS gains at a large batch", "sgd 8192", "test_accuracy", 0, relation="below", versus="lars 8192"),
    Claim("LARS holds 8192 at 256's accuracy", "lars 8192", "test_accuracy", 0, tolerance=0.5, versus="lars 256"),
)
# The middle of each optimizer's grid, and its trust coefficient.
MIDDLE = {"sgd": (0.4, None), "lars": (16.0, 0.001)}
SPACE = {
    "optimizer": Choice("sgd", "lars"),
    "batch_size": Choice(256, 1024, 4096, 8192),
    "relative_lr": Choice(1 / 4, 1 / 2, 1, 2, 4, 8),
}
# Optimizer and batch size: the rate, relative to the middle, of the highest validation accuracy.
LR = {
    ("sgd", 256): 1, ("sgd", 1024): 1, ("sgd", 4096): 1, ("sgd", 8192): 1,
    ("lars", 256): 1, ("lars", 1024): 1, ("lars", 4096): 1, ("lars", 8192): 1,
}  # fmt: skip
# Those that tune are of seed 0.
SEEDS = (1, 2, 3)


def candidate(seed: int, *, optimizer: str, batch_size: int, relative_lr: float) -> RunSpec:
    middle, trust_coefficient = MIDDLE[optimizer]
    return RunSpec(
        label=f"{optimizer} {batch_size}",
        policy=Policy(warmup_polynomial(middle * relative_lr, 5, epochs=100, power=2), batch_size, momentum=0.9),
        dataset="cifar10", model="resnet20", optimizer=optimizer, trust_coefficient=trust_coefficient,
        weight_decay=5e-4, ghost_size=128, augmentation="flip_crop", normalization="channel", epochs=100,
        partial="keep", seed=seed,
    )  # fmt: skip


def runs() -> list[RunSpec]:
    return [
        candidate(seed, optimizer=optimizer, batch_size=batch_size, relative_lr=relative_lr)
        for (optimizer, batch_size), relative_lr in LR.items()
        for seed in SEEDS
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
