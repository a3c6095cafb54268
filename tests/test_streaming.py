"""Streamed image folders: the order of `data.Stream`, torchvision's crops, and the same bits however they are read."""

import multiprocessing
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from made import checkpoint_bits, finish, noise_spec, unclocked
from PIL import Image
from scipy.stats import ks_2samp
from torch import nn
from torchvision import datasets, transforms

from lrbs_core import models
from lrbs_core.data import imagenet_scale, shuffled
from lrbs_core.schedules import Piecewise
from lrbs_core.specs import Machine
from lrbs_core.streaming import FolderStream, scan
from lrbs_core.sweeping import Sweep, override
from lrbs_core.training import prepare, train

CPU = torch.device("cpu")
SIDE, N, TESTS = 16, 31, 9
CLASSES = ("ant", "bee", "cat")
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than CPUs


@pytest.fixture(autouse=True)
def _one_thread_and_a_fresh_scan():
    torch.set_num_threads(1)
    scan.cache_clear()


def size_of(i):
    """Width and height of image i: all differ."""
    return 12 + 3 * i % 29, 40 - 5 * i % 23


def solid(i):
    """One colour, which tells the example, also when it was saved as JPEG."""
    return Image.new("RGB", size_of(i), (6 * i, 128, 255 - 6 * i))


def noise(i):
    width, height = size_of(i)
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8))


def ramp(i):
    """Red tells how far to the right a pixel lies, green how far down, in 60 x 60 images."""
    right, down = np.meshgrid(np.arange(60), np.arange(60))
    return Image.fromarray(np.stack([4 * right, 4 * down, 0 * down], axis=2).astype(np.uint8))


def write_folder(data_dir, image=solid, name="made", test="test", suffixes=(".png", ".JPEG", ".jpg")):
    """N images in three classes, numbered in label order, and TESTS of their own; and one text."""
    for split, count in (("train", N), (test, TESTS)):
        for i in reversed(range(count)):
            path = data_dir / name / split / CLASSES[3 * i // count] / f"{i:02}{suffixes[i % len(suffixes)]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image(i).save(path, quality=95)
    (data_dir / name / "train/bee/notes.txt").write_text("no image")
    return data_dir / name


def stream_of(data_dir, seed=0, workers=0):
    return FolderStream(scan("imagefolder:made", data_dir, SIDE), seed, CPU, workers)


def cut(*sizes, start=0):
    """The requests of these sizes, end to end."""
    return list(zip(accumulate(sizes[:-1], initial=start), sizes, strict=True))


def joined(batches):
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def pixels_of(images):
    """Normalised images as pixels, which are whole numbers."""
    shift, gain = imagenet_scale(CPU)
    pixels = images.permute(0, 2, 3, 1) / gain + shift
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-3)
    return pixels.round()


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_scan_finds_the_files_and_labels_that_torchvision_does_and_opens_none(tmp_path, test):
    folder = write_folder(tmp_path, test=test)
    (folder / "train/ant/00.png").write_bytes(b"broken")
    found = scan("imagefolder:made", tmp_path, SIDE)
    for split, files, labels in ((("train"), *found[1:3]), (test, *found[3:5])):
        paths = [str(folder / file) for file in files]
        assert list(zip(paths, labels.tolist(), strict=True)) == datasets.ImageFolder(folder / split).samples
    assert (found.classes, found.channels, found.image_size) == (3, 3, SIDE)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_example_comes_once_an_epoch_in_the_streams_order_whatever_the_batch_sizes(tmp_path, workers):
    write_folder(tmp_path)
    sizes = (5, 5, 1, 31, 40, 3, 8)  # 3 epochs of 31; the fifth batch touches three of them
    images, labels = joined(stream_of(tmp_path, seed=3, workers=workers).batches(cut(*sizes)))
    pixels = pixels_of(images)
    assert torch.equal(pixels.amin((1, 2)), pixels.amax((1, 2)))  # one colour: nothing but the image was read
    seen = (pixels[:, 0, 0, 0] / 6).round().long()
    assert seen.tolist() == torch.cat([shuffled(N, 3, epoch)[0] for epoch in range(3)]).tolist()
    assert all(sorted(part.tolist()) == list(range(N)) for part in seen.split(N))
    assert labels.tolist() == [3 * i // N for i in seen.tolist()]
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_an_image_is_the_same_whatever_the_batch_the_workers_and_the_place_to_resume_at(tmp_path):
    write_folder(tmp_path, noise)
    images, labels = joined(stream_of(tmp_path, seed=1).batches(cut(*[1] * 3 * N)))
    for workers, sizes, start in ((0, (7, 30, 40), 0), (2, (7, 30, 40, 2), 3), (2, (20, 20), 50)):
        again = joined(stream_of(tmp_path, seed=1, workers=workers).batches(cut(*sizes, start=start)))
        part = slice(start, start + sum(sizes))
        assert torch.equal(again[0], images[part])
        assert torch.equal(again[1], labels[part])
    # In every epoch, and under another seed, an example is drawn anew.
    drawn = [joined(stream_of(tmp_path, seed=seed).batches(cut(3 * N)))[0].numpy() for seed in (1, 2)]
    assert len({view.tobytes() for views in drawn for view in views}) == 6 * N


def test_crops_lie_inside_the_image_in_torchvisions_sizes_and_half_are_flipped(tmp_path):
    write_folder(tmp_path, ramp, suffixes=[".png"])
    pixels = pixels_of(joined(stream_of(tmp_path).batches(cut(N * 20)))[0])
    right, down = pixels[:, 8, :, 0], pixels[:, :, 8, 1]
    flipped = right[:, 0] > right[:, -1]
    right = torch.where(flipped[:, None], right.flip(1), right)
    assert (torch.stack([right, down]).diff(dim=2) >= 0).all()
    assert 0.4 < flipped.double().mean() < 0.6
    # From the slope away from the edges: 4 a pixel of the file, over 10 pixels of the crop.
    width, height = ((line[:, 12] - line[:, 2]) / 4 * SIDE / 10 for line in (right, down))
    torch.manual_seed(0)
    draw = transforms.RandomResizedCrop.get_params
    drawn = torch.tensor([draw(ramp(0), [0.08, 1], [3 / 4, 4 / 3]) for _ in range(N * 20)]).double()
    for ours, theirs in ((width * height, drawn[:, 2] * drawn[:, 3]), (width / height, drawn[:, 3] / drawn[:, 2])):
        assert ks_2samp(ours, theirs).pvalue > 0.001
    # Where the first pixel lies, but for half a pixel of the crop.
    for ours, theirs in ((down[:, 0] / 4, drawn[:, 0]), (right[:, 0] / 4, drawn[:, 1])):
        assert ours.mean() == pytest.approx(theirs.mean(), abs=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_test_images_are_torchvisions_centre_crop_in_their_own_order(tmp_path, workers):
    smooth = lambda i: noise(i).resize((3, 4)).resize((90 + 7 * i, 300 - 9 * i), Image.Resampling.BICUBIC)  # noqa: E731
    folder = write_folder(tmp_path, smooth)
    oracle = transforms.Compose([
        transforms.Resize(18), transforms.CenterCrop(SIDE), transforms.ToTensor(),  # 16 * 256 / 224 = 18.3
        transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    ])  # fmt: skip
    expected, labels = zip(*datasets.ImageFolder(folder / "test", oracle), strict=True)
    for size, sizes in ((4, [4, 4, 1]), (9, [9]), (100, [9])):
        batches = list(stream_of(tmp_path, workers=workers).test_batches(size))
        assert [len(labels) for _, labels in batches] == sizes
        assert joined(batches)[1].tolist() == list(labels)
        # Two levels of 255: PIL rounds after each direction.
        torch.testing.assert_close(joined(batches)[0], torch.stack(expected), rtol=0, atol=2 / 255 / 0.224)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_runs_own_random_numbers_are_left_alone_and_no_worker_stays(tmp_path, workers):
    write_folder(tmp_path, noise)
    torch.manual_seed(7)
    untouched = torch.get_rng_state()
    stream = stream_of(tmp_path, workers=workers)
    batches = stream.batches(cut(*[4] * 20))
    first = next(batches)[0]
    assert len(multiprocessing.active_children()) == workers
    list(stream.test_batches(4))
    assert torch.equal(torch.get_rng_state(), untouched)
    torch.manual_seed(8)
    assert torch.equal(next(stream.batches(cut(4)))[0], first)  # nor do the images depend on them
    batches.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_in_one_line(tmp_path, workers):
    write_folder(tmp_path)
    broken = tmp_path / "made/train/cat/24.png"
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(ValueError, match=rf"^images must be readable, but {broken} is not \(.+\): mend or") as error:
        list(stream_of(tmp_path, workers=workers).batches(cut(*[8] * 4)))
    assert "\n" not in str(error.value)
    assert multiprocessing.active_children() == []


FAULTS = [
    (lambda f: f.rename(f.with_name("gone")), r"dataset folder missing: .*made \(see --data-dir\)"),
    (lambda f: (f / "test/cat").rename(f / "test/cow"), "same classes, but got cat, cow in one of them only"),
    (lambda f: [p.unlink() for p in f.glob("test/*/*")], r"hold CLASS/IMAGE files, .* none in .*test"),
    (lambda f: (f / "train/ant/00.png").unlink(), r"run 'made': imagefolder:made must have the 31 .*, but got 30"),
]


def streamed_spec(**changes):
    """Batch norm, dropout (see `dropout`), momentum and a growing batch: all that resuming must keep."""
    fields = {"model": "convnet", "ghost_size": 4, "augmentation": "resized_crop", "normalization": "imagenet"}
    fields |= {"examples": N, "image_size": SIDE, "evaluate_every_epochs": 0.5}
    return noise_spec(0.05, Piecewise((5, 12), at=(1,)), **fields | changes)


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_a_folder_that_will_not_do_is_refused_before_the_first_run(tmp_path, fault, message):
    fault(write_folder(tmp_path))
    with pytest.raises(ValueError, match=message) as error:
        prepare([streamed_spec()], Machine(data_dir=tmp_path, device="cpu"))
    assert "\n" not in str(error.value)


def test_preparing_checks_the_net_and_the_count_and_reads_no_image(tmp_path):
    write_folder(tmp_path, lambda _: Image.new("RGB", (1, 1)))
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"broken")
    write_folder(tmp_path, name="imagenet", test="val")
    machine, spec = Machine(data_dir=tmp_path, device="cpu"), streamed_spec()
    prepare([spec, replace(spec, image_size=32)], machine)
    with pytest.raises(ValueError, match=r"model must be one of .*, but got 'vgg0'"):
        prepare([spec, replace(spec, model="vgg0")], machine)
    with pytest.raises(ValueError, match="imagenet must have the 1281167 training examples of the plan, but got 31"):
        prepare([replace(spec, dataset="imagenet", examples=0)], machine)
    # Another folder by the command line.
    sweep = Sweep("made", "", (), (streamed_spec(dataset="imagenet", examples=0),))
    (other,) = override(sweep, dataset="imagefolder:made", data_dir=tmp_path).runs
    assert (other.examples, other.streamed) == (N, True)
    prepare([other], machine)


@pytest.fixture
def dropout(monkeypatch):
    build = models.build
    monkeypatch.setattr(models, "build", lambda *what: nn.Sequential(build(*what), nn.Dropout(0.3)))


# Rows come after 0.65, 1, 1.77 and 2 epochs; micro-batches of 8 cut the batches of 12.
@pytest.mark.parametrize(("rows_before", "workers"), [(0, (2, 2)), (1, (2, 0)), (3, (0, 2))])
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_bits(tmp_path, dropout, rows_before, workers):
    write_folder(tmp_path, noise)
    machine = Machine(data_dir=tmp_path, device="cpu", micro_batch=8, checkpoint_seconds=0)
    unbroken, status = finish(train(streamed_spec(), tmp_path / "unbroken.pt", machine=machine))
    assert (status, len(unbroken)) == ("finished", 4)
    before = train(streamed_spec(), checkpoint := tmp_path / "it.pt", machine=replace(machine, workers=workers[0]))
    seen = list(islice(before, rows_before))
    before.close()
    assert multiprocessing.active_children() == []
    torch.manual_seed(99)
    after = train(streamed_spec(), checkpoint, seen, machine=replace(machine, workers=workers[1]))
    assert unclocked(finish(after)[0]) == unclocked(unbroken)
    assert checkpoint_bits(checkpoint) == checkpoint_bits(tmp_path / "unbroken.pt")
    assert multiprocessing.active_children() == []


KILLED = """
import multiprocessing, sys, time, torch
from pathlib import Path
from lrbs_core.streaming import FolderStream, scan
stream = FolderStream(scan("imagefolder:made", Path(sys.argv[1]), 16), 0, torch.device("cpu"), workers=2)
batches = stream.batches((4 * i, 4) for i in range(1000))
next(batches)
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_the_workers_of_a_killed_run_end(tmp_path):
    write_folder(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until = time.monotonic() + 30
    while left := [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, left
        time.sleep(0.1)
