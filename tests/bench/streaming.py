"""Streaming an image folder: examples a second of `streaming.FolderStream` over those of torchvision's own way.

The other side is a DataLoader over `torchvision.datasets.ImageFolder` with the transforms of torchvision's reference
training (the v2 ones: crop, flip, float, normalise, each example by itself): the same files in the same order, workers
and batch size. Both are timed in turns, from the first batch on, so that what else the machine does falls on both, and
after a round that is not counted, which brings the files into memory.

    python tests/bench/streaming.py [--folder DIR] [--image-size 224] [--workers 2] [--batch-size 64] [--examples 2048]

DIR holds train/CLASS/IMAGE and test/ or val/; without one, JPEG images of ImageNet's usual 500 x 375 are made.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from lrbs_core.data import shuffled
from lrbs_core.streaming import Folder, FolderStream, scan


def made_folder(folder: Path, count: int) -> Path:
    """Smooth noise as JPEG, about 50 kB an image."""
    draw = np.random.default_rng(0)
    for split, images in (("train", count), ("test", 2)):
        for i in range(images):
            path = folder / split / "ab"[i % 2] / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 256, (94, 125, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=80)
    return folder


def ours(folder: Folder, options: argparse.Namespace) -> float:
    stream = FolderStream(folder, 0, torch.device("cpu"), options.workers)
    size = options.batch_size
    return speed(stream.batches((start, size) for start in range(0, options.examples - size + 1, size)))


def theirs(folder: Folder, options: argparse.Namespace) -> float:
    transform = v2.Compose([
        v2.RandomResizedCrop(options.image_size, antialias=True), v2.RandomHorizontalFlip(),
        v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), v2.ToPureTensor(),
    ])  # fmt: skip
    examples = datasets.ImageFolder(folder.path / "train", transform)
    sampler = shuffled(len(examples), 0, 0)[0][: options.examples].tolist()
    return speed(DataLoader(examples, options.batch_size, sampler=sampler, num_workers=options.workers, drop_last=True))


def speed(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Examples a second after the first batch."""
    seen, iterator = 0, iter(batches)
    next(iterator)
    began = time.perf_counter()
    for images, _ in iterator:
        seen += len(images)
    return seen / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--examples", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        path = (options.folder or made_folder(Path(scratch) / "made", 512)).resolve()
        folder = scan(f"imagefolder:{path.name}", path.parent, options.image_size)
        options.examples = min(options.examples, len(folder.train_files))
        pairs = [(ours(folder, options), theirs(folder, options)) for _ in range(options.rounds + 1)][1:]
    print(
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} CPUs, {options.workers} workers, "
        f"{options.image_size} x {options.image_size}, B = {options.batch_size}, n = {options.rounds} rounds"
    )
    print(f"{'':10} {'median':>8} {'min':>8} {'max':>8}")
    ratios = [mine / other for mine, other in pairs]
    for name, values in zip(("ours/s", "theirs/s", "ratio"), (*zip(*pairs, strict=True), ratios), strict=True):
        print(f"{name:10} {statistics.median(values):8.4g} {min(values):8.4g} {max(values):8.4g}")


if __name__ == "__main__":
    main()
