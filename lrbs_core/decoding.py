"""Datasets from where they lie to arrays on disk: decoded once, kept whole, shared by every run of a machine.

The cache is a folder of `.npy` files (memory-mapped by its readers) under $LRBS_CACHE, or ~/.cache/lrbs. It is built
beside its place and moved there when complete; a lock lets one process build while the others wait.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from PIL import Image, UnidentifiedImageError

from lrbs_core.specs import IMAGE_SUFFIXES

__all__ = ["Arrays", "cache_home", "decode", "image_names", "read_image", "splits_of"]

ARRAYS = ("train_pixels", "train_labels", "test_pixels", "test_labels")


@dataclass(frozen=True)
class Arrays:
    """Pixels uint8 [n, H, W, C], labels int64 [n], and the classes' names in label order."""

    train_pixels: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test_pixels: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]


def decode(dataset: str, data_dir: Path) -> Arrays:
    """The arrays of "digits", "cifar10", "cifar100" or "imagefolder:NAME" (in `data_dir`), decoded at most once.

    Raises ValueError in one line for a folder that is missing or holds no images, for images of differing sizes,
    and for unreadable images, counted and the first five named; what could be decoded is kept for the next try.
    """
    if dataset == "digits":
        return _digits()
    if dataset in ("cifar10", "cifar100"):
        return _cached(f"{dataset}-torchvision", lambda: _cifar(dataset, data_dir))
    return _image_folder(data_dir / dataset.removeprefix("imagefolder:"))


def _digits() -> Arrays:
    """scikit-learn's 1797 images of 8 x 8; the last 360 are the test set."""
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    bundle = load_digits()
    pixels = (bundle.images * 15).astype(np.uint8)[..., None]
    labels = bundle.target.astype(np.int64)
    return Arrays(pixels[:-360], labels[:-360], pixels[-360:], labels[-360:], tuple("0123456789"))


def _cifar(dataset: str, data_dir: Path) -> Arrays:
    from torchvision import datasets  # slow to import, and only needed here

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset]
    try:
        train, test = (kind(data_dir, train=train, download=True) for train in (True, False))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{dataset} is not in {data_dir}, and downloading it failed: {error}") from None
    labels = [np.asarray(part.targets, dtype=np.int64) for part in (train, test)]
    return Arrays(train.data, labels[0], test.data, labels[1], tuple(train.classes))


@dataclass(frozen=True)
class _File:
    """One image file; equal values stand for equal contents."""

    name: str
    size: int
    mtime_ns: int


def _image_folder(folder: Path) -> Arrays:
    """Any tree train/CLASS/IMAGE with test/ or val/ beside it, all images of one size."""
    train, test, classes = splits_of(folder)
    splits = [_files(folder, split, classes) for split in (train, test)]
    manifest = json.dumps([[vars(file) for file in split] for split in splits])
    home = cache_home() / f"imagefolder-{_digest(str(folder.resolve()))}"
    with FileLock(_made(home).with_suffix(".lock")):
        place = home / _digest(manifest)
        if not place.exists():
            _decode_folder(folder, splits, classes, home, place)
    return _load(place)


# Classes that an error names.
MOST_NAMED = 5


def splits_of(folder: Path) -> tuple[Path, Path, list[str]]:
    """An image folder's train/, its test/ or else val/, and the classes in label order, which both must have."""
    if not folder.is_dir():
        raise ValueError(f"dataset folder missing: {folder} (see --data-dir)")
    test = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    train = folder / "train"
    if test is None or not train.is_dir():
        raise ValueError(f"an image folder must hold train/ and test/ or val/, but got {folder}")
    classes, test_classes = (sorted(entry.name for entry in os.scandir(s) if entry.is_dir()) for s in (train, test))
    if not classes or classes != test_classes:
        apart = sorted({*classes} ^ {*test_classes})
        more = f" and {len(apart) - MOST_NAMED} more" if len(apart) > MOST_NAMED else ""
        named = f"{', '.join(apart[:MOST_NAMED])}{more} in one of them only" if apart else "no classes"
        raise ValueError(f"train/ and {test.name}/ must hold the same classes, but got {named} in {folder}")
    return train, test, classes


def image_names(split: Path, classes: Sequence[str]) -> list[list[str]]:
    """The names of each class's images, sorted; no file is looked at. Raises ValueError where there are none at all."""
    names = [sorted(entry.name for entry in os.scandir(split / label) if _is_image(entry.name)) for label in classes]
    if not any(names):
        raise ValueError(f"an image folder must hold CLASS/IMAGE files, but got none in {split}")
    return names


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (a Path for each of a million takes seconds)


def read_image(path: str | Path) -> Image.Image:
    """The image as RGB. Raises ValueError with the decoder's reason for an unreadable one."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from None


def _files(folder: Path, split: Path, classes: Sequence[str]) -> list[_File]:
    named = zip(classes, image_names(split, classes), strict=True)
    paths = [split / label / name for label, names in named for name in names]
    return [_File(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def _decode_folder(folder: Path, splits: list[list[_File]], classes: list[str], home: Path, place: Path) -> None:
    known = _known_pixels(home)
    files = [file for split in splits for file in split]

    def pixels_of(file: _File) -> npt.NDArray[np.uint8] | str:
        if file in known:
            return known[file]
        try:
            return np.asarray(read_image(folder / file.name))
        except ValueError as error:
            return f"{file.name} ({error})"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = list(pool.map(pixels_of, files, chunksize=64))
    readable = {file: pixels for file, pixels in zip(files, decoded, strict=True) if not isinstance(pixels, str)}
    broken = [pixels for pixels in decoded if isinstance(pixels, str)]
    if broken:
        _keep_readable(readable, home)
        named = "; ".join(broken[:5]) + ("; ..." if len(broken) > 5 else "")
        raise ValueError(f"{len(broken)} unreadable image(s) of {len(files)} in {folder}: {named}: mend or remove them")
    shapes = sorted({pixels.shape[:2] for pixels in readable.values()})
    if len(shapes) > 1:
        raise ValueError(
            f"images must have one size, as they are held in memory, but {folder} has {len(shapes)} sizes, such as "
            f'{shapes[0]} and {shapes[-1]}: stream them by augmentation="resized_crop" with image_size'
        )
    labels = {name: number for number, name in enumerate(classes)}
    pixels = [np.stack([readable[file] for file in split]) for split in splits]
    numbers = [np.array([labels[Path(file.name).parts[1]] for file in split], dtype=np.int64) for split in splits]
    _store(Arrays(pixels[0], numbers[0], pixels[1], numbers[1], tuple(classes)), place, splits)
    for other in home.iterdir():
        if other != place:
            _discard(other)  # processes that have it mapped keep their view


def _keep_readable(readable: dict[_File, npt.NDArray[np.uint8]], home: Path) -> None:
    """What was decoded of a folder with unreadable images, for the next try; kept only if it is of one size."""
    if len({pixels.shape for pixels in readable.values()}) == 1:
        empty = np.zeros(len(readable), dtype=np.int64)
        pixels = np.stack(list(readable.values()))
        place = home / "readable"
        if place.exists():
            _discard(place)
        _store(Arrays(pixels, empty, pixels[:0], empty[:0], ()), place, [list(readable), []])


def _known_pixels(home: Path) -> dict[_File, npt.NDArray[np.uint8]]:
    known: dict[_File, npt.NDArray[np.uint8]] = {}
    for place in home.iterdir():
        arrays = _load(place)
        with _as_stored(place):
            splits = json.loads((place / "files.json").read_text())
            for split, pixels in zip(splits, (arrays.train_pixels, arrays.test_pixels), strict=True):
                known |= {_File(**file): image for file, image in zip(split, pixels, strict=True)}
    return known


def cache_home() -> Path:
    """The folder that decoded datasets are kept in."""
    base = os.environ.get("LRBS_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrbs"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cached(name: str, build: Callable[[], Arrays]) -> Arrays:
    place = cache_home() / name
    with FileLock(_made(place.parent) / f"{name}.lock"):
        if not place.exists():
            _store(build(), place, [])
    return _load(place)


def _store(arrays: Arrays, place: Path, splits: Sequence[Sequence[_File]]) -> None:
    """Writes the folder beside its place and moves it there."""
    folder = _scratch(place)
    try:
        folder.mkdir()
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(arrays, name), allow_pickle=False)
        (folder / "classes.json").write_text(json.dumps(arrays.classes))
        (folder / "files.json").write_text(json.dumps([[vars(file) for file in split] for split in splits]))
        folder.replace(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _discard(place: Path) -> None:
    """Moves the folder away before it is removed, so that a kill leaves no half of it in its place."""
    folder = _scratch(place)
    place.replace(folder)
    shutil.rmtree(folder)


def _scratch(place: Path) -> Path:
    """A free path on the cache's own disk, one for each lock; what a kill left there is removed."""
    name = place.relative_to(cache_home()).parts[0]
    folder = cache_home() / f".{name}.scratch"
    if folder.exists():
        shutil.rmtree(folder)
    return folder


def _load(place: Path) -> Arrays:
    """The arrays as they were stored; none may hold an object, so that nothing in the files is executed."""
    with _as_stored(place):
        parts = {name: np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
        for name, array in parts.items():
            dtype, dimensions = (np.uint8, 4) if name.endswith("pixels") else (np.int64, 1)
            if (array.dtype, array.ndim) != (dtype, dimensions):
                raise ValueError(f"{name} is {array.dtype} of {array.ndim} dimensions")
        return Arrays(**parts, classes=tuple(map(str, json.loads((place / "classes.json").read_text()))))


@contextmanager
def _as_stored(place: Path) -> Iterator[None]:
    """Raises ValueError, with the way out, where the folder does not hold what `_store` wrote."""
    try:
        yield
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"decoded data in {place} cannot be read ({str(error).splitlines()[0]}): remove that folder, "
            "and the dataset is decoded again"
        ) from None
