"""Table 4 of You et al. 2017: ResNet-50 on ImageNet at batches of 256 to 32768 with LARS.

    lrbs run sweeps/you2017_table4_resnet50.py --data-dir DIR --gpus-per-run 1 --bf16 --micro-batch 256 --workers 16

LARS with trust coefficient 0.001, momentum 0.9, weight decay 1e-4 (its code), warm-up, then polynomial decay of power
2. Expected with maximal augmentation (random resized crops): 75.8, 75.4, 75.2, 74.4, 72.5 % at B 256, 1k, 8k, 16k,
32k. Taken, as not stated: 90 epochs; warm-up from 0 to the stated lr, the polynomial counted from epoch 0, as in the
authors' code (see `warmup_polynomial`); batch norm over 32 images as in Goyal et al.

Count convention: none is stated; partial batches are kept, so that every image is seen.
Cost: 5 policies x 4 seeds of 90 epochs of 1281167 images of 224 x 224, in DIR/imagenet/{train,val}/CLASS/IMAGE: a
cluster.
"""

from lrbs_core import Accuracies, Policy, RunSpec, warmup_polynomial

SOURCE = "You, Gitman and Ginsburg 2017 (arXiv 1708.03888), Table 4"
# Batch size: lr, warm-up epochs, test accuracy.
CELLS = {256: (4, 0, 75.8), 1024: (9, 5, 75.4), 8192: (30, 5, 75.2), 16_384: (33, 12, 74.4), 32_768: (40, 12, 72.5)}
PAPER = Accuracies({f"{batch_size}": value for batch_size, (_, _, value) in CELLS.items()}, test_examples=50_000)
CLAIMS = PAPER.each("Table 4", tolerance=0.5)


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=f"{batch_size}",
            policy=Policy(warmup_polynomial(lr, warmup, epochs=90, power=2), batch_size, momentum=0.9),
            dataset="imagenet",
            model="imagenet_resnet50",
            optimizer="lars",
            trust_coefficient=0.001,
            weight_decay=1e-4,
            ghost_size=32,
            augmentation="resized_crop",
            image_size=224,
            normalization="imagenet",
            epochs=90,
            partial="keep",
            seed=seed,
        )
        for batch_size, (lr, warmup, _) in CELLS.items()
        for seed in range(4)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
