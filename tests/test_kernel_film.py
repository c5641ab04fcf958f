"""The film of the first kernels: what is kept of a run, and the GIF that it becomes."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ptkit.core.training import frames, kernel_film
from ptkit.core.training.kernel_film import KernelFilm, read_film
from ptkit.plots.kernel_film import film_frames, gif_bytes


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1))


def set_weights(model, value):
    with torch.no_grad():
        model[0].weight.fill_(value)


def film_of(run, model, epochs, *, up_to_epoch=0):
    """Film epochs whose weights are all the epoch's number."""
    film = KernelFilm(run, up_to_epoch=up_to_epoch)
    for epoch in epochs:
        set_weights(model, epoch)
        (
            film.epoch(SimpleNamespace(epoch=epoch), model)()
            if epoch
            else film.start(model, torch.zeros(1), {}, np.zeros((1, 1, 3), np.uint8))
        )
    return read_film(run)


def test_the_film_has_the_first_kernels_of_every_epoch(tmp_path, model):
    film = film_of(tmp_path, model, range(4))
    assert (film.layer, film.num_outputs, film.epochs) == ("0", 2, (0, 1, 2, 3))
    expected = np.broadcast_to(
        np.arange(4, dtype=np.float32)[:, None, None, None, None], (4, 2, 3, 3, 3)
    )
    np.testing.assert_array_equal(film.kernels, expected)


def test_the_first_frame_waits_for_what_a_gpu_copies(tmp_path, model, late_copies):
    late_copies(kernel_film)
    set_weights(model, 3)
    KernelFilm(tmp_path).start(model, torch.zeros(1), {}, np.zeros((1, 1, 3), np.uint8))
    assert (read_film(tmp_path).kernels == 3).all()


def test_a_film_cut_and_resumed_is_the_film_of_a_run_that_was_not(tmp_path, model):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    film_of(tmp_path / "whole", model, range(7))
    film_of(tmp_path / "cut", model, range(6))
    film_of(tmp_path / "cut", model, range(4, 7), up_to_epoch=3)
    whole, cut = (tmp_path / name / "kernels.npz" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_a_resumed_film_forgets_what_was_lost(tmp_path, model):
    film_of(tmp_path, model, range(6))
    assert film_of(tmp_path, model, [3], up_to_epoch=2).epochs == (0, 1, 2, 3)


def test_a_long_film_keeps_the_first_and_the_newest_frame(tmp_path, model, monkeypatch):
    monkeypatch.setattr(frames, "MAX_FRAMES", 5)
    assert film_of(tmp_path, model, range(14)).epochs == (0, 4, 8, 12, 13)


def test_a_damaged_film_begins_anew(tmp_path, model):
    (tmp_path / "kernels.npz").write_bytes(b"PK\x03\x04 and nothing more")
    assert read_film(tmp_path) is None
    assert film_of(tmp_path, model, [5], up_to_epoch=4).epochs == (5,)


def test_a_model_without_convolutions_has_no_film(tmp_path):
    film = KernelFilm(tmp_path)
    film.start(nn.Linear(2, 2), torch.zeros(1), {}, np.zeros((1, 1, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_large_layers_are_filmed_in_part(tmp_path):
    film = KernelFilm(tmp_path)
    film.start(nn.Conv2d(3, 768, 16), torch.zeros(1), {}, np.zeros((1, 1, 3), np.uint8))
    film = read_film(tmp_path)
    assert (film.num_outputs, film.kernels.shape) == (768, (1, 42, 3, 16, 16))


@pytest.mark.parametrize("inputs", [1, 3, 16])
def test_frames_are_of_one_size_and_differ_where_kernels_do(inputs):
    kernels = np.random.default_rng(0).normal(size=(3, 5, inputs, 3, 3)).astype(np.float32)
    kernels[2] = kernels[1]
    first, second, third = film_frames(kernels, (0, 4, 8), layer="conv1", num_outputs=5)
    assert first.shape == second.shape == third.shape
    below_text = slice(first.shape[0] // 3, None)
    changed = (second != third).any(axis=2)[below_text]
    moved = (first != second).any(axis=2)[below_text]
    # Between the last two only the bar of the time grows.
    assert 0 < changed.sum() < moved.sum() / 10


def test_the_gif_has_all_frames_a_white_page_and_rests_on_the_last():
    kernels = np.random.default_rng(0).normal(size=(4, 6, 3, 3, 3)).astype(np.float32)
    frames = film_frames(kernels, (0, 1, 2, 3), layer="conv1", num_outputs=6)
    gif = Image.open(io.BytesIO(gif_bytes(frames)))
    durations = []
    for number in range(gif.n_frames):
        gif.seek(number)
        durations.append(gif.info["duration"])
    assert (gif.size, gif.info["loop"], durations) == (
        frames[0].shape[1::-1],
        0,
        [500, 500, 500, 2000],
    )
    shown = np.asarray(gif.convert("RGB")).astype(int)
    assert (shown[0, 0] == 255).all()
    assert np.abs(shown - frames[-1]).mean() < 3
