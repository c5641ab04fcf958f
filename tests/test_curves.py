import math

import numpy as np
import pytest

from ptkit.core.shares import interval
from ptkit.plots.curves import learning_curves, smoothed
from ptkit.plots.saving import pixels


def rows_of(accuracies, **columns):
    return [
        {
            "epoch": k + 1,
            "train_loss": 2.0 / (k + 1),
            "train_accuracy": accuracy,
            "valid_loss": 2.2 / (k + 1),
            "valid_accuracy": accuracy,
            "lr": 0.1,
            "seconds": 1.0,
            "images_per_s": 100.0,
        }
        | {key: values[k] for key, values in columns.items()}
        for k, accuracy in enumerate(accuracies)
    ]


def draw(rows, **options):
    return learning_curves(
        rows,
        chance_loss=math.log(10),
        majority_share=0.2,
        num_valid=100,
        footer="runs/1",
        **options,
    )


def texts(figure):
    return " ".join(text.get_text() for text in figure.texts)


def panel(figure, label):
    return next(axes for axes in figure.axes if axes.get_ylabel() == label)


def test_title_gives_the_best_epoch_with_its_interval():
    assert "80.0% (71.1 to 86.7%) at epoch 2 of 3" in texts(draw(rows_of([0.5, 0.8, 0.7])))


def test_ties_go_to_the_lower_loss_and_then_to_the_earlier_epoch():
    assert "epoch 2 of 3" in texts(draw(rows_of([0.8, 0.8, 0.8], valid_loss=[0.5, 0.4, 0.4])))


def test_baselines_are_at_chance_and_at_the_majority_share():
    figure = draw(rows_of([0.5, 0.8, 0.7]))
    loss, accuracy = panel(figure, "loss"), panel(figure, "accuracy")
    assert any(np.allclose(line.get_ydata(), math.log(10)) for line in loss.lines)
    assert any(np.allclose(line.get_ydata(), 0.2) for line in accuracy.lines)
    assert [text.get_text() for text in (*loss.texts, *accuracy.texts)] == [
        "chance, ln K = 2.3",
        "always the largest class, 20.0%",
    ]


def test_the_band_is_the_interval_of_the_share():
    band = panel(draw(rows_of([0.5, 0.5, 0.5])), "accuracy").collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx(interval(50, 100))


def test_a_label_is_where_the_curves_are_not():
    low = [0.21, 0.22, 0.24, 0.9, 0.95, 0.97, 0.98, 0.98]
    above_at_the_left, below = low[::-1], [0.1] * 8
    places = []
    for values in (low, above_at_the_left, below):
        (text,) = panel(draw(rows_of(values, train_accuracy=values)), "accuracy").texts
        places.append((text.get_ha(), text.get_va()))
    assert places == [("right", "bottom"), ("left", "bottom"), ("right", "bottom")]


def test_long_runs_have_a_thin_raw_and_a_thick_smoothed_line():
    values = np.random.default_rng(0).random(40)
    lines = panel(draw(rows_of(values)), "accuracy").lines
    raw, smooth = [line for line in lines if len(line.get_xdata()) == 40][:2]
    assert np.array_equal(raw.get_ydata(), values)
    assert raw.get_linewidth() < smooth.get_linewidth()
    assert np.ptp(smooth.get_ydata()) < np.ptp(values)


def test_smoothing_keeps_straight_lines_and_gaps():
    line = np.linspace(0, 1, 50)
    assert np.allclose(smoothed(line), line)
    line[10] = np.nan
    assert np.flatnonzero(np.isnan(smoothed(line))).tolist() == [10]


@pytest.mark.parametrize("blank", [None, math.nan])
def test_blank_training_accuracy_leaves_only_the_validation_curve(blank):
    figure = draw(rows_of([0.5, 0.8, 0.7], train_accuracy=[blank] * 3))
    assert pixels(figure).std() > 0
    curves = [line for line in panel(figure, "accuracy").lines if len(line.get_xdata()) == 3]
    assert sum(np.isfinite(line.get_ydata()).any() for line in curves) == 1


def test_one_epoch_is_a_picture():
    figure = draw(rows_of([0.4]))
    assert "40.0% (30.9 to 49.8%) at epoch 1 of 1" in texts(figure)
    assert pixels(figure).std() > 0


def test_losses_far_above_chance_are_drawn_on_a_log_scale():
    assert panel(draw(rows_of([0.4, 0.5], train_loss=[500.0, 1.0])), "loss").get_yscale() == "log"
    assert panel(draw(rows_of([0.4, 0.5])), "loss").get_yscale() == "linear"


def test_losses_over_many_decades_have_numbers_at_their_axis():
    rows = [
        {"epoch": e, "train_loss": 6e25 * 10 ** (-2.5 * e), "valid_loss": 2.3, "lr": 1e-9 * e}
        for e in range(1, 11)
    ]
    figure = learning_curves(rows, num_valid=500)
    pixels(figure)
    loss = figure.axes[0]
    low, high = loss.get_ylim()
    ticks = [t.get_text() for t in loss.get_yticklabels() if low <= t.get_position()[1] <= high]
    assert len([text for text in ticks if text]) >= 3
