import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import write_list

from ptkit.core.data import images as decoder
from ptkit.core.data import statistics
from ptkit.core.data.images import read
from ptkit.core.data.lists import read_list
from ptkit.core.data.statistics import ChannelStatistics, find, measure, of_stacks, save
from ptkit.core.errors import DataError, StorageError


@pytest.fixture
def listed(tmp_path):
    """A function that saves images and returns their list; whole numbers, uint8 (H, W, 3) each."""

    def save_all(pictures):
        for index, pixels in enumerate(pictures):
            Image.fromarray(pixels).save(tmp_path / f"{index}.bmp")
        write_list(tmp_path / "list.txt", [(f"{index}.bmp", 0) for index in range(len(pictures))])
        return read_list(tmp_path / "list.txt")

    return save_all


@pytest.fixture
def tiny():
    """150 images of 2×3 to 5×6 random pixels, in several brightnesses: more than two chunks."""
    random = np.random.default_rng(0)
    sizes = random.integers(2, 6, 150)
    return [
        random.integers(0, random.integers(2, 256), (k, k + 1, 3), dtype=np.uint8) for k in sizes
    ]


def flat(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


def with_numpy(pictures):
    """Return mean and std per channel over all pixels, in float64."""
    pixels = (
        np.concatenate([picture.reshape(-1, 3) for picture in pictures]).astype(np.float64) / 255
    )
    return pixels.mean(axis=0), pixels.std(axis=0)


def test_statistics_are_numpys_over_all_pixels_of_all_sizes(listed, tiny):
    found = measure(listed(tiny))
    mean, std = with_numpy(tiny)
    np.testing.assert_allclose(found.mean, mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.std, std, rtol=0, atol=1e-12)
    assert (found.num_images, found.size) == (150, None)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 129])
def test_chunk_boundaries_lose_no_image(listed, tiny, count):
    found = measure(listed(tiny[:count]))
    np.testing.assert_allclose(found.mean, with_numpy(tiny[:count])[0], rtol=0, atol=1e-12)


def test_large_and_small_images_count_by_their_pixels(listed):
    random = np.random.default_rng(0)
    pictures = [
        random.integers(0, 256, (*shape, 3), dtype=np.uint8)
        for shape in ((300, 200), (3, 4), (200, 300), (3, 4))
    ]
    found = measure(listed(pictures))
    mean, std = with_numpy(pictures)
    np.testing.assert_allclose([found.mean, found.std], [mean, std], rtol=0, atol=1e-12)


def test_formats_are_measured_as_they_are_read(tmp_path, tiny):
    for index, picture in enumerate(tiny[:20]):
        Image.fromarray(picture).convert("L").save(tmp_path / f"{index}.jpg")
    write_list(tmp_path / "list.txt", [(f"{index}.jpg", 0) for index in range(20)])
    found = measure(read_list(tmp_path / "list.txt"))
    mean, std = with_numpy([read(tmp_path / f"{index}.jpg") for index in range(20)])
    np.testing.assert_allclose([found.mean, found.std], [mean, std], rtol=0, atol=1e-12)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_statistics_do_not_depend_on_the_number_of_threads(listed, tiny, workers):
    images = listed(tiny)
    assert measure(images, workers=workers) == measure(images, workers=3)


@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_constant_images_have_their_value_and_no_spread(listed, value):
    found = measure(listed([flat(7, 9, value)] * 70))
    assert found.mean == (value / 255,) * 3
    assert found.std == (0.0,) * 3


def test_one_odd_pixel_among_many_shows(listed):
    bright = flat(100, 100, 255)
    bright[0, 0] = 254
    found = measure(listed([bright] * 40))
    np.testing.assert_allclose(found.std, with_numpy([bright])[1], rtol=1e-9)


def test_channels_keep_their_order(listed):
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:] = (255, 51, 0)
    assert measure(listed([picture])).mean == (1.0, 0.2, 0.0)


# ------------------------------------------------------------------------------------- size, sample


def test_at_a_size_every_image_weighs_the_same(listed):
    images = listed([flat(4, 4, 0), flat(40, 30, 255)])
    assert measure(images, size=8).mean == (0.5, 0.5, 0.5)
    assert measure(images).mean == (1200 / 1216,) * 3


def test_size_that_the_images_have_changes_no_pixel(listed):
    picture = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    images = listed([picture] * 3)
    assert measure(images, size=6).mean == measure(images).mean
    assert measure(images, size=6).size == 6


def test_size_resizes_the_whole_image_as_training_does(listed):
    from ptkit.core.data.transforms.pipeline import Pipeline

    pictures = [
        np.random.default_rng(k).integers(0, 256, (30, 20 + k, 3), dtype=np.uint8) for k in range(5)
    ]
    found = measure(listed(pictures), size=12)
    resized = [
        Pipeline.parse(["Resize((12, 12))", "ToTensor()"]).apply_prefix(picture)
        for picture in pictures
    ]
    # Pillow and torch may round a pixel differently, by one level.
    np.testing.assert_allclose([found.mean, found.std], with_numpy(resized), rtol=0, atol=1 / 255)


def measured_sample(images, num, seed=0):
    return measure(images, statistics.sample(images, num=num, seed=seed))


def test_sample_is_drawn_by_the_seed(listed):
    images = listed([flat(1, 1, value) for value in range(200)])
    sample = measured_sample(images, 10, seed=1)
    assert sample == measured_sample(images, 10, seed=1)
    assert sample.mean != measured_sample(images, 10, seed=2).mean
    assert sample.num_images == 10


def test_sample_takes_each_image_at_most_once_and_evenly(listed):
    images = listed([flat(1, 1, value) for value in range(4)])
    ones = [round(measured_sample(images, 1, seed=seed).mean[0] * 255) for seed in range(200)]
    # 50 expected; 4 standard deviations of a binomial count.
    assert np.abs(np.bincount(ones, minlength=4) - 50).max() < 4 * np.sqrt(200 * 0.25 * 0.75)
    triples = {round(measured_sample(images, 3, seed=seed).mean[0] * 255 * 3) for seed in range(50)}
    assert triples == {6 - left_out for left_out in range(4)}


def test_sample_keeps_the_order_of_the_list(listed):
    chosen = statistics.sample(listed([flat(1, 1, value) for value in range(50)]), num=20)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == 20


@pytest.mark.parametrize("num", [4, 5, 1000])
def test_sample_of_all_images_is_exact(listed, num):
    images = listed([flat(1, 1, value) for value in (0, 10, 20, 255)])
    assert measured_sample(images, num) == measure(images)


def test_progress_counts_every_image_once(listed, tiny):
    told = []
    measure(listed(tiny), on_images=told.append)
    assert sum(told) == 150


# ------------------------------------------------------------------------------------------- errors


def test_unreadable_images_are_counted_and_the_first_is_named(listed, tiny, tmp_path):
    images = listed(tiny)
    for index in (140, 77, 3):
        (tmp_path / f"{index}.bmp").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        measure(images, workers=3)
    first = tmp_path / "3.bmp"
    assert (
        str(caught.value)
        == f"cannot read {first}: the file is empty (3 of 150 images cannot be read)"
    )


def test_no_images_are_an_error(listed):
    with pytest.raises(DataError, match=r"list\.txt has no images"):
        measure(listed([flat(1, 1, 0)]).subset([]))


def test_photos_are_measured_in_little_memory(tmp_path, megabytes):
    Image.new("RGB", (1200, 1000)).save(tmp_path / "photo.png")
    (tmp_path / "list.txt").write_text("photo.png 0\n" * 40)
    setup = (
        "from pathlib import Path\n"
        "from ptkit.core.data.lists import read_list\n"
        "from ptkit.core.data.statistics import measure\n"
        "images = read_list(Path(sys.argv[1]))"
    )
    # A decoded photo is 3.6 MB, all of them are 144.
    assert megabytes(setup, "measure(images, workers=2)", tmp_path / "list.txt") < 40


# --------------------------------------------------------------------------------- in memory, saved


def test_pixels_in_memory_give_the_same_statistics(listed):
    pixels = np.random.default_rng(0).integers(0, 256, (150, 5, 4, 3), dtype=np.uint8)
    images = listed(list(pixels))
    assert of_stacks([pixels[:64], pixels[64:]], size=None, list_sha256=images.sha256) == measure(
        images
    )


@pytest.fixture
def saved(tmp_path):
    """A list file with statistics beside it, measured at size 8."""
    found = ChannelStatistics((0.1, 0.2, 0.3), (0.4, 0.5, 1 / 3), 7, 8, "the hash")
    assert save(found, tmp_path / "train.txt") == tmp_path / "normstats.json"
    return tmp_path / "train.txt", found


def test_saved_statistics_are_found_again_to_the_last_digit(saved):
    file, found = saved
    assert find(file, list_sha256="the hash", size=8) == found


def test_statistics_of_another_list_or_size_are_not_used(saved):
    file, _ = saved
    assert find(file, list_sha256="another hash", size=8) is None
    assert find(file, list_sha256="the hash", size=9) is None


def test_statistics_at_native_size_serve_every_size(tmp_path):
    native = ChannelStatistics((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 7, None, "the hash")
    save(native, tmp_path / "train.txt")
    assert find(tmp_path / "train.txt", list_sha256="the hash", size=9) == native


def test_statistics_without_spread_are_not_used(tmp_path):
    save(
        ChannelStatistics((0.1, 0.2, 0.3), (0.4, 0.0, 0.6), 7, None, "the hash"),
        tmp_path / "train.txt",
    )
    assert find(tmp_path / "train.txt", list_sha256="the hash", size=9) is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"mean": 3}',
        b'{"mean": [1, 2], "std": [1, 1, 1]}',
    ],
)
def test_damaged_statistics_are_not_used(tmp_path, text):
    (tmp_path / "normstats.json").write_bytes(text)
    assert find(tmp_path / "train.txt", list_sha256="the hash", size=9) is None


def test_missing_statistics_are_not_found_and_unreadable_ones_are_an_error(tmp_path):
    assert find(tmp_path / "train.txt", list_sha256="the hash", size=9) is None
    (tmp_path / statistics.FILE_NAME).mkdir()
    with pytest.raises(StorageError, match=r"cannot read .*normstats\.json"):
        find(tmp_path / "train.txt", list_sha256="the hash", size=9)


@pytest.fixture
def many_small(listed, monkeypatch):
    """A list that is measured in two copies of the process."""
    monkeypatch.setattr(statistics, "can_fork", lambda: True)
    monkeypatch.setattr(statistics, "_MANY_CHUNKS", 1)
    rng = np.random.default_rng(0)
    return listed([rng.integers(0, 256, (5, 4, 3), np.uint8) for _ in range(200)])


def test_copies_of_the_process_find_what_threads_find(many_small, monkeypatch):
    seen = []
    found = measure(many_small, on_images=seen.append)
    monkeypatch.setattr(statistics, "can_fork", lambda: False)
    assert found == measure(many_small)
    assert seen == [64, 64, 64, 8]


def test_copies_of_the_process_name_what_they_cannot_read(many_small):
    damaged = many_small.image_path(150)
    Path(damaged).write_text("<html>")
    with pytest.raises(DataError, match=rf"{damaged}: it is HTML.*1 of 200 images"):
        measure(many_small)
    bad = []
    assert measure(many_small, bad=bad).num_images == 199
    assert len(bad) == 1


def test_a_copy_of_the_process_that_is_killed_is_an_error_and_the_others_end(
    many_small, monkeypatch
):
    here, copies, fork = os.getpid(), [], os.fork

    def forked():
        copies.append(fork())
        return copies[-1]

    monkeypatch.setattr(os, "fork", forked)

    def killed(data, path):
        if os.getpid() != here and path == many_small.image_path(70):
            os.kill(os.getpid(), signal.SIGKILL)
        return decoder.decode(data, path)

    with pytest.raises(StorageError, match="was killed: was memory short"):
        measure(many_small, decode=killed)
    assert len(copies) == 2
    for copy in copies:
        with pytest.raises(ChildProcessError):
            os.waitpid(copy, os.WNOHANG)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StorageError("no answer after three tries"), "^no answer after three tries$"),
        (MemoryError("no room"), "^MemoryError in a process: no room$"),
    ],
)
def test_an_error_of_a_copy_of_the_process_is_raised_here(many_small, error, words):
    def fails(_data, _path):
        raise error

    with pytest.raises(StorageError, match=words):
        measure(many_small, decode=fails)
