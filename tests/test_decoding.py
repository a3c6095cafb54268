"""Datasets to arrays: exact pixels, decoded once, and a cache that survives kills and several processes."""

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from lrbs_core.decoding import decode

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LRBS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch):
    """The images that were opened, as SPLIT/CLASS/NAME."""
    original, names = Image.open, []
    monkeypatch.setattr(Image, "open", lambda path: (names.append("/".join(path.parts[-3:])), original(path))[1])
    return names


def noise(seed, shape=(5, 4, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def refused(data_dir, match, dataset="imagefolder:made"):
    with pytest.raises(ValueError, match=match) as error:
        decode(dataset, data_dir)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__ or not error.value.__context__  # nothing of a library's own traceback
    return str(error.value)


def write_folder(data_dir, test="test"):
    """Images of noise as PNG, which keeps every pixel; written in no order, with a file that is no image."""
    for split, per_class, base in (("train", 3, 0), (test, 2, 100)):
        for c, name in reversed(list(enumerate(CLASSES))):
            for i in reversed(range(per_class)):
                save(data_dir / "made" / split / name / f"{i}.png", noise(base + 10 * c + i))
    (data_dir / "made" / "train" / "bee" / "notes.txt").write_text("no image")
    return data_dir / "made"


def check_made(arrays, changed=()):
    """Every pixel and label, `changed` being seeds of the training images that differ from `write_folder`'s."""
    seeds = [dict(changed).get(10 * c + i, 10 * c + i) for c in range(3) for i in range(3)]
    np.testing.assert_array_equal(arrays.train_pixels, [noise(seed) for seed in seeds])
    np.testing.assert_array_equal(arrays.train_labels, np.repeat([0, 1, 2], 3))
    np.testing.assert_array_equal(arrays.test_pixels, [noise(100 + 10 * c + i) for c in range(3) for i in range(2)])
    np.testing.assert_array_equal(arrays.test_labels, np.repeat([0, 1, 2], 2))
    assert arrays.classes == CLASSES
    assert [part.dtype for part in list(vars(arrays).values())[:4]] == [np.uint8, np.int64] * 2


def test_digits_are_scikit_learns(tmp_path):
    images, labels = load_digits(return_X_y=True)
    arrays = decode("digits", tmp_path)
    pixels = np.concatenate([arrays.train_pixels, arrays.test_pixels])
    assert (pixels.shape, pixels.dtype, len(arrays.test_pixels)) == ((1797, 8, 8, 1), np.uint8, 360)
    np.testing.assert_array_equal(pixels.reshape(1797, 64) / 15, images)
    np.testing.assert_array_equal(np.concatenate([arrays.train_labels, arrays.test_labels]), labels)
    assert arrays.classes == tuple("0123456789")


@pytest.mark.parametrize("test", ["test", "val"])
def test_an_image_folder_comes_out_pixel_by_pixel_labelled_by_sorted_class(tmp_path, test):
    folder = write_folder(tmp_path, test)
    if test == "test":  # which goes before val
        save(folder / "val/ant/0.png", noise(1))
    check_made(decode("imagefolder:made", tmp_path))


def test_a_grey_image_becomes_rgb(tmp_path):
    save(write_folder(tmp_path) / "train/ant/0.png", noise(50, (5, 4)))
    pixels = decode("imagefolder:made", tmp_path).train_pixels
    np.testing.assert_array_equal(pixels[0], np.stack([noise(50, (5, 4))] * 3, axis=2))


def test_a_folder_is_decoded_once_and_then_only_what_changed(tmp_path, opened):
    folder = write_folder(tmp_path)
    decode("imagefolder:made", tmp_path)
    assert len(opened) == len(set(opened)) == 15
    opened.clear()
    check_made(arrays := decode("imagefolder:made", tmp_path))
    assert opened == []
    assert isinstance(arrays.train_pixels, np.memmap)
    changed = folder / "train/bee/1.png"
    save(changed, noise(77))
    os.utime(changed, ns=(1, 1))  # a file of the same size, saved within a tick of the clock, is told by its time too
    check_made(decode("imagefolder:made", tmp_path), changed=[(11, 77)])
    assert opened == ["train/bee/1.png"]
    check_made(arrays)  # whoever has the old version mapped keeps it


def test_unreadable_images_are_named_together_and_once_mended_only_they_are_decoded(tmp_path, opened):
    folder = write_folder(tmp_path)
    broken = [folder / name for name in ("train/ant/2.png", "train/cat/0.png", "test/bee/1.png")]
    whole = [path.read_bytes() for path in broken]
    for path, content in zip(broken, (b"", whole[1][:60], b"no image at all, and not a word about one"), strict=True):
        path.write_bytes(content)
    told = refused(tmp_path, r"3 unreadable image\(s\) of 15")
    assert all(str(path.relative_to(folder)) in told for path in broken)
    assert len(opened) == 15
    opened.clear()
    for path, content in zip(broken[:2], whole[:2], strict=True):
        path.write_bytes(content)
    refused(tmp_path, r"1 unreadable image\(s\) of 15")
    assert sorted(opened) == ["test/bee/1.png", "train/ant/2.png", "train/cat/0.png"]
    opened.clear()
    broken[2].write_bytes(whole[2])
    check_made(decode("imagefolder:made", tmp_path))
    assert opened == ["test/bee/1.png"]


FAULTS = {
    "broken": (lambda f: [p.write_bytes(b"") for p in f.glob("train/*/*.png")], r"9 .* (\S+ \(.*?\); ){5}\.{3}: mend"),
    "no folder": (lambda f: f.rename(f.with_name("gone")), r"dataset folder missing: .*made \(see --data-dir\)"),
    "no test": (lambda f: (f / "test").rename(f / "tests"), r"must hold train/ and test/ or val/, but got .*made"),
    "no train": (lambda f: (f / "train").rename(f / "trains"), r"must hold train/ and test/ or val/, but got .*made"),
    "no classes": (
        lambda f: [p.rename(f / p.name) for p in f.glob("train/*")],
        "same classes, but got .* in one of them only",
    ),
    "classes differ": (
        lambda f: (f / "test/cat").rename(f / "test/cow"),
        "same classes, but got cat, cow in one of them only",
    ),
    "no images": (lambda f: [p.unlink() for p in f.glob("test/*/*")], r"hold CLASS/IMAGE files, .* none in .*test"),
    "sizes differ": (lambda f: save(f / "test/bee/0.png", noise(0, (4, 5, 3))), r"one size, .*\(4, 5\) and \(5, 4\)"),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=list(FAULTS))
def test_a_folder_that_will_not_do_is_refused_in_one_line(tmp_path, fault, message):
    fault(write_folder(tmp_path))
    refused(tmp_path, message)


def write_cifar(monkeypatch, kind, data_dir):
    """A tiny dataset in the pickles of the real one, an image a file: a row of 3072 bytes, red plane first."""
    labels = "labels" if kind is datasets.CIFAR10 else "fine_labels"
    files = {kind.meta["filename"]: {kind.meta["key"]: ["plane", "car"]}}
    for seed, split in ((0, kind.train_list), (50, kind.test_list)):
        for i, (name, _) in enumerate(split):
            files[name] = {"data": noise(seed + i, (32, 32, 3)).transpose(2, 0, 1).reshape(1, 3072), labels: [i + 3]}
    (data_dir / kind.base_folder).mkdir(parents=True)
    for name, content in files.items():
        (data_dir / kind.base_folder / name).write_bytes(pickle.dumps(content, protocol=2))
    # torchvision compares the files with the checksums of the real ones.
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda path, _: Path(path).exists())


@pytest.mark.parametrize(("kind", "n"), [(datasets.CIFAR10, 5), (datasets.CIFAR100, 1)], ids=["cifar10", "cifar100"])
def test_cifar_is_read_from_torchvisions_files_once(tmp_path, cache, monkeypatch, kind, n):
    write_cifar(monkeypatch, kind, tmp_path / "data")
    saved, original = [], np.save
    monkeypatch.setattr(np, "save", lambda path, *rest, **more: (saved.append(path), original(path, *rest, **more)))
    for data_dir in ("data", "gone"):  # the second time there is nothing but the cache
        arrays = decode(kind.__name__.lower(), tmp_path / data_dir)
        np.testing.assert_array_equal(arrays.train_pixels, [noise(i, (32, 32, 3)) for i in range(n)])
        np.testing.assert_array_equal(arrays.test_pixels, [noise(50, (32, 32, 3))])
        assert (arrays.train_labels.tolist(), arrays.test_labels.tolist()) == (list(range(3, 3 + n)), [3])
        assert arrays.classes == ("plane", "car")
    # The cache may be a disk of its own, onto which nothing can be moved from beside it.
    assert [path.is_relative_to(cache) for path in saved] == [True] * 4


@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("no route")])
def test_a_download_that_fails_is_told_in_one_line_and_tried_again(tmp_path, monkeypatch, error):
    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", Mock(side_effect=error))
    refused(tmp_path / "data", r"cifar10 is not in .*data, and downloading it failed: .*no route", "cifar10")
    write_cifar(monkeypatch, datasets.CIFAR10, tmp_path / "data")
    assert len(decode("cifar10", tmp_path / "data").train_labels) == 5


# A process that kills itself at the n-th call of something, in the middle of its work.
KILLED = """
import os, signal, sys
from pathlib import Path
from lrbs_core import decoding
(owner, _, name), left = sys.argv[1].rpartition("."), [None] * int(sys.argv[2])
original = getattr(eval(owner), name)
def dying(*args, **kwargs):
    left.pop()
    if not left and name == "rmtree":
        next(args[0].iterdir()).unlink()
    return original(*args, **kwargs) if left else os.kill(os.getpid(), signal.SIGKILL)
setattr(eval(owner), name, dying)
decoding.decode("imagefolder:made", Path(sys.argv[3]))
"""
# Of the calls of rmtree the first finds nothing left to tidy, the second is at the old version.
KILLS = {"decoding.Image.open": 1, "decoding.np.save": 3, "Path.replace": 1, "decoding.shutil.rmtree": 2}


@pytest.mark.parametrize(("called", "times"), KILLS.items())
def test_a_build_that_is_killed_leaves_no_half_cache(tmp_path, cache, opened, called, times):
    folder = write_folder(tmp_path)
    decode("imagefolder:made", tmp_path)
    for number, seed in ((0, 70), (1, 71)):
        save(folder / "train" / "bee" / f"{number}.png", noise(seed))
        os.utime(folder / "train" / "bee" / f"{number}.png", ns=(1, 1))
        if number == 0:
            command = [sys.executable, "-c", KILLED, called, str(times), tmp_path]
            assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
            opened.clear()
        check_made(decode("imagefolder:made", tmp_path), changed=[(10, 70), (11, 71)][: number + 1])
    assert len(opened) <= 2
    assert sum(path.is_dir() for path in cache.rglob("*")) == 2  # the folder's place and one version in it


# Waits for the others, decodes slowly, notes each image opened, and prints what it got.
WAITING = """
import sys, time
from pathlib import Path
from lrbs_core import decoding
folder, original = Path(sys.argv[1]), decoding.Image.open
def slow(path):
    time.sleep(0.02)
    (folder / f"opened {sys.argv[2]} {'-'.join(path.parts[-3:])}").touch()
    return original(path)
decoding.Image.open = slow
(folder / f"ready {sys.argv[2]}").touch()
while len(list(folder.glob("ready *"))) < 3:
    time.sleep(0.002)
print(decoding.decode("imagefolder:made", folder).train_pixels.tobytes().hex())
"""


def test_of_several_processes_at_once_one_decodes_and_the_others_wait(tmp_path):
    write_folder(tmp_path)
    command = [sys.executable, "-c", WAITING, tmp_path]
    processes = [subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True) for i in range(3)]
    printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert printed == [b"".join(noise(10 * c + i).tobytes() for c in range(3) for i in range(3)).hex()] * 3
    assert len(list(tmp_path.glob("opened *"))) == 15
