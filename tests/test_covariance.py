import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import write_list
from torchvision.transforms import v2

from ptkit.core.data.lists import read_list
from ptkit.core.data.statistics import sample
from ptkit.core.data.transforms.completion import complete
from ptkit.core.data.transforms.covariance import (
    EPSILON,
    mean_and_covariance,
    measure_whitening,
    save,
    whitening_size,
)
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import DataError, UsageError


def saved(pictures, folder):
    """Save images, uint8 (H, W, 3) each, and return their list and all of its indices."""
    for index, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{index}.bmp")
    write_list(folder / "list.txt", [(f"{index}.bmp", 0) for index in range(len(pictures))])
    images = read_list(folder / "list.txt")
    return images, sample(images)


@pytest.fixture
def listed(tmp_path):
    """A function that saves images and returns their list and all of its indices."""
    return lambda pictures: saved(pictures, tmp_path)


@pytest.fixture(scope="module")
def correlated():
    """1,500 images of 4×4 whose 48 values depend on each other, each with noise of its own; uint8
    (n, 4, 4, 3).
    """
    random = np.random.default_rng(0)
    shared = random.normal(size=(1500, 6)) @ random.normal(size=(6, 48))
    values = 120 + 15 * shared + 8 * random.normal(size=(1500, 48))
    return values.clip(0, 255).astype(np.uint8).reshape(-1, 4, 4, 3)


@pytest.fixture(scope="module")
def stored(correlated, tmp_path_factory):
    """The list of those images and all of its indices; only to be read."""
    return saved(correlated, tmp_path_factory.mktemp("correlated"))


def flattened(pictures):
    """Return images as rows in the order of a (3, H, W) tensor, float64 in 0..1."""
    return np.stack(pictures).transpose(0, 3, 1, 2).reshape(len(pictures), -1) / 255


def whitened(pictures, whitening):
    """Return images, float32 (n, D), as torchvision's LinearTransformation gives them."""
    transform = v2.LinearTransformation(
        torch.from_numpy(whitening.matrix), torch.from_numpy(whitening.mean)
    )
    tensors = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return transform(tensors).flatten(1).numpy()


@pytest.mark.parametrize("count", [1, 31, 33, 256, 257, 700])
def test_blocks_add_up_to_what_numpy_gives_on_all_images_at_once(listed, correlated, count):
    pictures = correlated[:count, :3]
    mean, found = mean_and_covariance(*listed(pictures), size=(3, 4))
    values = flattened(pictures)
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=0, atol=1e-14)
    # np.cov takes a single image for a single pixel before numpy 2.
    centred = values - values.mean(axis=0)
    np.testing.assert_allclose(found, centred.T @ centred / count, rtol=0, atol=1e-14)


def test_sums_of_a_whole_block_of_white_pixels_are_exact(listed):
    pictures = [np.full((1, 1, 3), 255, np.uint8)] * 300
    mean, found = mean_and_covariance(*listed(pictures), size=(1, 1))
    assert mean.tolist() == [1, 1, 1]
    assert not found.any()


@pytest.mark.parametrize("kind", ["zca", "pca"])
def test_whitened_images_have_mean_zero_and_the_identity_as_covariance(stored, correlated, kind):
    values = whitened(correlated, measure_whitening(*stored, kind=kind))
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(values, rowvar=False), np.eye(48), rtol=0, atol=0.01)


def test_zca_is_symmetric_and_leaves_every_image_looking_like_itself(stored, correlated):
    found = measure_whitening(*stored, kind="zca")
    np.testing.assert_array_equal(found.matrix, found.matrix.T)
    before = flattened(correlated) - found.mean
    after = whitened(correlated, found)
    correlations = (
        (before * after).sum(axis=1)
        / np.linalg.norm(before, axis=1)
        / np.linalg.norm(after, axis=1)
    )
    assert correlations.min() > 0.2


def test_pca_gives_the_directions_of_largest_variance_first(stored, correlated):
    found = measure_whitening(*stored, kind="pca")
    values = flattened(correlated) - found.mean
    directions = found.matrix / np.linalg.norm(found.matrix, axis=0)
    variances = (values @ directions).var(axis=0)
    largest = np.linalg.svd(values, compute_uv=False) ** 2 / len(values)
    np.testing.assert_allclose(variances, largest, rtol=1e-4)


def test_pca_has_the_same_signs_everywhere(stored):
    matrix = measure_whitening(*stored, kind="pca").matrix
    assert (matrix.max(axis=0) == np.abs(matrix).max(axis=0)).all()


def test_epsilon_bounds_how_much_a_direction_without_variance_is_enlarged(listed, correlated):
    grey = np.repeat(correlated[:400, ..., :1], 3, axis=-1)
    found = measure_whitening(*listed(grey), kind="zca")
    assert found.rank == 16
    assert np.linalg.norm(found.matrix, 2) == pytest.approx(found.epsilon**-0.5, rel=1e-4)
    largest = np.linalg.eigvalsh(np.cov(flattened(grey), rowvar=False, bias=True))[-1]
    assert found.epsilon == pytest.approx(EPSILON * largest)


def test_fewer_images_than_values_have_less_than_full_rank(stored, listed, correlated):
    assert measure_whitening(*listed(correlated[:20]), kind="zca").rank == 19
    assert measure_whitening(*stored, kind="zca").rank == 48


@pytest.mark.parametrize("workers", [1, 5])
def test_whitening_does_not_depend_on_the_number_of_threads(listed, correlated, workers):
    images, chosen = listed(correlated[:300])
    found = measure_whitening(images, chosen, kind="pca", workers=workers)
    np.testing.assert_array_equal(
        found.matrix, measure_whitening(images, chosen, kind="pca", workers=2).matrix
    )


@pytest.mark.parametrize("size", [5, 12])
def test_images_are_resized_as_training_resizes_them(listed, size):
    random = np.random.default_rng(0)
    images, chosen = listed(
        [random.integers(0, 256, (30, 20 + k, 3), dtype=np.uint8) for k in range(4)]
    )
    training = Pipeline.of(complete((), size=size, mean=(0, 0, 0), std=(1, 1, 1)))
    seen = [training.read_image(images.image_path(index)).flatten().numpy() for index in range(4)]
    found = measure_whitening(images, chosen, kind="zca", size=size)
    np.testing.assert_allclose(found.mean, np.mean(seen, axis=0), rtol=0, atol=1e-6)
    assert found.size == (size, size)


def test_images_of_one_size_keep_it_even_if_they_are_not_square(listed, correlated):
    images, chosen = listed(correlated[:50, :2])
    assert whitening_size(images, chosen, size=None) == (2, 4)
    assert measure_whitening(images, chosen, kind="zca").matrix.shape == (24, 24)


def test_photographs_turned_by_exif_are_whitened_upright(tmp_path, correlated):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(correlated[0, :3]).save(tmp_path / "turned.png", exif=turned)
    Image.fromarray(correlated[1, :, :3]).save(tmp_path / "upright.png")
    write_list(tmp_path / "list.txt", [("turned.png", 0), ("upright.png", 0)])
    images = read_list(tmp_path / "list.txt")
    assert whitening_size(images, sample(images), size=None) == (4, 3)


def test_only_the_chosen_images_count(listed, correlated):
    images, _ = listed(correlated[:60])
    mean, _ = mean_and_covariance(images, np.array([3, 50]), size=(4, 4))
    np.testing.assert_allclose(
        mean, flattened(correlated[[3, 50]]).mean(axis=0), rtol=0, atol=1e-14
    )


def test_progress_counts_every_image_once(listed, correlated):
    counts = []
    mean_and_covariance(*listed(correlated[:300]), size=(4, 4), on_images=counts.append)
    assert sum(counts) == 300


def test_saved_whitening_is_plain_arrays_that_make_the_transform(listed, correlated):
    images, chosen = listed(correlated[:100])
    found = measure_whitening(images, chosen, kind="zca")
    file = save(found, images.file)
    assert file == images.file.parent / "whitening.npz"
    with np.load(file, allow_pickle=False) as saved:
        assert saved["transformation_matrix"].dtype == saved["mean_vector"].dtype == np.float32
        np.testing.assert_array_equal(saved["transformation_matrix"], found.matrix)
        np.testing.assert_array_equal(saved["mean_vector"], found.mean)
        assert saved["size"].tolist() == [4, 4]
        assert (str(saved["kind"]), int(saved["num_images"])) == ("zca", 100)
        assert str(saved["list_sha256"]) == images.sha256


def test_whitening_the_same_list_twice_writes_the_same_file(listed, correlated):
    images, chosen = listed(correlated[:100])
    written = [
        save(measure_whitening(images, chosen, kind="pca"), images.file).read_bytes()
        for _ in range(2)
    ]
    assert written[0] == written[1]


# ------------------------------------------------------------------------------------------- errors


def test_images_of_different_sizes_are_an_error_that_asks_for_a_size(listed, correlated):
    images, chosen = listed([correlated[0], correlated[1, :2]])
    with pytest.raises(
        UsageError, match=r"differ in size \(4×4 and 2×4\): pass --size, the one of training"
    ):
        measure_whitening(images, chosen, kind="zca")


def test_images_that_are_too_large_are_refused_before_they_are_decoded(tmp_path):
    Image.new("RGB", (400, 300)).save(tmp_path / "large.png")
    data = (tmp_path / "large.png").read_bytes()
    # The header is whole, the pixels are not.
    (tmp_path / "large.png").write_bytes(data[: len(data) // 2])
    write_list(tmp_path / "list.txt", [("large.png", 0)])
    images = read_list(tmp_path / "list.txt")
    with pytest.raises(
        UsageError,
        match=r"300×400 images takes matrices of 360,000×360,000, .*: pass --size \d\d or",
    ):
        measure_whitening(images, sample(images), kind="zca")


def test_more_memory_than_there_is_is_told_with_the_size_that_fits(listed, correlated):
    images, chosen = listed(correlated[:2])
    with pytest.raises(UsageError) as caught:
        whitening_size(images, chosen, size=60, memory=10**9)
    assert (
        str(caught.value)
        == "whitening 60×60 images takes matrices of 10,800×10,800, 4.7 GB in all, and 1.0 GB of"
        " memory are free: pass --size 40 or less"
    )
    assert whitening_size(images, chosen, size=40, memory=10**9) == (40, 40)


def test_images_that_are_all_the_same_are_an_error(listed, correlated):
    with pytest.raises(
        DataError, match=r"all images of .*list\.txt are the same: there is nothing to whiten"
    ):
        measure_whitening(*listed([correlated[0]] * 3), kind="zca")


def test_unreadable_images_are_counted_and_the_first_is_named(listed, correlated, tmp_path):
    images, chosen = listed(correlated[:100])
    for index in (77, 3):
        (tmp_path / f"{index}.bmp").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        measure_whitening(images, chosen, kind="zca")
    first = tmp_path / "3.bmp"
    assert (
        str(caught.value)
        == f"cannot read {first}: the file is empty (2 of 100 images cannot be read)"
    )
