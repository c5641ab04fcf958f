import hashlib
import multiprocessing
import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import write_list

from ptkit.core.data import images as decoder
from ptkit.core.data import keyed
from ptkit.core.data.keyed import Sampling
from ptkit.core.data.lists import read_list
from ptkit.core.data.loading.batches import Batch, Batches
from ptkit.core.data.loading.decoding import decode_all
from ptkit.core.data.loading.kept import Kept
from ptkit.core.data.transforms.catalogue import build_transform, num_draws, spec_of
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError, PtkitError, UsageError
from ptkit.core.parts.calls import parse

NORMALIZE = "Normalize(mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.25])"
END = ("ToTensor()", NORMALIZE)

PLANS = {
    "nothing random": ["Resize((9, 11))", *END],
    "batched": [
        "Resize((8, 8))",
        "RandomCrop(8, padding=2)",
        "RandomHorizontalFlip()",
        "RandomVerticalFlip()",
        *END,
    ],
    "image by image": [
        "RandomResizedCrop(7)",
        "ColorJitter(0.4, 0.4, 0.4, 0.1)",
        "RandomRotation(20)",
        *END,
    ],
    "both": [
        "Resize((10, 9))",
        "ColorJitter(0.4)",
        "RandomCrop(8, padding=1)",
        "RandomHorizontalFlip()",
        *END,
    ],
    "nested": [
        "Resize((8, 8))",
        "RandomApply([RandomChoice([RandomAffine(20), RandomGrayscale()])])",
        *END,
    ],
    "after the tensor": [
        "Resize((8, 8))",
        "RandomHorizontalFlip()",
        *END,
        "RandomErasing(p=0.7, value='random')",
    ],
    "colour and turns": [
        "Resize((8, 8))",
        "ColorJitter(0.4, 0.4, 0.4, 0.1)",
        "RandomRotation(20)",
        *END,
    ],
    "containers": [
        "Resize((8, 8))",
        "RandomOrder([ColorJitter(0.4), RandomApply([RandomRotation(9)])])",
        *END,
    ],
    "single floats": [
        "Resize((8, 8))",
        "ToTensor()",
        "RandomRotation(20)",
        NORMALIZE,
        "RandomErasing(p=0.7)",
    ],
    "crops": [
        "Resize((8, 8))",
        "FiveCrop(6)",
        "ColorJitter(0.4)",
        "RandomHorizontalFlip()",
        *END,
        "RandomErasing()",
    ],
    "crops one by one": [
        "Resize(9)",
        "TenCrop(6)",
        "RandomRotation(20)",
        *END,
        "RandomVerticalFlip()",
    ],
    "crops of floats": [
        "Resize((8, 8))",
        "ToTensor()",
        "TenCrop(6, vertical_flip=True)",
        NORMALIZE,
        "RandomErasing()",
    ],
}
FOREIGN_PLANS = {
    "policy": ["Resize((8, 8))", "AutoAugment()", "RandomHorizontalFlip()", *END],
    "PIL image": [
        "Resize((8, 8))",
        "ToPILImage()",
        "RandAugment()",
        "RandomCrop(8, padding=1)",
        *END,
    ],
    "a user's class": [
        "Resize((8, 8))",
        "{own_code}:Noise(strength=9)",
        "RandomHorizontalFlip()",
        *END,
    ],
    "a user's function": [
        "Resize((8, 8))",
        *END,
        'RandomApply([Lambda("{own_code}:shake")], p=0.7)',
    ],
}
EVERY_PLAN = {**PLANS, **FOREIGN_PLANS}


# Made of what others have too.
TWINS = {"after the tensor", "colour and turns", "containers", "crops one by one"}


def cases(*foreign):
    """Every plan; quick are one of a kind and, of those that take worker processes, the named."""
    slow = TWINS | FOREIGN_PLANS.keys() - set(foreign)
    return [
        pytest.param(
            calls,
            id=name,
            marks=[pytest.mark.slow] if name in slow else [],
        )
        for name, calls in EVERY_PLAN.items()
    ]


PLAN_CASES = cases("policy")
# A user's code draws from global generators.
GLOBAL_CASES = cases("a user's class")
THREADS = pytest.param(PLANS["both"], id="threads")
PROCESSES = pytest.param(FOREIGN_PLANS["policy"], id="processes")
SLOW_PROCESSES = pytest.param(FOREIGN_PLANS["policy"], id="processes", marks=pytest.mark.slow)


@pytest.fixture
def planned(tmp_path):
    """A function that plans one of the lists above; a user's own code draws from all three global
    generators.
    """
    file = tmp_path / "own_code.py"
    file.write_text(
        "import random\n"
        "import numpy as np\n"
        "import torch\n"
        "class Noise:\n"
        "    def __init__(self, strength):\n"
        "        self.strength = strength\n"
        "    def __call__(self, image):\n"
        "        noise = torch.randint(0, self.strength, image.shape)\n"
        "        noise += random.randint(0, 9) + np.random.randint(0, 9)\n"
        "        return (image // 2 + noise).to(torch.uint8)\n"
        "def shake(image):\n"
        "    return image + torch.randn(()) + random.gauss(0, 1) + np.random.randn()\n"
    )

    def plan(calls):
        return Pipeline.parse([call.replace("{own_code}", str(file)) for call in calls])

    return plan


@pytest.fixture
def run(noise_images, planned):
    """A function that makes the shuffled batches of a list of calls."""
    made = []

    def make(
        calls, *, images=noise_images, batch_size=5, shuffle=True, keep=False, workers=2, **options
    ):
        pipeline = planned(calls)
        kept = decode_all(images, pipeline) if keep else None
        sampling = {
            name: options.pop(name) for name in ("sampler", "drop_last") if name in options
        } | {"seed": options.pop("seed", 3)}
        batches = Batches(
            images,
            pipeline,
            Sampling(batch_size, shuffle, **sampling),
            kept=kept,
            workers=workers,
            **options,
        )
        made.append(batches)
        return batches

    yield make
    for batches in made:
        batches.close()


@pytest.fixture
def with_bad_image(tmp_path):
    """A list of four images, the third of which is empty."""
    for index in range(4):
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(tmp_path / f"{index}.png")
    (tmp_path / "2.png").write_bytes(b"")
    write_list(tmp_path / "list.txt", [(f"{index}.png", 0) for index in range(4)])
    return read_list(tmp_path / "list.txt")


def digest(batches, *epochs):
    """Return the SHA-256 of everything in the batches of some epochs."""
    total = hashlib.sha256()
    for epoch in epochs:
        for batch in batches.epoch(epoch):
            total.update(batch.indices.tobytes() + batch.labels.numpy().tobytes())
            total.update(
                str(tuple(batch.images.shape)).encode()
                + batch.images.contiguous().numpy().tobytes()
            )
    return total.hexdigest()


def images_by_index(batches, epoch=0):
    """Return the crops of each image, (num_crops, 3, h, w), by its index."""
    return {
        int(index): crops
        for batch in batches.epoch(epoch)
        for index, crops in zip(batch.indices, batch.images.split(batch.num_crops), strict=True)
    }


def image_of_each(batches, epoch=0):
    """Return the bytes of each image by its index."""
    return {
        index: crops.contiguous().numpy().tobytes()
        for index, crops in images_by_index(batches, epoch).items()
    }


def global_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


# ---------------------------------------------------------------- one result, however it is come by


@pytest.mark.parametrize("calls", PLANS.values(), ids=PLANS)
def test_batches_do_not_depend_on_the_number_of_threads(run, calls):
    assert len({digest(run(calls, workers=workers), 0, 1) for workers in (1, 2, 4)}) == 1


@pytest.mark.parametrize(
    "name",
    [n if n == "policy" else pytest.param(n, marks=pytest.mark.slow) for n in FOREIGN_PLANS],
)
def test_batches_do_not_depend_on_the_number_of_worker_processes(run, name):
    calls = FOREIGN_PLANS[name]
    assert len({digest(run(calls, workers=workers), 0, 1) for workers in (1, 2, 4)}) == 1


@pytest.mark.parametrize("calls", PLAN_CASES)
def test_batches_of_kept_images_are_those_of_images_read_anew(run, calls):
    assert digest(run(calls, keep=True, workers=1), 0, 1) == digest(run(calls), 0, 1)


@pytest.mark.parametrize("calls", PLAN_CASES)
def test_image_does_not_depend_on_the_batch_it_falls_into(run, calls):
    expected = image_of_each(run(calls, batch_size=5))
    assert image_of_each(run(calls, batch_size=1)) == expected
    assert image_of_each(run(calls, batch_size=23, shuffle=False)) == expected


def test_image_of_a_long_list_does_not_depend_on_the_batch_it_falls_into(noise_images, planned):
    long_list = noise_images.subset(np.arange(10_000) % 23)
    pixels = np.random.default_rng(0).integers(0, 256, (10_000, 3, 3, 3), dtype=np.uint8)
    pipeline, kept = planned(["Resize((3, 3))", "RandomCrop(3, padding=1)", *END]), Kept(pixels, ())
    whole, parts, small = (
        image_of_each(Batches(long_list, pipeline, Sampling(size, shuffle=True), kept=kept))
        for size in (10_000, 4097, 300)
    )
    assert len(whole) == 10_000
    assert whole == parts == small


@pytest.mark.parametrize("calls", PLAN_CASES)
def test_image_does_not_depend_on_the_epochs_before(run, calls):
    later = run(calls)
    for epoch in (0, 1):
        digest(later, epoch)
    assert digest(later, 2) == digest(run(calls), 2)


@pytest.mark.parametrize("calls", [THREADS, SLOW_PROCESSES])
def test_epoch_that_was_left_early_changes_nothing(run, calls):
    batches = run(calls)
    next(batches.epoch(0))
    assert digest(batches, 1) == digest(run(calls), 1)


@pytest.mark.parametrize("calls", [THREADS, PROCESSES])
def test_closed_batches_can_be_used_again(run, calls):
    batches = run(calls)
    first = digest(batches, 0)
    batches.close()
    assert digest(batches, 0) == first


@pytest.mark.parametrize("calls", GLOBAL_CASES)
def test_global_generators_are_neither_used_nor_changed(run, calls):
    before = global_states()
    digest(run(calls), 0, 1)
    assert global_states() == before


@pytest.mark.parametrize("calls", GLOBAL_CASES)
def test_global_seed_changes_nothing(run, calls):
    expected = digest(run(calls), 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert digest(run(calls), 0) == expected


@pytest.mark.parametrize(
    "calls", [PLANS["batched"], PLANS["both"]], ids=["whole batches", "threads"]
)
def test_main_thread_keeps_its_number_of_torch_threads(run, calls):
    before = torch.get_num_threads()
    digest(run(calls, keep=True), 0)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("calls", PLANS.values(), ids=PLANS)
def test_planned_batches_hold_what_the_kernels_give_one_after_the_other(run, noise_images, calls):
    batches = run(calls)
    found = images_by_index(batches, 4)
    columns = batches.pipeline.num_draws
    draws = keyed.uniforms(3, "augment", epoch=4, indices=np.arange(23), columns=columns)
    for index, row in enumerate(draws):
        image = torch.from_numpy(decoder.read(noise_images.image_path(index))).permute(2, 0, 1)
        for call in calls:
            transform = build_transform(parse(call))
            own, row = np.split(row, [num_draws(transform)])
            image = spec_of(transform).apply(transform, image, own)
        expected = image.reshape(batches.pipeline.num_crops, *image.shape[-3:])
        torch.testing.assert_close(found[index], expected, rtol=0, atol=2e-6)


# ------------------------------------------------------------------------------------------- epochs


@pytest.mark.parametrize(
    ("calls", "batch_size"),
    [
        *((PLANS["both"], size) for size in (1, 4, 23, 100)),
        (FOREIGN_PLANS["policy"], 4),
        *(pytest.param(FOREIGN_PLANS["policy"], s, marks=pytest.mark.slow) for s in (1, 23, 100)),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else value[1].partition("(")[0],
)
def test_epoch_has_every_image_exactly_once_with_its_label(run, noise_images, calls, batch_size):
    batches = run(calls, batch_size=batch_size)
    done = list(batches.epoch(0))
    indices = np.concatenate([batch.indices for batch in done])
    assert np.array_equal(np.sort(indices), np.arange(23))
    assert (
        torch.cat([batch.labels for batch in done]).tolist()
        == noise_images.labels[indices].tolist()
    )
    assert {len(batch.indices) for batch in done[:-1]} <= {batch_size}
    assert (len(batches), batches.num_images) == (len(done), 23)


def test_two_epochs_differ_in_order_and_in_augmentation(run):
    batches = run(PLANS["batched"], batch_size=23)
    (first,), (second,) = batches.epoch(0), batches.epoch(1)
    assert not np.array_equal(first.indices, second.indices)
    first_images, second_images = image_of_each(batches, 0), image_of_each(batches, 1)
    assert sum(first_images[index] != second_images[index] for index in range(23)) > 18


@pytest.mark.parametrize("calls", [THREADS, SLOW_PROCESSES])
def test_another_seed_gives_other_batches(run, calls):
    assert digest(run(calls, seed=4), 0) != digest(run(calls, seed=3), 0)


def test_images_come_in_the_order_of_the_list_unless_shuffled(run):
    batches = run(PLANS["batched"], shuffle=False)
    assert np.concatenate([batch.indices for batch in batches.epoch(0)]).tolist() == list(range(23))


def test_last_batch_can_be_dropped(run):
    batches = run(PLANS["both"], batch_size=5, drop_last=True)
    assert [len(batch.indices) for batch in batches.epoch(0)] == [5, 5, 5, 5]
    assert (len(batches), batches.num_images) == (4, 20)


@pytest.mark.parametrize("calls", PLAN_CASES)
@pytest.mark.parametrize("batch_size", [5, 23])
def test_batches_are_float_channels_last(run, calls, batch_size):
    batch = next(run(calls, batch_size=batch_size).epoch(0))
    assert (batch.images.dtype, batch.labels.dtype, batch.indices.dtype) == (
        torch.float32,
        torch.int64,
        np.int64,
    )
    assert batch.images.shape[:2] == (batch_size * batch.num_crops, 3)
    assert len(batch.labels) == len(batch.indices) == batch_size
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "num_crops"), [("crops", 5), ("crops one by one", 10), ("both", 1)]
)
def test_batches_and_their_pipeline_say_how_many_crops_an_image_has(run, name, num_crops):
    batches = run(PLANS[name])
    assert batches.pipeline.num_crops == next(batches.epoch(0)).num_crops == num_crops


@pytest.mark.parametrize("name", ["crops", "crops one by one"])
def test_image_of_a_file_has_its_crops_in_front(run, noise_images, name):
    sure = [call for call in PLANS[name] if not call.startswith(("Random", "ColorJitter"))]
    batches = run(sure, shuffle=False)
    crops = batches.pipeline.read_image(noise_images.image_path(7))
    assert crops.shape == (batches.pipeline.num_crops, 3, 6, 6)
    assert torch.equal(crops, images_by_index(batches)[7])


@pytest.mark.parametrize(
    "rows",
    [np.arange(69).reshape(23, 3) % 2 == 0, np.linspace(0, 1, 46, dtype=np.float32).reshape(23, 2)],
    ids=["several labels", "numbers"],
)
def test_labels_of_every_kind_are_the_rows_of_the_list(run, noise_images, rows):
    batches = run([*PLANS["both"], "MixUp()"], images=replace(noise_images, labels=rows))
    for batch in batches.epoch(0):
        assert torch.equal(batch.labels, torch.from_numpy(rows[batch.indices]))
        assert torch.equal(batch.mixed.partner_labels, batch.labels.roll(1, 0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("calls", PLANS.values(), ids=PLANS)
def test_batches_on_a_gpu_are_those_of_the_cpu(run, calls):
    for here, there in zip(run(calls).epoch(0), run(calls, device="cuda").epoch(0), strict=True):
        assert there.images.device.type == there.labels.device.type == "cuda"
        assert np.array_equal(here.indices, there.indices)
        assert torch.equal(here.labels, there.labels.cpu())
        # A level of a colour, normalised.
        torch.testing.assert_close(here.images, there.images.cpu(), rtol=0, atol=1.01 / 255 / 0.2)


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("calls", [THREADS, PROCESSES])
def test_unreadable_image_is_a_data_error_of_one_line_with_its_path(run, with_bad_image, calls):
    path = with_bad_image.image_path(2)
    with pytest.raises(DataError) as caught:
        list(run(calls, images=with_bad_image, batch_size=2).epoch(0))
    assert str(caught.value) == f"cannot read {path}: the file is empty"


@pytest.mark.parametrize(
    "calls", [["RandomHorizontalFlip()"], ["AutoAugment()"]], ids=["threads", "processes"]
)
@pytest.mark.parametrize(
    "end", [("ToTensor()",), ("ToTensor()", "RandomErasing()")], ids=["pixels", "tensors"]
)
def test_images_of_different_sizes_are_a_data_error(run, tmp_path, calls, end):
    for index, size in enumerate([(8, 8), (6, 9)]):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / f"{index}.png")
    write_list(tmp_path / "list.txt", [("0.png", 0), ("1.png", 1)])
    batches = run([*calls, *end], images=read_list(tmp_path / "list.txt"))
    with pytest.raises(
        DataError, match=r"different sizes \(6×9 and 8×8\): add Resize\(\(height, width\)\)"
    ):
        list(batches.epoch(0))


@pytest.mark.parametrize(
    "calls", [["AutoAugment()"], ["ColorJitter(0.1)"]], ids=["processes", "threads"]
)
@pytest.mark.parametrize("keep", [False, True], ids=["read", "kept"])
def test_transform_that_does_not_fit_is_a_usage_error(run, calls, keep):
    batches = run(["Resize((8, 8))", *calls, "RandomCrop(9)", *END], keep=keep)
    with pytest.raises(
        UsageError, match=r"^RandomCrop cannot be applied: RandomCrop of 9×9 from an image of 8×8"
    ):
        list(batches.epoch(0))


def test_what_a_gpu_says_late_is_no_fault_of_a_transform():
    def late(*_):
        raise RuntimeError("CUDA error: device-side assert triggered")

    pipeline = Pipeline.parse(["Resize((8, 8))", "RandomHorizontalFlip()", "ToTensor()"])
    (step,) = pipeline.plan.batch_steps
    failing = replace(step, spec=replace(step.spec, batch=late))
    plan = replace(pipeline.plan, batch_steps=(failing,))
    with pytest.raises(RuntimeError, match="device-side assert") as error:
        replace(pipeline, plan=plan).apply_to_batch(
            np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 1))
        )
    assert not isinstance(error.value, PtkitError)


def test_outputs_of_crops_are_averaged_in_float32():
    images = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    batch = Batch(images, torch.zeros(3, dtype=torch.int64), np.arange(3), num_crops=2)
    model = torch.nn.Linear(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        each = model(images)
    assert each.dtype == torch.bfloat16
    found = batch.outputs(model, torch.bfloat16)
    assert torch.equal(found, each.float().view(3, 2, 4).mean(1))


def test_worker_processes_end_with_an_error_and_when_closed(run, with_bad_image):
    batches = run(FOREIGN_PLANS["policy"], images=with_bad_image, batch_size=2, shuffle=False)
    epoch = batches.epoch(0)
    next(epoch)
    assert len(multiprocessing.active_children()) == 2
    with pytest.raises(DataError):
        next(epoch)
    assert multiprocessing.active_children() == []
    next(batches.epoch(0))
    batches.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("calls", [END, FOREIGN_PLANS["policy"]], ids=["threads", "processes"])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_epoch_goes_on_past_bad_images_where_it_is_asked_to(run, with_bad_image, calls, workers):
    bad = {}
    batches = run(calls, images=with_bad_image, batch_size=2, shuffle=False, workers=workers)
    indices = [batch.indices.tolist() for batch in batches.epoch(0, bad=bad)]
    path = with_bad_image.image_path(2)
    assert (indices, bad) == ([[0, 1], [2, 3]], {2: f"cannot read {path}: the file is empty"})


def test_a_process_that_the_system_ends_is_one_clear_line(run):
    batches = run(FOREIGN_PLANS["policy"], batch_size=2, workers=1)
    epoch = batches.epoch(0)
    next(epoch)
    (process,) = multiprocessing.active_children()
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(PtkitError, match=r"a process that makes batches died \(pid \d+\)"):
        list(epoch)
    # The next epoch has others.
    assert len(list(batches.epoch(0))) > 1
    batches.close()


def test_batches_go_on_after_an_error(run, with_bad_image):
    batches = run(PLANS["both"], images=with_bad_image, batch_size=2, shuffle=False)
    for _ in range(2):
        epoch = batches.epoch(0)
        assert next(epoch).indices.tolist() == [0, 1]
        with pytest.raises(DataError):
            next(epoch)


def test_result_does_not_depend_on_the_working_directory(noise_list, planned, monkeypatch):
    pipeline = planned(PLANS["both"])
    here = digest(Batches(read_list(noise_list), pipeline, Sampling(5, seed=1)), 0)
    monkeypatch.chdir(noise_list.parent)
    assert digest(Batches(read_list(Path("list.txt")), pipeline, Sampling(5, seed=1)), 0) == here
