"""Table 3 of You et al. 2017: AlexNet on ImageNet at batches of 512 to 32768 with LARS, with and without batch norm.

    lrbs run sweeps/you2017_table3_alexnet.py --data-dir DIR --gpus-per-run 1 --bf16 --workers 16

LARS with trust coefficient 0.001, momentum 0.9, weight decay 5e-4; warm-up over 2 epochs (5 with batch norm), then
polynomial decay of power 2, 100 epochs in all. Expected: the accuracy of B 512 holds to 8192 (58.7 and 58.2 %; with
batch norm 60.2 and 60.1 %), and falls beyond. Taken, as not stated: warm-up from 0 to the stated lr, the polynomial
counted from epoch 0, as in the authors' code (see `warmup_polynomial`); batch norm over 128 images.

Count convention: none is stated; partial batches are kept, so that every image is seen.
Cost: 10 policies x 3 seeds of 100 epochs of 1281167 images of 224 x 224, in DIR/imagenet/{train,val}/CLASS/IMAGE: a
cluster.
"""

from lrbs_core import Claim, Policy, RunSpec, warmup_polynomial

SOURCE = "You, Gitman and Ginsburg 2017 (arXiv 1708.03888), Table 3"
# Network: warm-up epochs, ghost size, and batch size: (lr, test accuracy).
ALEXNET = {512: (2, 58.7), 4096: (10, 58.5), 8192: (10, 58.2), 16_384: (14, 55.0), 32_768: (14, 46.9)}
ALEXNET_BN = {512: (2, 60.2), 4096: (10, 60.4), 8192: (14, 60.1), 16_384: (23, 59.3), 32_768: (22, 57.8)}
NETWORKS = {"alexnet": (2, None, ALEXNET), "alexnet_bn": (5, 128, ALEXNET_BN)}
CLAIMS = tuple(
    Claim("Table 3", f"{model} {batch_size}", "test_accuracy", value, tolerance=0.5)
    for model, (_, _, cells) in NETWORKS.items()
    for batch_size, (_, value) in cells.items()
)


def runs() -> list[RunSpec]:
    return [
        RunSpec(
            label=f"{model} {batch_size}",
            policy=Policy(warmup_polynomial(lr, warmup, epochs=100, power=2), batch_size, momentum=0.9),
            dataset="imagenet",
            model=model,
            optimizer="lars",
            trust_coefficient=0.001,
            weight_decay=5e-4,
            ghost_size=ghost_size,
            augmentation="resized_crop",
            image_size=224,
            normalization="imagenet",
            epochs=100,
            partial="keep",
            seed=seed,
        )
        for model, (warmup, ghost_size, cells) in NETWORKS.items()
        for batch_size, (lr, _) in cells.items()
        for seed in range(3)
    ]


if __name__ == "__main__":
    from lrbs_core.cli import run_file

    run_file(__file__)
