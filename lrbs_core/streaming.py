"""Image folders too large to hold, or of images that differ in size: read, cropped and resized as they are needed.

A torch DataLoader of `Machine.workers` processes reads ahead along the run's requests. Only the files' names and the
labels are held. The workers come from a fork server: the run's own process has threads (Ray's, MLflow's, torch's),
which a fork of it could catch holding a lock, and a spawned worker would import torch again, each for seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lrbs_core.data import imagenet_scale, normalised, parts_by_epoch, shuffled
from lrbs_core.decoding import image_names, read_image, splits_of
from lrbs_core.validation import split

__all__ = ["Folder", "FolderStream", "scan"]

# uint8 [3, H, W] -> uint8 [3, S, S].
Transform = Callable[[Tensor], Tensor]


class Folder(NamedTuple):
    """The files of both splits, relative to `path`, and their labels int64 [n]; `image_size`: the side of the crops."""

    path: Path
    train_files: list[str]
    train_labels: Tensor
    test_files: list[str]
    test_labels: Tensor
    classes: int
    image_size: int

    @property
    def channels(self) -> int:
        return 3


@lru_cache(maxsize=2)
def scan(dataset: str, data_dir: Path, image_size: int) -> Folder:
    """The files of "imagenet" or "imagefolder:NAME" (in `data_dir`); a process that asks again has them already.

    Raises ValueError for a folder that will not do, as `decoding.decode` does; no image is opened.
    """
    path = data_dir / dataset.removeprefix("imagefolder:")
    train, test, classes = splits_of(path)
    (train_files, train_labels), (test_files, test_labels) = (_labelled(split, classes) for split in (train, test))
    return Folder(path, train_files, train_labels, test_files, test_labels, len(classes), image_size)


def _labelled(split: Path, classes: list[str]) -> tuple[list[str], Tensor]:
    names = image_names(split, classes)
    files = [f"{split.name}/{label}/{name}" for label, group in zip(classes, names, strict=True) for name in group]
    return files, torch.arange(len(classes)).repeat_interleave(torch.tensor([len(group) for group in names]))


class _Example(NamedTuple):
    """One image to read; `seed` is of its own crop and flip."""

    file: str
    label: int
    seed: int


class FolderStream:
    """What `data.Stream` is to a dataset in memory: the same order, and crops and flips drawn for each example anew.

    A training image is a part of 8 to 100 % of the file's, its sides at 3/4 to 4/3, resized to [S, S] with antialiasing
    and flipped or not, as (seed, epoch, example) alone decide. A test image has its short side resized to S 256/224 and
    is cropped at the centre. (Szegedy et al. 2015, 1409.4842, section 6; torchvision's reference training.)
    So many examples as `validation` says are set aside (`validation.split`), and in no epoch.
    """

    def __init__(
        self, data: Folder, seed: int, device: torch.device, workers: int, validation: int = 0, held: bool = False
    ) -> None:
        self.data, self.seed, self.device, self.workers, self.held = data, seed, device, workers, held
        self.kept, self.aside = map(torch.from_numpy, split(data.train_labels.numpy(), validation, seed))
        self.shift, self.gain = imagenet_scale(device)

    def batches(self, requests: Iterable[tuple[int, int]]) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Examples [start, start + size) of the stream for each (start, size) in turn, read ahead by the workers.

        float32 [size, 3, S, S] in channels_last, and labels [size]. The workers end with the iterator. Raises
        ValueError for an unreadable image, when its turn comes.
        """
        return self._loaded(self._wanted(requests), _training_transform(self.data.image_size))

    def test_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The test examples in their order, `size` at a time; otherwise as `batches`."""
        return self._evaluated(self.data.test_files, self.data.test_labels, size)

    def validation_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The examples that are set aside, as `test_batches`."""
        files = [self.data.train_files[example] for example in self.aside.tolist()]
        return self._evaluated(files, self.data.train_labels[self.aside], size)

    def _evaluated(self, files: list[str], labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        examples = list(map(_Example, files, labels.tolist(), repeat(0)))
        wanted = (examples[start : start + size] for start in range(0, len(examples), size))
        return self._loaded(wanted, _test_transform(self.data.image_size))

    def _wanted(self, requests: Iterable[tuple[int, int]]) -> Iterator[list[_Example]]:
        """The examples of each request."""
        files, labels = self.data.train_files, self.data.train_labels
        epoch, order, seeds = -1, torch.empty(0), torch.empty(0)
        for start, size in requests:
            examples: list[_Example] = []
            for number, places in parts_by_epoch(start, size, len(self.kept)):
                if number != epoch:
                    epoch, (order, source) = number, shuffled(len(self.kept), self.seed, number, self.held)
                    seeds = torch.randint(2**32, (len(self.kept),), generator=source)
                chosen = self.kept[order[places]]
                names = [files[example] for example in chosen.tolist()]
                examples.extend(map(_Example, names, labels[chosen].tolist(), seeds[places].tolist()))
            yield examples

    def _loaded(
        self, wanted: Iterator[list[_Example]], transform: Transform
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        loader: DataLoader[Any] = DataLoader(
            _Reader(self.data.path, transform),  # type: ignore[arg-type]
            batch_size=None,  # the sampler's items are whole batches
            sampler=wanted,
            num_workers=self.workers,
            multiprocessing_context=_fork_server() if self.workers else None,
            worker_init_fn=_end_with_run,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it draws from torch's own
        )
        for batch in loader:
            if isinstance(batch, ValueError):
                raise batch
            pixels, labels = (part.to(self.device, non_blocking=True) for part in batch)
            yield normalised(pixels, self.shift, self.gain), labels


class _Reader:
    """A batch of examples from their files, in a worker: uint8 [n, S, S, 3], and labels [n]."""

    def __init__(self, path: Path, transform: Transform) -> None:
        self.path, self.transform = path, transform

    def __getitem__(self, examples: list[_Example]) -> tuple[Tensor, Tensor] | ValueError:
        # The transforms draw from torch's own generator, which without workers is that of the run's process.
        with torch.random.fork_rng(devices=()):
            try:
                images = [self._read(example) for example in examples]
            except ValueError as error:
                return error  # raised here, it would reach the run in a traceback of many lines
        return torch.stack(images), torch.tensor([example.label for example in examples])

    def _read(self, example: _Example) -> Tensor:
        path = f"{self.path}/{example.file}"
        try:
            pixels = torch.from_numpy(np.array(read_image(path)))
        except ValueError as error:
            raise ValueError(f"images must be readable, but {path} is not ({error}): mend or remove it") from None
        # Not torch.manual_seed, which would seed the run's GPU as well.
        torch.default_generator.manual_seed(example.seed)
        return self.transform(pixels.permute(2, 0, 1)).permute(1, 2, 0)


def _training_transform(size: int) -> Transform:
    from torchvision.transforms import v2  # slow to import, and only needed here

    crop = v2.RandomResizedCrop(size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])  # type: ignore[no-any-return]


def _test_transform(size: int) -> Transform:
    from torchvision.transforms import v2  # slow to import, and only needed here

    resize = v2.Resize(round(size * 256 / 224), antialias=True)
    return v2.Compose([resize, v2.CenterCrop(size)])  # type: ignore[no-any-return]


def _fork_server() -> multiprocessing.context.ForkServerContext:
    """Where workers come from; the first of a process takes seconds, as the server then imports torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torchvision.transforms.v2"])
    return context


def _end_with_run(worker: int) -> None:
    """Ends a worker whose run was killed: torch watches its parent, but that is the fork server, which lives on."""
    run = multiprocessing.parent_process()
    assert run is not None
    # Where all processes are given notice, the run ends its workers itself, after its checkpoint.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def watch() -> None:
        run.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
