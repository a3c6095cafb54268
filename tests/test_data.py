"""Batches: every example once an epoch, cut anywhere; augmentation and normalisation against numpy."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.functional import normalize

from lrbs_core import data
from lrbs_core.data import Stream, load, to_device
from lrbs_core.decoding import Arrays

CPU = torch.device("cpu")
cuda = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none"),
]
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=cuda)])


def made(n=37, side=8, channels=3, tests=5, seed=0):
    """Images of noise, each channel on a range of its own; label i is example i, so that labels tell the order."""
    random = np.random.default_rng(seed)
    top = np.array([256, 100, 30])[:channels]
    pixels = [random.integers(0, top, (count, side, side, channels), dtype=np.uint8) for count in (n, tests)]
    labels = [np.arange(count, dtype=np.int64) for count in (n, tests)]
    return Arrays(pixels[0], labels[0], pixels[1], labels[1], tuple(map(str, range(n))))


def stream_of(arrays, seed=0, augmentation="none", normalization="channel", device="cpu"):
    return Stream(to_device(arrays, torch.device(device)), seed, augmentation, normalization)


def order(stream, epoch):
    """The examples of an epoch in order."""
    n = len(stream.data.train_labels)
    return stream.batch(epoch * n, n)[1].tolist()


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@devices
@pytest.mark.parametrize("augmentation", ["none", "flip", "flip_crop"])
def test_every_example_comes_once_an_epoch_in_an_order_of_its_own(augmentation, device):
    stream = stream_of(made(), augmentation=augmentation, device=device)
    orders = [order(stream, epoch) for epoch in range(3)]
    assert all(sorted(labels) == list(range(37)) for labels in orders)
    assert len({tuple(labels) for labels in [*orders, range(37)]}) == 4


SINGLES = [stream_of(made(), seed=3, augmentation="flip_crop").batch(start, 1) for start in range(3 * 37)]


@given(st.lists(st.integers(1, 45), min_size=1, max_size=12), st.integers(0, 37))
@settings(max_examples=60)
def test_a_stream_cut_anywhere_gives_the_same_examples_across_the_edges_of_epochs_too(sizes, start):
    stream = stream_of(made(), seed=3, augmentation="flip_crop")
    while start < len(SINGLES) and sizes:
        size = min(sizes.pop(), len(SINGLES) - start)
        images, labels = stream.batch(start, size)
        expected = SINGLES[start : start + size]
        assert torch.equal(labels, torch.cat([label for _, label in expected]))
        assert torch.equal(images, torch.cat([image for image, _ in expected]))
        start += size


def test_order_and_augmentation_depend_on_seed_and_epoch_alone():
    arrays = made()
    first = stream_of(arrays, seed=1, augmentation="flip_crop")
    epochs = [first._epoch(number) for number in range(4)]
    torch.manual_seed(99)
    untouched = torch.get_rng_state()
    other = stream_of(made(seed=5), seed=1, augmentation="none", normalization="mean_image")
    for number in (3, 0, 2, 1):  # in any order: a resumed run starts anywhere
        assert all(map(torch.equal, other._epoch(number), epochs[number]))
    assert torch.equal(torch.get_rng_state(), untouched)
    # No epoch of one seed is an epoch of another, as adding the two up would make it.
    orders = {tuple(order(stream_of(arrays, seed=seed), epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    draws = {tuple(stream_of(arrays, seed)._epoch(epoch).top.tolist()) for seed in range(4) for epoch in range(4)}
    assert len(draws) == 16


def expected_images(stream, epoch):
    """numpy's: each image padded by reflection, cut out at its offset, and mirrored where its coin says so."""
    images = []
    for example, top, left, flip in zip(*(part.tolist() for part in stream._epoch(epoch)), strict=True):
        image = stream.data.train_pixels[example].numpy()
        side = image.shape[0]
        if stream.crops:
            padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
            image = padded[top : top + side, left : left + side]
        images.append(image[:, ::-1] if flip and stream.flips else image)
    return np.stack(images).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("side", [5, 8])  # 5 is the smallest that a margin of 4 can be reflected from
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augmentation", ["none", "flip", "flip_crop"])
def test_augmentation_equals_numpys_image_by_image(augmentation, channels, side):
    arrays = made(n=200, side=side, channels=channels)
    stream = stream_of(arrays, augmentation=augmentation)
    # Without normalisation the pixels come out as they are.
    stream.shift, stream.gain = torch.zeros(channels), torch.ones(channels)
    draws = stream._epoch(0)
    for offsets in (draws.top, draws.left):
        assert set(offsets.tolist()) == set(range(9))
    assert set(draws.flip.tolist()) == {False, True}
    images, labels = stream.batch(0, 200)
    np.testing.assert_array_equal(images.numpy(), expected_images(stream, 0))
    assert labels.tolist() == draws.order.tolist()


def chi_square(counts):
    return float(((counts - counts.mean()) ** 2 / counts.mean()).sum())


def test_each_image_draws_offsets_and_flip_of_its_own_evenly():
    stream = stream_of(made(n=20_000, side=5, channels=1))
    draws = stream._epoch(0)
    # Joint counts, so that dependent draws are found out too. Bounds: the 99.9 % points (161, 3 degrees of freedom).
    cells = (draws.top * 9 + draws.left) * 2 + draws.flip
    assert chi_square(np.bincount(cells, minlength=162)) < 222
    # Neither do they depend on the place in the epoch, on the example, or on the epoch before.
    late = torch.arange(20_000) >= 10_000
    for half in (late, draws.order >= 10_000, stream._epoch(1).flip):
        assert chi_square(np.bincount(draws.flip * 2 + half, minlength=4)) < 16.3


@pytest.mark.parametrize("channels", [1, 3])
def test_channel_normalisation_gives_the_training_set_mean_0_and_deviation_1(monkeypatch, channels):
    monkeypatch.setattr(data, "BLOCK", 1000)  # blocks of 5 or 15 images
    arrays = made(n=300, channels=channels)
    stream = stream_of(arrays)
    images, _ = stream.batch(0, 300)
    np.testing.assert_allclose(images.double().mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(images.double().std((0, 2, 3), correction=0), 1, rtol=1e-5)
    # The test set has another mean: it is moved by the training set's.
    pixels = arrays.train_pixels.astype(float)
    expected = (arrays.test_pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))
    np.testing.assert_allclose(next(stream.test_batches(5))[0], expected.transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


def test_mean_image_normalisation_is_0_to_255_less_the_mean_image():
    arrays = made(n=300)
    stream = stream_of(arrays, normalization="mean_image")
    mean = arrays.train_pixels.astype(float).mean(0)
    images, labels = stream.batch(0, 300)
    test_images, _ = next(stream.test_batches(5))
    for got, pixels in ((images, arrays.train_pixels[labels]), (test_images, arrays.test_pixels)):
        np.testing.assert_allclose(got, (pixels - mean).transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-4)


def test_the_mean_image_is_taken_off_after_crop_and_flip():
    stream = stream_of(made(n=50), augmentation="flip_crop", normalization="mean_image")
    mean = stream.data.train_pixels.numpy().mean(0).transpose(2, 0, 1)
    np.testing.assert_allclose(stream.batch(0, 50)[0], expected_images(stream, 0) - mean, rtol=1e-5, atol=1e-4)


def test_imagenet_normalisation_is_torchvisions_and_for_3_channels():
    stream = stream_of(made(), normalization="imagenet")
    pixels = stream.data.test_pixels.permute(0, 3, 1, 2) / 255
    expected = normalize(pixels, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    torch.testing.assert_close(next(stream.test_batches(5))[0], expected)
    with pytest.raises(ValueError, match="normalization imagenet needs images of 3 channels, but got 1: take channel"):
        stream_of(made(channels=1), normalization="imagenet")


def test_statistics_of_a_large_set_take_little_memory(monkeypatch):
    monkeypatch.setattr(data, "BLOCK", 2**16)
    arrays = made(n=10_000, side=16)  # 7.7 MB
    tracemalloc.start()
    to_device(arrays, CPU)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * arrays.train_pixels.nbytes


def test_a_channel_of_one_value_becomes_zero_rather_than_nan():
    arrays = made(n=20)
    arrays.train_pixels[..., 1] = 77
    images, _ = stream_of(arrays).batch(0, 20)
    assert torch.equal(images[:, 1], torch.zeros(20, 8, 8))


@pytest.mark.parametrize("augmentation", ["flip", "flip_crop"])
def test_test_examples_are_not_augmented_and_come_in_their_own_order(augmentation):
    arrays = made()
    augmented, bare = stream_of(arrays, augmentation=augmentation), stream_of(arrays)
    for size, sizes in ((5, [5]), (2, [2, 2, 1]), (10, [5])):
        batches = list(augmented.test_batches(size))
        assert [len(labels) for _, labels in batches] == sizes
        assert torch.cat([labels for _, labels in batches]).tolist() == list(range(5))
        assert torch.equal(torch.cat([images for images, _ in batches]), next(bare.test_batches(5))[0])


@devices
@pytest.mark.parametrize("augmentation", ["none", "flip", "flip_crop"])
def test_batches_lie_on_the_device_as_channels_last_float32(augmentation, device):
    stream = stream_of(made(), augmentation=augmentation, device=device)
    reference = stream_of(made(), augmentation=augmentation)
    for (images, labels), (wanted, order_) in (
        (stream.batch(30, 12), reference.batch(30, 12)),
        (next(stream.test_batches(4)), next(reference.test_batches(4))),
    ):
        assert images.shape == (len(labels), 3, 8, 8)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64
        assert {images.device.type, labels.device.type} == {device}
        # The same examples, offsets and flips on any device.
        assert labels.tolist() == order_.tolist()
        torch.testing.assert_close(images.cpu(), wanted)


def test_a_mapped_file_is_not_copied_on_a_cpu(tmp_path):
    arrays = made()
    np.save(tmp_path / "train.npy", arrays.train_pixels)
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    pixels = to_device(Arrays(mapped, *list(vars(arrays).values())[1:]), CPU).train_pixels
    assert pixels.data_ptr() == mapped.ctypes.data
    assert torch.equal(pixels, torch.tensor(arrays.train_pixels))


def test_load_decodes_a_dataset_once_a_process(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(data, "decode", lambda *what: (asked.append(what), made())[1])
    load.cache_clear()
    try:
        loaded = load("digits", tmp_path, CPU)
        assert load("digits", tmp_path, CPU) is loaded
    finally:
        load.cache_clear()
    assert asked == [("digits", tmp_path)]
    assert (loaded.channels, loaded.image_size, loaded.classes) == (3, 8, 37)


@pytest.mark.parametrize("fits", [True, False])
def test_a_set_beyond_80_percent_of_memory_is_refused_in_one_line(monkeypatch, fits):
    arrays = made(n=30, tests=10)  # 40 images of 192 bytes, which are 80 % of 9600
    memory = SimpleNamespace(sysconf={"SC_PAGE_SIZE": 100, "SC_PHYS_PAGES": 96 if fits else 95}.__getitem__)
    monkeypatch.setattr(data, "os", memory)
    if fits:
        to_device(arrays, CPU)
        return
    with pytest.raises(ValueError, match=r"big must fit in 80 % of the memory of cpu, but takes 0\.0 GiB") as error:
        to_device(arrays, CPU, name="big")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("train", "test"), [((8, 6), (8, 6)), ((8, 8), (6, 6))])
def test_images_that_are_not_square_or_differ_between_the_splits_are_refused(train, test):
    pixels = [np.zeros((4, *shape, 3), np.uint8) for shape in (train, test)]
    labels = np.arange(4)
    with pytest.raises(ValueError, match=rf"odd has \({train[0]}, {train[1]}, 3\), \({test[0]}, {test[1]}, 3\)"):
        to_device(Arrays(pixels[0], labels, pixels[1], labels, ("a",)), CPU, name="odd")


def test_images_too_small_for_a_crop_are_refused():
    with pytest.raises(ValueError, match="image size > 4 must hold for flip_crop, but got 4"):
        stream_of(made(side=4), augmentation="flip_crop")
    stream_of(made(side=4), augmentation="flip")
