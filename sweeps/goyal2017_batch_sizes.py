"""Goyal et al. 2017: ResNet-50 on ImageNet at batch sizes 256 to 65536, lr in proportion.

    lrbs run sweeps/goyal2017_batch_sizes.py --data-dir DIR --gpus-per-run 1 --bf16 --micro-batch 256 --workers 16

lr 0.1 at B 256 and in proportion above, reached from 0.1 by equal increments an update over 5 epochs, divided by 10
at epochs 30, 60, 80 of 90; Nesterov momentum 0.9; weight decay 1e-4, none on batch norm; the last scale of each
residual block 0 at first; batch norm over 32 images. Expected top-1 error: 23.60 +- 0.12, 23.53, 23.56, 23.74 +-
0.09, 24.79, 27.55, 33.96 % (at 256, 1k, 4k, 8k, 16k, 32k, 64k); claims are in accuracy, within 0.3, about twice the
deviation between seeds, as one run is known (0.4 at 64k).

Count convention: none is stated; partial batches are kept, so that every image is seen.
Cost: 7 policies x 6 seeds of 90 epochs of 1281167 images of 224 x 224, in DIR/imagenet/{train,val}/CLASS/IMAGE: a
cluster.
"""

from lrbs_core import Accuracies, Claim, Policy, RunSpec, Schedule, Steps, Warmup

SOURCE = "Goyal et al. 2017 (arXiv 1706.02677), top-1 error by batch size"
ERRORS = {256: 23.60, 1024: 23.53, 4096: 23.56, 8192: 23.74, 16_384: 24.79, 32_768: 27.55, 65_536: 33.96}
PAPER = Accuracies({f"{size}": round(100 - error, 2) for size, error in ERRORS.items()}, test_examples=50_000)
CLAIMS = (
    *PAPER.each("Top-1 error", 0.3, [f"{size}" for size in ERRORS if size < 65_536]),
    *PAPER.each("Top-1 error", 0.4, ["65536"]),
    # Of the paper's own 0.12 and 0.09 between seeds.
    Claim("Up to 8192 as good as 256", "8192", "test_accuracy", -0.14, tolerance=0.3, versus="256", deviation=0.15),
)


def lr(batch_size: int) -> Schedule:
    steps = Steps(0.1 * batch_size / 256, at=(30, 60, 80), factor=1 / 10)
    return steps if batch_size == 256 else Warmup(0.1, epochs=5, then=steps)


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=f"{batch_size}",
            policy=Policy(lr=lr(batch_size), batch_size=batch_size, momentum=0.9),
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
        for batch_size in ERRORS
        for seed in range(6)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
