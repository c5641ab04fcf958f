"""Images that are decoded as they are needed: how their files are read, and JPEGs that come smaller
than they are.
"""

import io
import itertools
import os
import threading
import time
from contextlib import closing

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import write_list

from ptkit.core.data import images as decoder
from ptkit.core.data.keyed import Sampling
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading import reading
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.loading.decoding import decode_all
from ptkit.core.data.loading.reading import _DiskSpeed, read_ahead, sizes_of
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError, UsageError

CROPS = ["RandomResizedCrop(24, scale=(0.4, 1))", "RandomHorizontalFlip()", "ToTensor()"]
EVERY_ORIENTATION = range(1, 9)


def smooth(height, width, seed):
    """Return an image that looks the same at half its size, (height, width, 3)."""
    y, x = np.mgrid[:height, :width] / 25 + seed
    return (
        127
        + 60 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], 2)
        + 50 * np.cos(y / 3)[..., None]
    ).astype(np.uint8)


def jpeg(pixels, *, orientation=1, mode="RGB", **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(data, "JPEG", exif=exif, quality=95, **options)
    return data.getvalue()


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """A list of 20 JPEGs of different odd sizes, some turned by EXIF, some progressive or grey, and
    a PNG.
    """
    folder = tmp_path_factory.mktemp("photographs")
    for index in range(20):
        pixels = smooth(101 + 9 * index, 171 - 4 * index, index)
        mode = "L" if index % 7 == 3 else "RGB"
        data = jpeg(pixels, orientation=index % 8 + 1, mode=mode, progressive=index % 5 == 2)
        (folder / f"{index}.jpg").write_bytes(data)
    Image.fromarray(smooth(120, 90, 5)).save(folder / "20.png")
    write_list(folder / "list.txt", [(f"{index}.jpg", 0) for index in range(20)] + [("20.png", 0)])
    return read_list(folder / "list.txt")


@pytest.fixture
def streamed():
    """A function that makes batches in random order, which end with the test."""
    made = []

    def make(images, calls=CROPS, batch_size=4, shuffle=True, **options):
        made.append(
            Batches(
                images,
                Pipeline.parse(calls),
                Sampling(batch_size, shuffle, seed=1),
                **options,
            )
        )
        return made[-1]

    yield make
    for batches in made:
        batches.close()


class SlowDisk:
    """Lets every file wait before it opens; counts the files, and how many wait at once."""

    def __init__(self, wait_s):
        self.wait_s, self.lock = wait_s, threading.Lock()
        self.num_opened = self.num_waiting = self.most_waiting = 0
        self.open = os.open

    def __call__(self, *arguments, **options):
        with self.lock:
            self.num_waiting += 1
            self.most_waiting = max(self.most_waiting, self.num_waiting)
        time.sleep(self.wait_s)
        with self.lock:
            self.num_waiting -= 1
            self.num_opened += 1
        return self.open(*arguments, **options)


@pytest.fixture
def slow_disk(monkeypatch):
    disk = SlowDisk(0.005)
    monkeypatch.setattr(os, "open", disk)
    return disk


@pytest.fixture
def many_photographs(photographs):
    """The 21 images, many times over."""
    return photographs.subset(np.arange(160) % 21)


def pixels_of(batches, epoch=0):
    """Return the images of an epoch in the order of the list."""
    done = list(batches.epoch(epoch))
    order = np.argsort(np.concatenate([batch.indices for batch in done]), kind="stable")
    return torch.cat([batch.images for batch in done])[torch.from_numpy(order)]


def eventually(claim):
    """Wait until a claim holds, for ten seconds at most, and say whether it does."""
    deadline = time.monotonic() + 10
    while not claim() and time.monotonic() < deadline:
        time.sleep(0.002)
    return claim()


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ptkit-read")]


# -------------------------------------------------------------------------------------- a slow disk


def test_a_slow_disk_reads_more_files_at_once_than_there_are_decoding_threads(
    streamed, many_photographs, slow_disk
):
    pixels_of(streamed(many_photographs, workers=1))
    assert slow_disk.most_waiting > 8


def test_files_are_read_while_a_batch_is_in_use(streamed, many_photographs, slow_disk):
    epoch = streamed(many_photographs, workers=1).epoch()
    next(epoch)
    assert eventually(lambda: slow_disk.num_opened >= 160)


def test_no_more_is_read_ahead_than_there_is_room_for(
    streamed, many_photographs, slow_disk, monkeypatch
):
    monkeypatch.setattr(reading, "_BYTES_AHEAD", 60_000)
    size = np.mean([os.path.getsize(many_photographs.image_path(index)) for index in range(21)])
    epoch = streamed(many_photographs, workers=1).epoch()
    next(epoch)
    assert eventually(lambda: not slow_disk.num_waiting)
    time.sleep(0.05)
    assert slow_disk.num_opened < 60_000 / size + 20


def test_files_whose_size_is_not_known_yet_are_not_all_asked_for(
    many_photographs, slow_disk, tmp_path
):
    missing = many_photographs.subset(np.zeros(5000, int))
    os.rename(missing.image_path(0), tmp_path / "aside")
    groups = ((number, range(number * 8, number * 8 + 8)) for number in range(625))
    reading_ahead = read_ahead(missing, groups)
    next(reading_ahead)
    taken = next(groups)[0]
    reading_ahead.close()
    os.rename(tmp_path / "aside", missing.image_path(0))
    assert 1 < taken < 100


def test_a_slow_disk_changes_no_pixel(streamed, photographs, slow_disk):
    found = pixels_of(streamed(photographs))
    slow_disk.wait_s = 0
    assert torch.equal(found, pixels_of(streamed(photographs)))


def test_a_slow_disk_changes_no_error(streamed, photographs, slow_disk, tmp_path):
    lines = [(photographs.image_path(index), 0) for index in range(20)]
    write_list(tmp_path / "list.txt", [*lines, (str(tmp_path / "gone.jpg"), 0)])
    with pytest.raises(DataError) as caught:
        pixels_of(streamed(read_list(tmp_path / "list.txt")))
    assert str(caught.value) == f"cannot read {tmp_path / 'gone.jpg'}: No such file or directory"


def test_keeping_reads_many_files_of_a_slow_disk_at_once(many_photographs, slow_disk):
    kept = decode_all(many_photographs, Pipeline.parse(CROPS), workers=1)
    assert len(kept) == 160
    assert slow_disk.most_waiting > 8


def test_readers_end_with_the_epoch_however_it_ends(streamed, many_photographs, slow_disk):
    batches = streamed(many_photographs)
    pixels_of(batches)
    assert eventually(lambda: not readers())
    slow_disk.num_opened, slow_disk.wait_s = 0, 0.05
    next(batches.epoch(1))
    assert eventually(lambda: not readers())
    assert slow_disk.num_opened < 160


def test_a_read_that_is_slow_now_and_then_starts_no_readers(
    streamed, many_photographs, slow_disk, monkeypatch
):
    waits = itertools.cycle([0.03, *[0] * 11])
    monkeypatch.setattr(time, "sleep", lambda _seconds, sleep=time.sleep: sleep(next(waits)))
    monkeypatch.setattr(slow_disk, "wait_s", 1)
    # A machine that is busy may need more than the usual limit for each file.
    monkeypatch.setattr(reading, "_SLOW", 0.01)
    pixels_of(streamed(many_photographs, workers=1))
    # The thread that decodes, and the one that looks how quick the disk is.
    assert slow_disk.most_waiting <= 2


def test_a_disk_that_is_quick_again_needs_no_readers(many_photographs, slow_disk, monkeypatch):
    # A machine that is busy may need more than the usual limit for each file.
    monkeypatch.setattr(reading, "_SLOW", 0.01)
    slow_disk.wait_s = 0.02
    speed = _DiskSpeed()
    speed.read(many_photographs, range(10))
    was_slow = speed.is_slow
    slow_disk.wait_s = 0
    speed.read(many_photographs, range(40))
    assert (was_slow, speed.is_slow) == (True, False)


def test_quick_files_are_read_by_those_who_want_them(photographs):
    groups = [("some", [3, 1]), ("others", [2])]
    found = {name: some.contents() for name, some in read_ahead(photographs, groups)}
    expected = {
        name: [decoder.read_bytes(photographs.image_path(k)) for k in indices]
        for name, indices in groups
    }
    assert found == expected


def test_sizes_of_images_are_those_of_their_headers(photographs, tmp_path):
    write_list(
        tmp_path / "list.txt",
        [(photographs.image_path(0), 0), ("gone.png", 0), (photographs.image_path(20), 0)],
    )
    assert sizes_of(read_list(tmp_path / "list.txt"), [2, 1, 0]) == [(120, 90), None, (101, 171)]


# --------------------------------------------------------------------------------- a batch's memory


@pytest.mark.parametrize("keep", [False, True], ids=["read", "kept"])
def test_a_batch_in_use_is_never_written_again(streamed, photographs, keep):
    kept = decode_all(photographs, Pipeline.parse(CROPS)) if keep else None
    batches = streamed(photographs, kept=kept)
    pairs = [
        (batch.images, batch.images.clone()) for epoch in (0, 1) for batch in batches.epoch(epoch)
    ]
    assert all(torch.equal(now, then) for now, then in pairs)


@pytest.mark.parametrize("size", [16, 224], ids=["small", "large"])
def test_batches_do_not_depend_on_how_they_are_divided_among_threads(streamed, photographs, size):
    calls = [f"RandomResizedCrop({size})", "RandomVerticalFlip()", "RandomCrop(12)", "ToTensor()"]
    found = [
        pixels_of(streamed(photographs, calls, workers=workers, batch_size=13))
        for workers in (1, 3, 8)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


# ---------------------------------------------------------------------------- JPEGs decoded smaller


def num_decoded_bytes(monkeypatch):
    """Count the bytes that OpenCV decodes from here on, in the list that is returned."""
    counts, decode = [], decoder.cv2.imdecode

    def counted(*arguments):
        pixels = decode(*arguments)
        counts.append(pixels.nbytes)
        return pixels

    monkeypatch.setattr(decoder.cv2, "imdecode", counted)
    return counts


def test_reduced_decoding_makes_less_of_the_files_and_nearly_the_same_crops(
    streamed, photographs, monkeypatch
):
    counts = num_decoded_bytes(monkeypatch)
    whole = pixels_of(streamed(photographs))
    num_whole = sum(counts)
    reduced = pixels_of(streamed(photographs, decode="reduced"))
    assert sum(counts) - num_whole < num_whole / 2
    assert (reduced - whole).abs().mean() < 0.01
    assert not torch.equal(reduced, whole)


@pytest.mark.parametrize(
    "calls", [["Resize((31, 40))"], ["Resize(31)", "CenterCrop(31)"]], ids=["both", "shorter"]
)
def test_reduced_decoding_before_a_resize_makes_nearly_the_same_pixels(
    streamed, photographs, calls
):
    calls = [*calls, "ToTensor()"]
    reduced, whole = (
        pixels_of(streamed(photographs, calls, decode="reduced")),
        pixels_of(streamed(photographs, calls)),
    )
    assert (reduced - whole).abs().mean() < 0.01
    assert not torch.equal(reduced, whole)


@pytest.mark.parametrize("calls", [["RandomResizedCrop(160)"], ["Resize((99, 99))"]])
def test_images_that_are_not_made_half_as_large_are_decoded_whole(streamed, photographs, calls):
    calls = [*calls, "ToTensor()"]
    reduced, whole = (
        pixels_of(streamed(photographs, calls, decode="reduced")),
        pixels_of(streamed(photographs, calls)),
    )
    assert torch.equal(reduced, whole)


def test_reduced_decoding_does_not_depend_on_threads_or_batches(streamed, photographs):
    options = ({"workers": 1}, {"workers": 4}, {"batch_size": 21, "shuffle": False})
    first, *others = (
        pixels_of(streamed(photographs, decode="reduced", **some)) for some in options
    )
    assert all(torch.equal(first, other) for other in others)


def test_reduced_decoding_in_worker_processes_is_that_in_threads(streamed, photographs, tmp_path):
    (tmp_path / "own.py").write_text("def same(image):\n    return image\n")
    foreign = [CROPS[0], f'Lambda("{tmp_path / "own.py"}:same")', "ToTensor()"]
    found = pixels_of(streamed(photographs, foreign, decode="reduced", workers=1))
    assert torch.equal(
        found, pixels_of(streamed(photographs, [CROPS[0], "ToTensor()"], decode="reduced"))
    )


def test_reduced_decoding_that_cannot_be_is_a_usage_error(streamed, photographs):
    kept = decode_all(photographs, Pipeline.parse(CROPS))
    with pytest.raises(
        UsageError, match=r"^data\.reduced_decode .* needs data\.cache=auto or off$"
    ):
        streamed(photographs, kept=kept, decode="reduced")
    with pytest.raises(UsageError, match=r"Resize or RandomResizedCrop, found RandomCrop\(8\)$"):
        streamed(photographs, ["RandomCrop(8)", "ToTensor()"], decode="reduced")


@pytest.mark.parametrize("times", [2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_pixels_are_those_of_the_whole_image_made_smaller(mode, orientation, times):
    data = jpeg(smooth(128, 96, 3), orientation=orientation, mode=mode)
    whole, reduced = decoder.decode(data), decoder.decode_reduced(data, times)
    height, width = (side // times for side in whole.shape[:2])
    expected = whole.reshape(height, times, width, times, 3).mean(axis=(1, 3))
    assert reduced.shape == expected.shape
    assert np.abs(reduced - expected).mean() < 2


def test_only_whole_jpegs_are_decoded_smaller(photographs):
    data = jpeg(smooth(40, 40, 0))
    assert decoder.decode_reduced(data[:-40], 2) is None
    assert decoder.decode_reduced(decoder.read_bytes(photographs.image_path(20)), 2) is None


def test_the_beginning_of_a_file_can_be_read_alone(photographs):
    path = photographs.image_path(0)
    assert decoder.read_bytes(path, most=1000) == decoder.read_bytes(path)[:1000]


def test_reduced_decoding_turns_photographs_upright(streamed, photographs, tmp_path):
    pixels = smooth(160, 240, 1)
    for orientation in EVERY_ORIENTATION:
        (tmp_path / f"{orientation}.jpg").write_bytes(jpeg(pixels, orientation=orientation))
    write_list(tmp_path / "list.txt", [(f"{k}.jpg", 0) for k in EVERY_ORIENTATION])
    turned = read_list(tmp_path / "list.txt")
    reduced, whole = (pixels_of(streamed(turned, decode=some)) for some in ("reduced", "whole"))
    assert (reduced - whole).abs().mean() < 0.01


OWN_STEP = """
import ctypes

def speaking(image):
    libc = ctypes.CDLL(None)
    libc.fputs(b"of my own\\n", ctypes.c_void_p.in_dll(libc, "stderr"))
    return image
"""


def test_what_a_step_of_the_users_own_writes_to_standard_error_is_seen(
    photographs, tmp_path, capfd
):
    (tmp_path / "own.py").write_text(OWN_STEP)
    calls = [f'Lambda("{tmp_path}/own.py:speaking")', "Resize((8, 8))", "ToTensor()"]
    batches = Batches(photographs, Pipeline.parse(calls), Sampling(7), workers=1)
    with closing(batches):
        assert len(list(batches.epoch())) == 3
    assert capfd.readouterr() == ("", "of my own\n" * 21)
