import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from ptkit.core.data.transforms.catalogue import build_transform
from ptkit.core.data.transforms.completion import complete
from ptkit.core.data.transforms.eval_lists import evaluation_of
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.whitening import LinearTransformation
from ptkit.core.errors import CheckpointError, DataError, UsageError
from ptkit.core.parts.calls import parse, parse_all

SIZE, COUNT = "Resize((4, 5))", 60
RANDOM = np.random.default_rng(0)
MATRIX = RANDOM.standard_normal((COUNT, COUNT)).astype(np.float32)
MEAN = RANDOM.random(COUNT).astype(np.float32)


@pytest.fixture
def whitening(tmp_path, monkeypatch):
    """whitening.npz in the working directory, for images of 4×5; its path."""
    monkeypatch.chdir(tmp_path)
    np.savez("whitening.npz", transformation_matrix=MATRIX, mean_vector=MEAN, kind=np.array("zca"))
    return tmp_path / "whitening.npz"


@pytest.fixture
def picture(tmp_path):
    pixels = RANDOM.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def close_to(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


CALLS = [SIZE, "ToTensor()", 'LinearTransformation("whitening.npz")']


def test_whole_batch_is_what_torchvision_gives_image_by_image(whitening):
    pixels = torch.from_numpy(RANDOM.integers(0, 256, (7, 4, 5, 3), dtype=np.uint8))
    pipeline = Pipeline.parse(CALLS)
    assert (pipeline.plan.image_steps, len(pipeline.plan.float_steps)) == ((), 1)
    theirs = v2.LinearTransformation(torch.from_numpy(MATRIX), torch.from_numpy(MEAN))
    expected = torch.stack([theirs(image.permute(2, 0, 1).float() / 255) for image in pixels])
    close_to(pipeline.finish_on_device(pixels, np.zeros((7, 0))), expected)


def test_numbers_in_the_call_are_a_matrix_and_a_mean(picture):
    matrix = [[2, 0, 0], [0, 3, 0], [1, 0, 1]]
    pipeline = Pipeline.parse(
        ["CenterCrop(1)", "ToTensor()", f"LinearTransformation({matrix}, [0.5, 0.5, 0])"]
    )
    red, green, blue = (
        Pipeline.parse(["CenterCrop(1)", "ToTensor()"]).read_image(picture).flatten().tolist()
    )
    close_to(
        pipeline.read_image(picture).flatten(),
        torch.tensor([2 * red - 1 + blue, 3 * green - 1.5, blue]),
    )
    assert pipeline.tensors == {}


def test_pipeline_is_rebuilt_from_its_tensors_without_the_file(whitening, picture):
    pipeline = Pipeline.parse(CALLS)
    expected = pipeline.read_image(picture)
    whitening.unlink()
    assert list(pipeline.tensors) == ["whitening.npz"]
    again = Pipeline.of(pipeline.calls, tensors=pipeline.tensors, allow_user_code=False)
    assert torch.equal(again.read_image(picture), expected)
    assert again.calls == pipeline.calls
    assert torch.equal(again.tensors["whitening.npz"], pipeline.tensors["whitening.npz"])


def test_tensors_given_win_over_a_file_of_that_name(whitening, picture):
    pipeline = Pipeline.parse(CALLS)
    expected = pipeline.read_image(picture)
    np.savez(whitening, transformation_matrix=MATRIX * 0, mean_vector=MEAN)
    assert torch.equal(
        Pipeline.parse(CALLS, tensors=pipeline.tensors).read_image(picture), expected
    )


def test_pipeline_travels_to_another_process_with_its_tensors(whitening, picture):
    pipeline = Pipeline.parse(CALLS)
    packed = pickle.dumps(pipeline)
    whitening.unlink()
    assert torch.equal(pickle.loads(packed).read_image(picture), pipeline.read_image(picture))


@pytest.mark.parametrize(
    "call", [CALLS[2], f"RandomApply([{CALLS[2]}])", 'LinearTransformation("C:/a/whitening.npz")']
)
@pytest.mark.parametrize("tensors", [None, {}])
def test_saved_pipeline_never_reads_a_file_that_it_names(whitening, call, tensors):
    with pytest.raises(
        CheckpointError,
        match=r"the saved pipeline names .*whitening\.npz, but does not hold its matrix",
    ):
        Pipeline.parse([SIZE, "ToTensor()", call], tensors=tensors, allow_user_code=False)


@pytest.mark.parametrize("held", [torch.zeros(3, 3), torch.zeros(4), "whitening.npz", [[1.0]]])
def test_something_else_in_a_checkpoint_is_a_checkpoint_error(held):
    with pytest.raises(
        CheckpointError, match=r"holds something other than a matrix and a mean as whitening\.npz"
    ):
        Pipeline.parse(CALLS, tensors={"whitening.npz": held}, allow_user_code=False)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"transformation_matrix": MATRIX},
            "writes, an .npz file with transformation_matrix and mean_vector",
        ),
        ({"transformation_matrix": MATRIX, "mean_vector": MEAN[1:]}, "found 60×60 and 59"),
        ({"transformation_matrix": MATRIX[:9], "mean_vector": MEAN}, "found 9×60 and 60"),
        (
            {"transformation_matrix": MATRIX.astype(int), "mean_vector": MEAN},
            "a matrix D×D of floats",
        ),
        (
            {"transformation_matrix": np.array([None]), "mean_vector": MEAN},
            "writes, an .npz file with",
        ),
    ],
)
def test_file_of_another_form_is_a_data_error(whitening, arrays, message):
    np.savez(whitening, **arrays)
    with pytest.raises(DataError, match=r"^whitening\.npz") as caught:
        Pipeline.parse(CALLS)
    assert message in str(caught.value)


def test_missing_and_broken_files_are_data_errors(whitening):
    whitening.write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(
        DataError, match=r"whitening\.npz is not what `ptkit normstats --whiten` writes"
    ):
        Pipeline.parse(CALLS)
    whitening.unlink()
    with pytest.raises(
        DataError,
        match=r"no whitening\.npz here: `ptkit normstats train\.txt --whiten zca` writes it",
    ):
        Pipeline.parse(CALLS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("LinearTransformation([[1, 0], [0, 1]], [1, 2, 3])", "found 2×2 and 3"),
        ("LinearTransformation([[1, 0]], [1])", "found 1×2 and 1"),
        ("LinearTransformation([[1, 0], [0, 1]])", "mean_vector is missing"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(call, message):
    with pytest.raises(UsageError) as caught:
        build_transform(parse(call))
    assert message in str(caught.value)


def test_size_that_does_not_fit_the_matrix_is_an_error_with_both_sizes(whitening, tmp_path):
    message = "images of 4×4 have 48 values, the matrix is 60×60"
    with pytest.raises(UsageError, match=message):
        Pipeline.parse(["Resize((4, 4))", *CALLS[1:]])
    # Where the size depends on the image, it shows at the first one.
    Image.new("RGB", (4, 4)).save(tmp_path / "small.png")
    with pytest.raises(UsageError, match=f"LinearTransformation cannot be applied: {message}"):
        Pipeline.parse(CALLS[1:]).read_image(tmp_path / "small.png")


def test_size_of_a_square_matrix_is_named():
    linear = LinearTransformation(torch.eye(48), torch.zeros(48))
    with pytest.raises(
        ValueError, match="images of 3×3 have 27 values, the matrix is 48×48, for 4×4 pixels"
    ):
        linear(torch.zeros(1, 3, 3, 3))


AROUND = {"size": 8, "mean": (0.5, 0.5, 0.5), "std": (0.1, 0.1, 0.1)}


def test_list_that_whitens_gets_a_tensor_before_it_and_no_normalize():
    linear = CALLS[2]
    crop, erase = "RandomCrop(8, padding=1)", "RandomErasing()"
    assert complete(parse_all([crop, linear, erase]), **AROUND) == parse_all(
        ["Resize((8, 8))", crop, "ToTensor()", linear, erase]
    )
    named = parse_all(["Resize((8, 8))", "ToTensor()", linear, "Normalize([0], [2])"])
    assert complete(named, **AROUND) == named


def test_evaluation_whitens_as_training_does():
    linear = CALLS[2]
    resize = "Resize((8, 8))"
    training = complete(parse_all(["RandomCrop(8, padding=1)", linear]), **AROUND)
    assert evaluation_of(training) == parse_all([resize, "ToTensor()", linear])
    after = ("ToTensor()", linear, "Normalize([0], [2])")
    named = parse_all([resize, "RandomVerticalFlip()", *after])
    assert evaluation_of(named) == parse_all([resize, *after])
