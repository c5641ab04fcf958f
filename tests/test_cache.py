"""Decoded images in memory and on disk: the same pixels, never stale, never half an entry, never
more than needed.
"""

import json
import os
import pickle
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import write_list

from ptkit.core.config.layers import resolve
from ptkit.core.data import images as decoder
from ptkit.core.data.keyed import Sampling
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.batches import Batches
from ptkit.core.data.loading.checksums import BlockSums, sums_of
from ptkit.core.data.loading.decoding import decode_all, decode_each, decoded_bytes
from ptkit.core.data.loading.entries import (
    BUILDING,
    COMPLETE,
    HASHES,
    LEFT_OVER,
    PIXELS,
    EntryWriter,
    list_entries,
    remove_entry,
)
from ptkit.core.data.loading.keeping import (
    decode_to_disk,
    key_of,
    load_list,
    open_kept,
    where_note,
)
from ptkit.core.data.loading.sharing import sharing_decoded
from ptkit.core.data.loading.stored import StoredPixels
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError, StorageError, UsageError
from ptkit.core.training.observers import Watcher
from ptkit.core.training.session import run
from ptkit.core.training.setup_data import prepare_data

from tiny_data import make_lists  # isort: skip

pytestmark = pytest.mark.usefixtures("blank_pictures")

END = ("ToTensor()", "Normalize(mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.25])")
ONE_SIZE = ("Resize((6, 7))", "RandomHorizontalFlip()", *END)
OWN_SIZES = ("RandomResizedCrop(5)", "ColorJitter(0.4)", *END)
PLANS = {"one size": ONE_SIZE, "own sizes": OWN_SIZES}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder for the cache."""
    monkeypatch.setenv("PTKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def listed(tmp_path):
    """A list of nine noisy images of different sizes."""
    random = np.random.default_rng(0)
    for index in range(9):
        pixels = random.integers(0, 256, (8 + index, 20 - index, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    write_list(tmp_path / "mixed.txt", [(f"{index}.png", index % 2) for index in range(9)])
    return read_list(tmp_path / "mixed.txt")


@pytest.fixture
def damaged(listed):
    """The same list; the files of images 0, 4 and 5 are empty."""
    for index in (0, 4, 5):
        (listed.folder / f"{index}.png").write_bytes(b"")
    return listed


@pytest.fixture(params=PLANS.values(), ids=PLANS)
def pipeline(request):
    return Pipeline.parse(request.param)


def on_disk(images, pipeline, **options):
    return decode_to_disk(images, pipeline, key=key_of(images, pipeline), **options)


def opened(images, pipeline):
    return open_kept(images, key=key_of(images, pipeline))


def decoded(images, pipeline):
    """Return each readable image as the decoder and the prefix give it."""
    found = []
    for index in range(len(images)):
        try:
            found.append(pipeline.apply_prefix(decoder.read(images.image_path(index))))
        except DataError:
            continue
    return found


def are_equal(kept, expected):
    return len(kept) == len(expected) and all(
        np.array_equal(kept.image(index), image) for index, image in enumerate(expected)
    )


def all_bytes(images, pipeline, kept):
    """Return the bytes of the batches of an epoch."""
    batches = Batches(images, pipeline, Sampling(4, seed=3, shuffle=True), workers=2, kept=kept)
    try:
        return b"".join(batch.images.contiguous().numpy().tobytes() for batch in batches.epoch(1))
    finally:
        batches.close()


# ---------------------------------------------------------------------------------- the same pixels


def test_kept_images_are_those_that_the_decoder_and_the_prefix_give(listed, pipeline, folder):
    expected = decoded(listed, pipeline)
    assert are_equal(decode_all(listed, pipeline, workers=3), expected)
    assert are_equal(on_disk(listed, pipeline), expected)
    assert are_equal(opened(listed, pipeline), expected)


def test_batches_are_the_same_from_memory_from_disk_and_from_the_files(listed, pipeline, folder):
    streamed = all_bytes(listed, pipeline, None)
    assert all_bytes(listed, pipeline, decode_all(listed, pipeline)) == streamed
    assert all_bytes(listed, pipeline, on_disk(listed, pipeline)) == streamed


def test_unreadable_images_are_left_out_and_named(damaged, pipeline, folder):
    reasons = tuple(
        (index, f"cannot read {damaged.image_path(index)}: the file is empty")
        for index in (0, 4, 5)
    )
    expected = decoded(damaged, pipeline)
    on_disk(damaged, pipeline)
    for kept in (decode_all(damaged, pipeline), opened(damaged, pipeline)):
        assert kept.bad == reasons
        assert are_equal(kept, expected)
    assert decode_each(damaged, workers=2).bad == reasons


def test_a_subset_has_the_images_asked_for_in_that_order(listed, pipeline, folder):
    expected = decoded(listed, pipeline)
    for kept in (decode_all(listed, pipeline), on_disk(listed, pipeline)):
        assert are_equal(kept.subset([7, 2, 2]), [expected[7], expected[2], expected[2]])


def test_stacks_have_the_images_asked_for(listed, pipeline, folder):
    kept, expected = decode_all(listed, pipeline), decoded(listed, pipeline)
    images = [image for stack in kept.stacks(np.array([1, 5, 8])) for image in stack]
    assert [image.tolist() for image in images] == [expected[index].tolist() for index in (1, 5, 8)]


def test_size_and_bytes_of_kept_images(listed, folder):
    one, own = Pipeline.parse(ONE_SIZE), Pipeline.parse(OWN_SIZES)
    assert (decode_all(listed, one).size, decode_all(listed, one).nbytes) == ((6, 7), 9 * 6 * 7 * 3)
    area = sum((8 + index) * (20 - index) for index in range(9))
    assert (decode_all(listed, own).size, decode_all(listed, own).nbytes) == (None, 3 * area)
    assert on_disk(listed, own).nbytes == decoded_bytes(listed, own) == 3 * area
    assert decoded_bytes(listed, one) == 9 * 6 * 7 * 3


def test_the_estimate_follows_a_prefix_that_leaves_sizes_different(listed):
    pipeline = Pipeline.parse(["Resize(4)", "RandomCrop(4)", *END])
    assert decoded_bytes(listed, pipeline) == decode_all(listed, pipeline).nbytes


def test_photographs_turned_by_exif_are_kept_upright(tmp_path, folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 10, 3), np.uint8)).save(tmp_path / "turned.jpg", exif=exif)
    write_list(tmp_path / "turned.txt", [("turned.jpg", 0)])
    images, pipeline = read_list(tmp_path / "turned.txt"), Pipeline.parse(OWN_SIZES)
    assert on_disk(images, pipeline).image(0).shape == (10, 4, 3)
    assert decode_all(images, pipeline).image(0).shape == (10, 4, 3)


def test_progress_counts_every_image_once(noise_list, tmp_path, folder):
    rows = [(str(noise_list.parent / f"{index % 23}.png"), 0) for index in range(150)]
    write_list(tmp_path / "long.txt", rows)
    for fill in (decode_all, on_disk):
        told = []
        fill(read_list(tmp_path / "long.txt"), Pipeline.parse(ONE_SIZE), on_images=told.append)
        assert sum(told) == 150


def test_a_transform_that_does_not_fit_is_a_usage_error_and_leaves_no_entry(listed, folder):
    pipeline = Pipeline.parse(["Resize((6, 6))", "Pad(9, padding_mode='reflect')", *END])
    with pytest.raises(UsageError, match="Pad cannot be applied"):
        decode_all(listed, pipeline)
    with pytest.raises(UsageError, match="Pad cannot be applied"):
        on_disk(listed, pipeline)
    assert list_entries() == []


@pytest.mark.slow
def test_filling_takes_no_more_memory_than_the_decoded_images_and_a_few_chunks(tmp_path, megabytes):
    Image.fromarray(np.zeros((400, 500, 3), np.uint8)).save(tmp_path / "photo.jpg")
    # Two of them cannot be read, the first one too.
    write_list(tmp_path / "list.txt", [("none.jpg", 0), *[("photo.jpg", 0)] * 198, ("none.jpg", 0)])
    setup = """
import sys
from pathlib import Path
from ptkit.core.data.loading.decoding import decode_all
from ptkit.core.data.lists import read_list
from ptkit.core.data.transforms.pipeline import Pipeline
images = read_list(Path(sys.argv[1]))
pipeline = Pipeline.parse([sys.argv[2], "ToTensor()"])
decode_all(images.subset([1, 2]), pipeline, workers=2)
"""
    work = "kept = decode_all(images, pipeline, workers=2)\nassert kept.nbytes == 198 * 600_000"
    assert megabytes(setup, work, tmp_path / "list.txt", "RandomResizedCrop(32)") < 113 * 1.3


# -------------------------------------------------------------------------------------- never stale


def test_an_entry_is_opened_again_without_looking_into_the_files(
    listed, pipeline, folder, monkeypatch
):
    expected = decoded(listed, pipeline)
    on_disk(listed, pipeline)
    # What images are opened with.
    monkeypatch.delattr(os, "open")
    assert are_equal(opened(listed, pipeline), expected)


def test_an_image_with_another_time_size_or_place_makes_another_entry(
    listed, pipeline, folder, tmp_path
):
    on_disk(listed, pipeline)
    status = os.stat(listed.image_path(3))
    os.utime(listed.image_path(3), ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert opened(listed, pipeline) is None
    on_disk(listed, pipeline)
    with open(listed.image_path(3), "ab") as file:
        file.write(b"more")
    os.utime(listed.image_path(3), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert opened(listed, pipeline) is None


def test_another_order_or_another_prefix_makes_another_entry(listed, folder):
    pipeline = Pipeline.parse(ONE_SIZE)
    keys = [
        key_of(listed, pipeline),
        key_of(listed.subset(range(9)[::-1]), pipeline),
        key_of(listed.subset(range(8)), pipeline),
        key_of(listed, Pipeline.parse(["Resize((7, 6))", *END])),
        key_of(listed, Pipeline.parse(OWN_SIZES)),
    ]
    assert len(set(keys)) == 5
    assert key_of(listed, Pipeline.parse(["Resize((6, 7))", "RandomRotation(9)", *END])) == keys[0]


def test_the_key_does_not_depend_on_where_one_stands(listed, pipeline, monkeypatch):
    key = key_of(listed, pipeline)
    monkeypatch.chdir(listed.folder)
    assert key_of(read_list(listed.file.relative_to(listed.folder)), pipeline) == key


def test_an_image_that_is_mended_is_read_again(damaged, pipeline, folder):
    on_disk(damaged, pipeline)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(damaged.image_path(4))
    assert opened(damaged, pipeline) is None


def test_an_entry_that_was_damaged_from_outside_is_made_anew(listed, pipeline, folder):
    expected = decoded(listed, pipeline)
    on_disk(listed, pipeline)
    (entry,) = list_entries()
    os.truncate(entry.folder / "pixels.bin", 5)
    assert opened(listed, pipeline) is None
    assert [entry.state for entry in list_entries()] == [LEFT_OVER]
    assert are_equal(on_disk(listed, pipeline), expected)
    assert [entry.state for entry in list_entries()] == [COMPLETE]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_images", "7"),
        ("num_images", -1),
        ("num_images", 10**12),
        ("size", [6, -7]),
        ("size", [10**9, 10**9]),
        ("size", "67"),
        ("channels", 0),
        ("channels", None),
        ("bad", {"0": "x"}),
        ("bad", [[0]]),
        ("bad", [[-1, "x"]]),
        ("bad", [[10**9, "x"]]),
        ("nbytes", 1.5),
        ("key", 3),
    ],
)
def test_an_entry_that_was_edited_is_not_used(damaged, pipeline, folder, name, value):
    on_disk(damaged, pipeline)
    (entry,) = list_entries()
    file = entry.folder / "entry.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    assert opened(damaged, pipeline) is None
    assert list_entries()


def test_an_entry_of_other_sizes_is_not_used(damaged, folder):
    pipeline = Pipeline.parse(OWN_SIZES)
    on_disk(damaged, pipeline)
    (entry,) = list_entries()
    sizes = np.fromfile(entry.folder / "sizes.bin", np.int32)
    (sizes + 1).tofile(entry.folder / "sizes.bin")
    assert opened(damaged, pipeline) is None


def test_nothing_that_is_written_to_kept_pixels_reaches_the_disk(listed, pipeline, folder):
    expected = decoded(listed, pipeline)
    kept = on_disk(listed, pipeline)
    torch.from_numpy(kept.image(0)).zero_()
    assert are_equal(opened(listed, pipeline), expected)


# ------------------------------------------------------------------- only complete entries are read


def test_an_entry_is_not_there_until_it_is_complete(listed, pipeline, folder):
    key, seen = key_of(listed, pipeline), []

    def look(_count):
        seen.append((open_kept(listed, key=key), [entry.state for entry in list_entries()]))

    on_disk(listed, pipeline, on_images=look)
    assert seen
    assert all(found == (None, [BUILDING]) for found in seen)
    assert [entry.state for entry in list_entries()] == [COMPLETE]


def test_several_runs_that_build_one_entry_at_once_all_get_it(listed, pipeline, folder):
    expected = decoded(listed, pipeline)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: on_disk(listed, pipeline), range(4)))
    assert all(are_equal(kept, expected) for kept in found)
    assert len(os.listdir(folder)) == 1


def test_an_interrupted_run_leaves_nothing(listed, pipeline, folder):
    def interrupt(_count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on_disk(listed, pipeline, on_images=interrupt)
    assert os.listdir(folder) == []


def test_what_a_killed_run_left_is_listed_and_removed_by_the_next(listed, pipeline, folder):
    on_disk(listed, pipeline)
    (entry,) = list_entries()
    left = folder / f".{entry.name}.0123abcd"
    (folder / entry.name).rename(left)
    assert [entry.state for entry in list_entries()] == [LEFT_OVER]
    assert are_equal(on_disk(listed, pipeline), decoded(listed, pipeline))
    # One that is just begun has no lock yet.
    assert [entry.state for entry in list_entries()] == [LEFT_OVER, COMPLETE]
    shutil.rmtree(folder / entry.name)
    os.utime(left, (0, 0))
    on_disk(listed, pipeline)
    assert [entry.state for entry in list_entries()] == [COMPLETE]


def test_a_folder_that_cannot_be_written_is_a_storage_error_that_says_what_to_do(
    listed, pipeline, folder
):
    folder.write_text("a file where the folder should be")
    with pytest.raises(StorageError) as caught:
        on_disk(listed, pipeline)
    assert str(caught.value).startswith(f"cannot keep decoded images in {folder}: ")
    assert "--set data.cache=off" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="this system has no disk that is always full"
)
def test_a_full_disk_is_a_storage_error_and_leaves_nothing(folder):
    with EntryWriter("list-0123456789abcdef", {}) as writer, open("/dev/full", "wb", 0) as full:
        writer.pixels, first = full, writer.pixels
        with pytest.raises(StorageError, match="No space left on device"):
            writer.write(bytes(9))
        first.close()
    assert os.listdir(folder) == []


def test_only_what_has_the_name_and_form_of_an_entry_is_listed(listed, pipeline, folder, tmp_path):
    on_disk(listed, pipeline)
    (entry,) = list_entries()
    shutil.copytree(entry.folder, folder / "holiday")
    shutil.copytree(entry.folder, folder / "mine-0123456789abcdef")
    (folder / "mine-0123456789abcdef" / "letter.txt").write_text("mine")
    (folder / "link-0123456789abcdef").symlink_to(entry.folder)
    assert list_entries() == [entry]
    remove_entry(entry)
    assert sorted(os.listdir(folder)) == [
        "holiday",
        "link-0123456789abcdef",
        "mine-0123456789abcdef",
    ]


def test_an_entry_says_what_it_is(damaged, folder):
    on_disk(damaged, Pipeline.parse(ONE_SIZE))
    (entry,) = list_entries()
    facts = json.loads((entry.folder / "entry.json").read_text())
    assert entry.name.startswith("mixed-")
    assert (facts["list"], facts["num_images"], facts["size"]) == (str(damaged.file), 6, [6, 7])
    assert (facts["calls"], facts["nbytes"]) == (["Resize((6, 7))"], 6 * 6 * 7 * 3)
    assert [index for index, _ in facts["bad"]] == [0, 4, 5]


# ---------------------------------------------------------------------------- what the settings say


class Quiet(Watcher):
    """Counts the passes over images, and remembers the first line."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def warn(self, text):
        self.lines.append(text)


def source(images, pipeline, **settings):
    epochs = settings.pop("epochs", 2)
    return load_list(
        images,
        pipeline,
        resolve({"data": settings}).data,
        Quiet().counting,
        is_once=epochs == 1,
    )


def room(monkeypatch, *, memory, disk):
    """Give this process so many bytes of free memory and of free disk."""
    monkeypatch.setattr("ptkit.core.data.loading.keeping.free_bytes", lambda: memory)
    monkeypatch.setattr("ptkit.core.data.loading.keeping.free_disk_bytes", lambda: disk)


@pytest.mark.parametrize(
    ("memory", "disk", "epochs", "where"),
    [
        (2.1, 0, 2, "kept in memory (1.1 kB)"),
        (1.9, 2.1, 2, "kept on disk (1.1 kB, {folder}; `ptkit cache` removes it)"),
        (1.9, 1.9, 2, "decoded as they are needed (all of them would take 1.1 kB)"),
        (2.1, 2.1, 1, "kept in memory (1.1 kB)"),
        (1.9, 2.1, 1, "decoded as they are needed (all of them would take 1.1 kB)"),
    ],
)
def test_images_are_kept_where_they_take_less_than_half_of_what_is_free(
    listed, folder, monkeypatch, memory, disk, epochs, where
):
    room(monkeypatch, memory=memory * 9 * 6 * 7 * 3, disk=disk * 9 * 6 * 7 * 3)
    found = source(listed, Pipeline.parse(ONE_SIZE), epochs=epochs)
    assert where_note(found, replace(found, kept=None)) == where.format(folder=folder)


def test_whole_photographs_are_not_kept_for_a_single_epoch(listed, folder):
    pipeline = Pipeline.parse(OWN_SIZES)
    once = source(listed, pipeline, epochs=1)
    assert where_note(once, once) == "decoded as they are needed (once only, in the one epoch)"
    assert source(listed, pipeline, epochs=2).kept.size is None


def test_an_entry_that_exists_is_opened_even_where_no_more_would_fit(
    listed, pipeline, folder, monkeypatch
):
    made = source(listed, pipeline, cache="disk")
    room(monkeypatch, memory=0, disk=0)
    again = source(listed, pipeline)
    assert where_note(again, replace(again, kept=None)).startswith(f"opened from {folder} (")
    assert are_equal(again.kept, [made.kept.image(index) for index in range(9)])


def test_lists_that_are_kept_in_different_places_are_told_apart(listed, folder):
    train, valid = (
        source(listed, Pipeline.parse(OWN_SIZES), epochs=1),
        source(listed, Pipeline.parse(ONE_SIZE)),
    )
    assert (
        where_note(train, valid)
        == "training images decoded as they are needed (once only, in the one epoch), "
        "validation images kept in memory (1.1 kB)"
    )


def test_without_a_disk_auto_goes_on_and_disk_does_not(listed, pipeline, folder, monkeypatch):
    room(monkeypatch, memory=0, disk=10**12)
    folder.write_text("a file where the folder should be")
    found = source(listed, pipeline)
    assert where_note(found, found).startswith(
        f"decoded as they are needed ({folder} cannot be written: "
    )
    with pytest.raises(StorageError):
        source(listed, pipeline, cache="disk")


def test_more_than_there_is_room_for_is_refused(listed, pipeline, folder, monkeypatch):
    room(monkeypatch, memory=100, disk=100)
    with pytest.raises(
        UsageError, match=r"data.cache=ram: the decoded images of .* take .\.. kB, and 100 bytes of"
    ):
        source(listed, pipeline, cache="ram")
    with pytest.raises(StorageError, match=r"mixed.txt needs .\.. kB, and 100 bytes are free"):
        source(listed, pipeline, cache="disk")


@pytest.mark.parametrize("cache", ["ram", "disk", "off"])
def test_unreadable_images_stop_or_are_left_out_wherever_images_are_kept(
    damaged, pipeline, folder, cache
):
    left = source(damaged, pipeline, cache=cache, on_bad="skip")
    assert [left.images.listed_path(index) for index in range(6)] == [
        f"{k}.png" for k in (1, 2, 3, 6, 7, 8)
    ]
    assert [reason.endswith("the file is empty") for reason in left.skipped] == [True] * 3
    assert all_bytes(left.images, pipeline, left.kept) == all_bytes(left.images, pipeline, None)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_unreadable_images_are_found_by_the_pass_that_keeps_them(damaged, pipeline, folder, cache):
    with pytest.raises(
        DataError, match=r"0.png: the file is empty \(3 images of .*mixed.txt cannot be read\)"
    ):
        source(damaged, pipeline, cache=cache)


def test_the_weights_are_the_same_whether_images_are_kept_or_not(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path, train=18, valid=6))
    assert _weights("disk") == _weights("off")
    assert [entry.facts["size"] for entry in list_entries()] == [None, [12, 12]]


def _weights(cache):
    layer = {
        "data": {"cache": cache, "transforms": ["RandomResizedCrop(12)"], "size": 12},
        "train": {"epochs": 1, "batch_size": 6},
        "log": {"tensorboard": False, "pictures": False, "histograms": False, "graph": False},
    }
    result = run(resolve(layer), watch=Quiet())
    state = torch.load(result.run / "last.pkl", weights_only=True)["state_dict"]
    return b"".join(tensor.numpy().tobytes() for tensor in state.values())


def test_statistics_are_the_same_whether_images_are_kept_or_not(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path, train=12, valid=6))
    assert _statistics("ram", "RandomCrop(12)") == _statistics("off", "RandomCrop(12)")
    assert _statistics("ram", "RandomResizedCrop(12)") == _statistics(
        "off", "RandomResizedCrop(12)"
    )


def _statistics(cache, first):
    settings = resolve({"data": {"cache": cache, "transforms": [first], "size": 12}})
    found = prepare_data(
        settings.data, settings.train, device=torch.device("cpu"), counting=Quiet().counting
    ).settings
    return found.mean, found.std


# -------------------------------------------------------------------------------------- never stale


def test_images_that_can_be_read_again_make_an_entry_useless(listed, pipeline, folder):
    good = (listed.folder / "4.png").read_bytes()
    (listed.folder / "4.png").write_bytes(b"")
    decode_to_disk(listed, pipeline, key="0" * 64)
    assert open_kept(listed, key="0" * 64).bad[0][0] == 4
    (listed.folder / "4.png").write_bytes(good)
    assert open_kept(listed, key="0" * 64) is None
    assert decode_to_disk(listed, pipeline, key="0" * 64).bad == ()


def test_a_file_of_the_same_size_and_time_makes_another_key(listed, pipeline):
    file = listed.folder / "4.png"
    before, status = key_of(listed, pipeline), file.stat()
    file.write_bytes(bytes(reversed(file.read_bytes())))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert key_of(listed, pipeline) != before


def test_an_entry_without_its_pixels_is_none(listed, pipeline, folder):
    on_disk(listed, pipeline)
    (entry,) = list_entries()
    (entry.folder / "pixels.bin").unlink()
    assert opened(listed, pipeline) is None


def test_a_transform_that_does_not_fit_is_told_before_anything_is_decoded(listed):
    pipeline = Pipeline.parse(
        ["Resize(4)", "Pad(40, padding_mode='reflect')", "RandomCrop(8)", "ToTensor()"]
    )
    with pytest.raises(UsageError, match="Pad cannot be applied"):
        decoded_bytes(listed, pipeline)


@pytest.mark.parametrize("name", [PIXELS, HASHES])
@pytest.mark.parametrize("place", [0, -1])
def test_changed_bytes_of_an_entry_never_load(listed, pipeline, folder, name, place):
    kept = on_disk(listed, pipeline)
    whole = all_bytes(listed, pipeline, kept)
    file = entry_of(folder) / name
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    assert opened(listed, pipeline) is None
    # And the next run makes it anew.
    assert all_bytes(listed, pipeline, on_disk(listed, pipeline)) == whole
    assert opened(listed, pipeline) is not None


@pytest.fixture
def no_memory(monkeypatch):
    """Pixels on disk stay in their file."""
    monkeypatch.setattr("ptkit.core.data.loading.keeping.free_bytes", lambda: 0)


def entry_of(folder):
    (entry,) = folder.iterdir()
    return entry


def test_pixels_that_stay_in_their_file_make_the_same_batches(listed, pipeline, folder, no_memory):
    in_file = on_disk(listed, pipeline)
    blocks = [in_file.pixels] if in_file.layout is None else in_file.layout.blocks
    assert all(isinstance(block, StoredPixels) for block in blocks)
    in_memory = decode_all(listed, pipeline)
    assert all_bytes(listed, pipeline, in_file) == all_bytes(listed, pipeline, in_memory)
    left, right = (kept.subset([5, 0, 2]) for kept in (in_file, in_memory))
    assert are_equal(left, [right.image(index) for index in range(3)])


@pytest.mark.parametrize("workers", [0, 2])
def test_pixels_that_are_cut_off_in_the_middle_of_an_epoch_are_an_error(
    workers, listed, pipeline, folder, no_memory
):
    kept = on_disk(listed, pipeline)
    batches = Batches(listed, pipeline, sampling=Sampling(1), kept=kept, workers=workers)
    with closing(batches):
        epoch = batches.epoch()
        next(epoch)
        os.truncate(entry_of(folder) / PIXELS, 10)
        with pytest.raises(StorageError) as caught:
            list(epoch)
    assert str(caught.value) == (
        f"{entry_of(folder) / PIXELS} was cut off while it was used; `ptkit cache --remove` the"
        " entry and start again"
    )


def test_pixels_in_memory_do_not_care_for_their_file(listed, pipeline, folder):
    kept = on_disk(listed, pipeline)
    whole = all_bytes(listed, pipeline, kept)
    os.truncate(entry_of(folder) / PIXELS, 10)
    assert all_bytes(listed, pipeline, kept) == whole


def test_an_entry_that_is_removed_while_it_is_used_is_still_whole(
    listed, pipeline, folder, no_memory
):
    kept = on_disk(listed, pipeline)
    whole = all_bytes(listed, pipeline, kept)
    shutil.rmtree(entry_of(folder))
    assert all_bytes(listed, pipeline, kept) == whole


def test_rows_of_a_file_are_those_of_the_array(tmp_path):
    array = np.arange(120, dtype=np.uint8).reshape(10, 3, 4)
    (tmp_path / "pixels").write_bytes(array.tobytes())
    stored = StoredPixels(tmp_path / "pixels", array.shape)
    assert (len(stored), stored.nbytes, stored.ndim) == (10, 120, 3)
    sent = pickle.loads(pickle.dumps(stored))
    for rows in (3, np.int64(9), slice(2, 5), slice(8, 99), slice(4, 4), np.array([7, 0, 7]), []):
        assert np.array_equal(stored[rows], array[rows])
        assert np.array_equal(sent[rows], array[rows])


@pytest.mark.parametrize("lengths", [[], [0], [1], [1 << 24], [5, (1 << 24) - 5, 7], [40 << 20]])
def test_checksums_are_those_of_the_blocks_of_the_file(lengths, tmp_path):
    sums, data = BlockSums(), b"".join(bytes([k + 1]) * n for k, n in enumerate(lengths))
    for k, length in enumerate(lengths):
        sums.update(bytes([k + 1]) * length)
    (tmp_path / "file").write_bytes(data)
    blocks = [data[start : start + (1 << 24)] for start in range(0, len(data), 1 << 24)]
    assert sums.sums == sums_of(tmp_path / "file") == [zlib.crc32(block) for block in blocks]


@pytest.mark.parametrize("cache", ["ram", "auto"])
def test_runs_that_share_images_need_no_room_for_them_again(
    listed, pipeline, folder, cache, monkeypatch
):
    with sharing_decoded():
        room(monkeypatch, memory=1 << 30, disk=0)
        first = source(listed, pipeline, cache=cache)
        room(monkeypatch, memory=0, disk=0)
        second = source(listed, pipeline, cache=cache)
    assert (first.where, second.where) == ("memory", "memory")
    assert second.kept is first.kept
