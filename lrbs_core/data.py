"""Examples on the device: uint8 images, one permutation an epoch, and batches of any size as slices of it."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Generator, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrbs_core.decoding import Arrays, decode
from lrbs_core.validation import split

__all__ = ["Dataset", "Stream", "imagenet_scale", "load", "normalised", "parts_by_epoch", "shuffled"]

PADDING = 4

# Bytes of images whose pixels are counted at once: counting takes 8 times as many.
BLOCK = 2**22


class Dataset(NamedTuple):
    """Pixels uint8 [n, H, W, C] and labels int64 [n] of both splits on one device; statistics of the training set."""

    train_pixels: Tensor
    train_labels: Tensor
    test_pixels: Tensor
    test_labels: Tensor
    classes: int
    mean_image: Tensor
    mean: Tensor
    std: Tensor

    @property
    def channels(self) -> int:
        return self.train_pixels.shape[3]

    @property
    def image_size(self) -> int:
        return self.train_pixels.shape[1]


@lru_cache(maxsize=2)
def load(dataset: str, data_dir: Path, device: torch.device) -> Dataset:
    """The dataset on the device (on a CPU mapped from the cache's file); a process that asks again has it already.

    Raises ValueError where decoding does (`decoding.decode`), for images that are not square, and for a set that does
    not fit the device's memory.
    """
    return to_device(decode(dataset, data_dir), device, name=dataset)


def to_device(arrays: Arrays, device: torch.device, name: str = "the dataset") -> Dataset:
    """The arrays as tensors on the device, the mean image [H, W, C], and mean and deviation of each channel [C]."""
    pixels = arrays.train_pixels
    if pixels.shape[1] != pixels.shape[2] or pixels.shape[1:] != arrays.test_pixels.shape[1:]:
        raise ValueError(
            f"images must be square and of one size, but {name} has {pixels.shape[1:]}, {arrays.test_pixels.shape[1:]}"
        )
    size = pixels.nbytes + arrays.test_pixels.nbytes
    free = (
        torch.cuda.mem_get_info(device)[0]
        if device.type == "cuda"
        else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
    if size > 0.8 * free:
        raise ValueError(
            f"{name} must fit in 80 % of the memory of {device}, but takes {size / 2**30:.1f} GiB of its "
            f'{free / 2**30:.1f} GiB: stream an image folder by augmentation="resized_crop" with image_size'
        )
    return Dataset(
        train_pixels=_tensor(pixels).to(device),
        train_labels=torch.tensor(np.asarray(arrays.train_labels), device=device),
        test_pixels=_tensor(arrays.test_pixels).to(device),
        test_labels=torch.tensor(np.asarray(arrays.test_labels), device=device),
        classes=len(arrays.classes),
        **_statistics(pixels, np.arange(len(pixels)), device),
    )


def _statistics(pixels: npt.NDArray[np.uint8], chosen: npt.NDArray[Any], device: torch.device) -> dict[str, Any]:
    """The mean image [H, W, C], and mean and deviation of each channel [C], of the chosen images."""
    counts = np.zeros((pixels.shape[3], 256), dtype=np.int64)
    total = np.zeros(pixels.shape[1:], dtype=np.int64)
    for part in np.array_split(chosen, math.ceil(pixels.nbytes / BLOCK)):
        block = pixels[part]
        counts += [np.bincount(block[..., c].reshape(-1), minlength=256) for c in range(pixels.shape[3])]
        total += np.add.reduce(block, axis=0, dtype=np.int64)
    levels, number = np.arange(256.0), counts[0].sum()
    mean = counts @ levels / number
    std = np.sqrt(np.maximum(counts @ levels**2 / number - mean**2, 1e-12))
    found = {"mean_image": total / len(chosen), "mean": mean, "std": std}
    return {name: torch.tensor(values, dtype=torch.float32, device=device) for name, values in found.items()}


def _tensor(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """The array's own memory as a tensor."""
    with warnings.catch_warnings():
        # A mapped file is read-only, which torch warns of; nothing here writes to the images.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)


def shuffled(examples: int, seed: int, epoch: int, held: bool = False) -> tuple[Tensor, torch.Generator]:
    """The epoch's order, a permutation of 0..examples - 1, and the generator that drew it, for the augmentation.

    `held`: as many examples drawn with return instead, by another generator.
    """
    mixed = np.random.SeedSequence((seed, epoch, 1) if held else (seed, epoch)).generate_state(1, np.uint64)[0]
    source = torch.Generator().manual_seed(int(mixed))
    order = (
        torch.randint(examples, (examples,), generator=source) if held else torch.randperm(examples, generator=source)
    )
    return order, source


def parts_by_epoch(start: int, size: int, examples: int) -> Iterator[tuple[int, slice]]:
    """Examples [start, start + size) of the stream: each epoch that they lie in, and their places in its order.

    >>> list(parts_by_epoch(90, 30, examples=100))
    [(0, slice(90, 100, None)), (1, slice(0, 20, None))]
    """
    end = start + size
    while start < end:
        epoch, first = divmod(start, examples)
        stop = min(examples, first + end - start)
        yield epoch, slice(first, stop)
        start += stop - first


def normalised(pixels: Tensor, shift: Tensor, gain: Tensor) -> Tensor:
    """(pixels - shift) gain of uint8 [n, H, W, C]: float32 [n, C, H, W] in channels_last."""
    # Converted first, and with shift and gain spread over an image, rather than C numbers at a time: on a CPU the same
    # bits ten times as fast.
    shift, gain = (part.expand(pixels.shape[1:]).contiguous() for part in (shift, gain))
    return pixels.float().sub_(shift).mul_(gain).permute(0, 3, 1, 2)


def imagenet_scale(device: torch.device) -> tuple[Tensor, Tensor]:
    """Shift and gain [3] that take pixels / 255 by ImageNet's mean and deviation a channel (torchvision's)."""
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], device=device) * 255
    return mean, 1 / std


class _Epoch(NamedTuple):
    """One epoch's order, and each image's own crop offsets and flip."""

    order: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor


class Stream:
    """The training examples of all epochs end to end; example i of the stream is the same whatever the batch size.

    Order and augmentation depend on (seed, epoch) alone, so that runs of the same seed see the same images in the same
    order under any policy, and a resumed run needs no state of this. `augmentation`, `normalization`: see `RunSpec`.
    So many examples as `validation` says are set aside (`validation.split`): they are in no epoch, and have no say in
    the normalisation either. `held`: see `shuffled`.
    """

    def __init__(
        self,
        data: Dataset,
        seed: int,
        augmentation: str,
        normalization: str,
        validation: int = 0,
        held: bool = False,
    ) -> None:
        device = data.train_labels.device
        kept, aside = split(data.train_labels.cpu().numpy(), validation, seed)
        if validation and normalization != "imagenet":
            data = data._replace(**_statistics(data.train_pixels.cpu().numpy(), kept, device))
        self.data, self.seed, self.held = data, seed, held
        self.kept, self.aside = (torch.tensor(part, device=device) for part in (kept, aside))
        self.flips, self.crops = augmentation != "none", augmentation == "flip_crop"
        if normalization == "channel":
            self.shift, self.gain = data.mean, 1 / data.std
        elif normalization == "imagenet":
            if data.channels != 3:
                raise ValueError(
                    f"normalization imagenet needs images of 3 channels, but got {data.channels}: take channel"
                )
            self.shift, self.gain = imagenet_scale(data.mean.device)
        else:
            self.shift, self.gain = data.mean_image, torch.ones_like(data.std)
        if self.crops and data.image_size <= PADDING:
            raise ValueError(f"image size > {PADDING} must hold for flip_crop, but got {data.image_size}")
        self._epochs: dict[int, _Epoch] = {}

    def batches(self, requests: Iterable[tuple[int, int]]) -> Generator[tuple[Tensor, Tensor], None, None]:
        """The `batch` of each (start, size), in turn."""
        return (self.batch(start, size) for start, size in requests)

    def batch(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Examples [start, start + size) of the stream: float32 [size, C, H, W] in channels_last, and labels [size]."""
        parts = parts_by_epoch(start, size, len(self.kept))
        pieces = [_Epoch(*(values[places] for values in self._epoch(number))) for number, places in parts]
        piece = pieces[0] if len(pieces) == 1 else _Epoch(*map(torch.cat, zip(*pieces, strict=True)))
        pixels = self._augmented(piece)
        return normalised(pixels, self.shift, self.gain), self.data.train_labels[piece.order]

    def test_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The test examples in their order, `size` at a time, as they are but normalised."""
        for start in range(0, len(self.data.test_labels), size):
            chosen = slice(start, start + size)
            yield normalised(self.data.test_pixels[chosen], self.shift, self.gain), self.data.test_labels[chosen]

    def validation_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The examples that are set aside, as `test_batches`."""
        for start in range(0, len(self.aside), size):
            chosen = self.aside[start : start + size]
            pixels, labels = self.data.train_pixels[chosen], self.data.train_labels[chosen]
            yield normalised(pixels, self.shift, self.gain), labels

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            self._epochs = {kept: self._epochs[kept] for kept in self._epochs if kept == number - 1}
            n, device = len(self.kept), self.kept.device
            order, source = shuffled(n, self.seed, number, self.held)
            top, left = torch.randint(2 * PADDING + 1, (2, n), generator=source)
            flip = torch.randint(2, (n,), generator=source).bool()
            self._epochs[number] = _Epoch(self.kept[order.to(device)], *(part.to(device) for part in (top, left, flip)))
        return self._epochs[number]

    def _augmented(self, piece: _Epoch) -> Tensor:
        pixels = self.data.train_pixels
        if not self.flips:
            return pixels[piece.order]
        side = self.data.image_size
        across = torch.arange(side, device=pixels.device)
        columns = torch.where(piece.flip[:, None], side - 1 - across, across)
        rows = across.expand(len(piece.order), side)
        if self.crops:
            columns = _reflected(columns + piece.left[:, None] - PADDING, side)
            rows = _reflected(rows + piece.top[:, None] - PADDING, side)
        # One gather does crop, reflection and flip: an index for every pixel of the batch.
        index = (piece.order[:, None] * side + rows)[:, :, None] * side + columns[:, None, :]
        return pixels.view(-1, pixels.shape[3])[index]


def _reflected(position: Tensor, side: int) -> Tensor:
    """Positions beyond an edge mirrored at it (the edge itself not repeated)."""
    inside = position.abs()
    return torch.where(inside < side, inside, 2 * (side - 1) - inside)
