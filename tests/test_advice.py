"""What is said of a run that has ended: where it is true, and only there."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_data import make_lists
from torch import nn

import ptkit
from ptkit.core.config.layers import resolve
from ptkit.core.parts.calls import parse
from ptkit.core.training.advice import Facts, speedups, telling_difference, verdicts
from ptkit.core.training.observers import Unwatched
from ptkit.core.training.setup import prepare
from ptkit.core.training.tasks.guessing import guessing_loss
from ptkit.core.training.tasks.loss import LabelFacts
from ptkit.core.training.tasks.losses import build_loss
from ptkit.core.training.tasks.metrics import Majority

LOSSES = [(2.1, 2.2), (1.2, 1.0), (0.6, 0.5)]
GOOD = Facts(
    run=Path("runs/1"),
    rows=[
        {"epoch": k, "train_loss": train, "valid_loss": valid}
        for k, (train, valid) in enumerate(LOSSES, 1)
    ],
    kind="single-label",
    num_classes=10,
    num_train=5_000,
    num_right=960,
    num_valid=1_000,
    majority=Majority("bee", 0.13),
    unseen_classes=(),
    smallest_class=130,
    guessing=2.3,
    lr=0.1,
    train_list="train.txt",
    valid_list="valid.txt",
    is_photos=False,
    is_from_scratch=True,
)


def test_a_rate_that_the_schedule_sets_is_lowered_there():
    assert replace(GOOD, lr=0.1).slower.endswith(" --lr 0.01")
    cycle = replace(GOOD, schedule="OneCycleLR(max_lr=0.4)")
    assert cycle.slower.endswith(" --scheduler 'OneCycleLR(max_lr=0.04)'")


def test_a_class_without_validation_images_is_named():
    found = verdicts(replace(GOOD, unseen_classes=("wasp",)))
    assert [verdict.rule for verdict in found] == ["classes_not_validated"]
    assert found[0].text.startswith("valid.txt has no image of wasp: the accuracy says nothing")


@pytest.mark.parametrize(
    ("smallest", "advice"), [(130, "--kfold 5"), (3, "--kfold 3"), (1, "get more images")]
)
def test_no_more_folds_are_advised_than_a_class_has_images(smallest, advice):
    few = replace(GOOD, num_right=20, num_valid=24, smallest_class=smallest)
    assert advice in next(v.text for v in verdicts(few) if v.rule == "few_validation_images")


def rules(facts):
    return [verdict.rule for verdict in verdicts(facts)]


def text_of(facts):
    (verdict,) = verdicts(facts)
    return verdict.text


def with_losses(*losses):
    rows = [{"epoch": k, "train_loss": t, "valid_loss": v} for k, (t, v) in enumerate(losses, 1)]
    return replace(GOOD, rows=rows)


def test_of_a_good_run_there_is_nothing_to_say():
    assert verdicts(GOOD) == ()


def test_a_validation_loss_that_explodes_is_told_with_its_epoch():
    found = text_of(with_losses((2.1, 2.2), (1.2, 1.0), (1.0, 25_723.4), (0.9, 40.0)))
    assert "exploded: 2.572e+04 in epoch 3, where guessing gives 2.30" in found
    calmer = "`ptkit train --config runs/1/config.toml --lr 0.01 --set train.clip_grad=1`"
    assert found.endswith(calmer)
    found = text_of(with_losses((2.1, 2.2), (1.2, 1.0), (1.0, 44.0), (0.3, 0.4)))
    assert found == (
        "the validation loss was 44 in epoch 3, before it came down again (guessing gives 2.30);"
        f" calmer: {calmer}"
    )


def test_a_high_loss_in_the_first_two_epochs_is_usual():
    assert rules(with_losses((2.1, 900.0), (1.2, 7.0), (1.0, 6.9))) == []


def test_a_training_loss_that_never_fell_below_chance_is_told():
    assert rules(with_losses((2.5, 2.2), (2.31, 2.3))) == ["never_below_chance"]
    assert rules(with_losses((2.5, 2.2), (2.26, 2.3))) == ["never_below_chance"]
    assert rules(with_losses((2.5, 2.2), (2.25, 2.3))) == []


def test_of_losses_without_a_chance_level_nothing_is_said():
    facts = with_losses((900.0, 900.0), (900.0, 900.0), (900.0, 900.0))
    assert rules(replace(facts, guessing=None)) == []


@pytest.mark.parametrize(("num_right", "is_told"), [(1420, False), (1330, True), (900, True)])
def test_an_accuracy_whose_interval_holds_the_largest_class_is_no_better(num_right, is_told):
    found = rules(replace(GOOD, num_right=num_right, num_valid=10_000))
    assert found == (["no_better_than_majority"] if is_told else [])


def test_where_one_class_has_most_images_the_small_ones_are_made_to_count():
    facts = replace(GOOD, num_right=900, majority=Majority("bee", 0.9))
    assert "data.sampler=balanced --set train.metric=balanced_accuracy`" in text_of(facts)
    # A head that is fitted draws no images.
    assert "`ptkit confmat runs/1 valid.txt`" in text_of(replace(facts, lr=None))


def test_photographs_from_scratch_are_told_unless_there_are_very_many(monkeypatch):
    monkeypatch.setattr("ptkit.core.training.advice.is_installed", lambda: True)
    facts = replace(GOOD, is_photos=True, train_list="my train.txt")
    assert text_of(facts).endswith("in less time: `ptkit probe --train 'my train.txt'`")
    assert rules(replace(facts, num_train=100_000)) == []
    assert rules(replace(facts, is_from_scratch=False)) == []
    monkeypatch.setattr("ptkit.core.training.advice.is_installed", lambda: False)
    assert "`pip install 'ptkit[photos]'`, then `ptkit probe" in text_of(facts)


def test_of_numbers_only_what_is_true_of_numbers_is_told():
    of_numbers = {"kind": "regression", "majority": None, "num_right": 0, "num_valid": 0}
    facts = replace(GOOD, **of_numbers, guessing=None)
    assert rules(facts) == []
    found = text_of(replace(facts, is_photos=True))
    assert "`ptkit finetune efficientnet_lite0 --recipe finetune`" in found


def test_few_validation_images_say_which_differences_mean_nothing():
    facts = replace(GOOD, num_right=147, num_valid=153)
    low, high = 0.9170, 0.9819
    assert telling_difference(147, 153) == pytest.approx((high - low) / 2 * 2**0.5, abs=1e-4)
    assert text_of(facts).startswith(
        "153 validation images: differences between runs below 5 points mean nothing"
    )


COUNTS = torch.tensor([6.0, 3.0, 1.0])


@pytest.mark.parametrize(
    "call",
    [
        "CrossEntropyLoss()",
        "CrossEntropyLoss(label_smoothing=0.1)",
        "CrossEntropyLoss(weight=[1, 2, 5], label_smoothing=0.2)",
        "CrossEntropyLoss(ignore_index=1)",
        "NLLLoss(weight=[1, 2, 5])",
    ],
)
def test_guessing_is_the_least_loss_of_one_answer_for_all_images(call):
    empty = torch.empty(0)
    facts = LabelFacts("single-label", 3, 10, COUNTS, empty, empty)
    loss = build_loss(parse(call), facts)
    labels = torch.arange(3).repeat_interleave(COUNTS.long())
    answer = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.LBFGS([answer], max_iter=100, line_search_fn="strong_wolfe")

    def step():
        optimizer.zero_grad()
        value = loss(answer.expand(10, 3), labels)
        value.backward()
        return value

    optimizer.step(step)
    assert guessing_loss(loss, is_balanced=False) == pytest.approx(step().item(), abs=1e-4)


def test_guessing_classes_that_are_drawn_equally_often_is_the_logarithm_of_their_number():
    empty = torch.empty(0)
    facts = LabelFacts("single-label", 3, 10, COUNTS, empty, empty)
    loss = build_loss(parse("CrossEntropyLoss()"), facts)
    assert guessing_loss(loss, is_balanced=True) == pytest.approx(torch.tensor(3.0).log().item())
    of_other = build_loss(parse("MultiMarginLoss()"), facts)
    assert guessing_loss(of_other, is_balanced=True) is None


def test_guessing_mixed_images_is_a_mean_over_images_whatever_their_classes_weigh():
    empty = torch.empty(0)
    facts = LabelFacts("single-label", 3, 10, torch.tensor([4.0, 3, 3]), empty, empty)
    plain, weighted = (
        build_loss(parse(call), facts)
        for call in ("CrossEntropyLoss()", "CrossEntropyLoss(weight=[5, 5, 5])")
    )
    expected = 5 * guessing_loss(plain, is_balanced=False)
    assert guessing_loss(weighted, is_balanced=False, is_mixed=True) == pytest.approx(expected)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


def speedups_of(**sections):
    setup = prepare(resolve(sections), Unwatched(), is_resumed=False)
    setup.data.close()
    return " ".join(speedups(setup))


@pytest.mark.slow
def test_what_makes_an_epoch_faster_is_what_it_does_not_do_yet(here):
    small = speedups_of()
    assert ("--size" in small, "data.cache" in small, "a GPU" in small) == (False, False, True)
    large = speedups_of(data={"size": 96, "cache": "off"}, model={"call": "resnet8()"})
    assert "--size 48 (about a quarter of the work) `ptkit probe`" in large
    assert "--set data.cache=disk" in large


@pytest.mark.usefixtures("blank_pictures")
def test_a_run_that_is_thrown_off_says_so(here):
    far_off = {"lr": 30.0, "optimizer": "SGD()", "scheduler": "none", "warmup": 0.0}
    quiet = {"tensorboard": False, "pictures": False, "link": None}
    found = ptkit.train(epochs=3, batch_size=16, **far_off, **quiet)
    rules = [verdict.rule for verdict in found.verdicts]
    assert rules == ["exploded", "never_below_chance", "no_better_than_majority",
                     "few_validation_images"]  # fmt: skip
