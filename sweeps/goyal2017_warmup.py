"""Goyal et al. 2017: no, constant and gradual warm-up, ResNet-50 on ImageNet at B 8192.

    lrbs run sweeps/goyal2017_warmup.py --data-dir DIR --gpus-per-run 1 --bf16 --micro-batch 256 --workers 16

lr 3.2 from the start; 0.1 for 5 epochs and then 3.2; or from 0.1 to 3.2 by equal increments an update over 5 epochs.
All else as in goyal2017_batch_sizes.py. Expected top-1 error: 24.84, 25.88 and 23.74 %; claims are in accuracy.

Count convention: none is stated; partial batches are kept, so that every image is seen.
Cost: 3 policies x 6 seeds of 90 epochs of 1281167 images of 224 x 224, in DIR/imagenet/{train,val}/CLASS/IMAGE: a
cluster.
"""

from lrbs_core import Accuracies, Constant, Policy, RunSpec, Schedule, Stages, Steps, Warmup

SOURCE = "Goyal et al. 2017 (arXiv 1706.02677), warm-up at B 8192"
PAPER = Accuracies({"no warm-up": 75.16, "constant warm-up": 74.12, "gradual warm-up": 76.26}, test_examples=50_000)
CLAIMS = (
    *PAPER.each("Top-1 error", tolerance=0.3),
    PAPER.below("Gradual is best", "no warm-up", "gradual warm-up"),
    PAPER.below("Gradual is best", "constant warm-up", "gradual warm-up"),
)

POLICIES: dict[str, Schedule] = {
    "no warm-up": Steps(3.2, at=(30, 60, 80), factor=1 / 10),
    "constant warm-up": Stages(((5, Constant(0.1)), (85, Steps(3.2, at=(25, 55, 75), factor=1 / 10)))),
    "gradual warm-up": Warmup(0.1, epochs=5, then=Steps(3.2, at=(30, 60, 80), factor=1 / 10)),
}


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=label,
            policy=Policy(lr=lr, batch_size=8192, momentum=0.9),
            dataset="imagenet",
            model="imagenet_resnet50",
            optimizer="nesterov",
            weight_decay=1e-4,
            decay_batch_norm=False,
            ghost_size=32,
            augmentation="resized_crop",
            image_size=224,
            normalization="imagenet",
            epochs=90,
            partial="keep",
            seed=seed,
        )
        for label, lr in POLICIES.items()
        for seed in range(6)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
