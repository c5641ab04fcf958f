"""Each loss on the labels it is for: PyTorch's own value, targets, readings, and errors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ptkit.core.data.labels import MULTI, REGRESSION, SINGLE
from ptkit.core.data.lists import read_list
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import parse
from ptkit.core.training.tasks.loss import LabelFacts, Loss
from ptkit.core.training.tasks.losses import (
    DEFAULTS,
    LOSSES,
    RULES,
    build_loss,
    facts_of,
    usual_optimizer,
)
from ptkit.core.training.tasks.task import DECODERS, Task
from ptkit.core.training.trials import check_own_loss

NONE = torch.empty(0)
CLASSES = LabelFacts(SINGLE, 3, 10, torch.tensor([6.0, 3, 1]), NONE, NONE)
MANY = LabelFacts(MULTI, 3, 10, torch.tensor([5.0, 2, 8]), NONE, NONE)
DECIMALS = LabelFacts(REGRESSION, 2, 10, NONE, torch.tensor([3.0, -1.0]), torch.tensor([2.0, 0.5]))

OUTPUTS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -0.3]])
LABELS = torch.tensor([0, 2])
ONE_HOT = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
LISTS = torch.tensor([[True, False, True], [False, False, True]])
MANY_HOT = LISTS.float()
NUMBERS_SEEN = torch.tensor([[5.0, -1.0], [1.0, 0.0]])
STANDARD = torch.tensor([[1.0, 0.0], [-1.0, 2.0]])
PLACES = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.2]])
PLACE_LABELS = torch.tensor([0, 0, 1, 1])
UNIT = F.normalize(PLACES, dim=1)

# What PyTorch gives for the same task, written out by hand.
OF_ONE_CLASS = {
    "CrossEntropyLoss": nn.CrossEntropyLoss()(OUTPUTS, LABELS),
    "NLLLoss": nn.NLLLoss()(OUTPUTS.log_softmax(1), LABELS),
    "MultiMarginLoss": nn.MultiMarginLoss()(OUTPUTS, LABELS),
    "KLDivLoss": nn.KLDivLoss(reduction="batchmean")(
        OUTPUTS.log_softmax(1), ONE_HOT * 0.9 + 0.1 / 3
    ),
    "BCELoss": nn.BCELoss()(OUTPUTS.sigmoid(), ONE_HOT),
    "BCEWithLogitsLoss": nn.BCEWithLogitsLoss()(OUTPUTS, ONE_HOT),
    "SoftMarginLoss": nn.SoftMarginLoss()(OUTPUTS, ONE_HOT * 2 - 1),
    "MultiLabelSoftMarginLoss": nn.MultiLabelSoftMarginLoss()(OUTPUTS, ONE_HOT),
    "MultiLabelMarginLoss": nn.MultiLabelMarginLoss()(
        OUTPUTS, torch.tensor([[0, -1, -1], [2, -1, -1]])
    ),
    "HingeEmbeddingLoss": nn.HingeEmbeddingLoss()(nn.functional.softplus(OUTPUTS), ONE_HOT * 2 - 1),
    "L1Loss": nn.L1Loss()(OUTPUTS, ONE_HOT),
    "MSELoss": nn.MSELoss()(OUTPUTS, ONE_HOT),
    "SmoothL1Loss": nn.SmoothL1Loss()(OUTPUTS, ONE_HOT),
    "PoissonNLLLoss": nn.PoissonNLLLoss()(OUTPUTS, ONE_HOT),
}
OF_SEVERAL = {
    "BCELoss": nn.BCELoss()(OUTPUTS.sigmoid(), MANY_HOT),
    "BCEWithLogitsLoss": nn.BCEWithLogitsLoss()(OUTPUTS, MANY_HOT),
    "SoftMarginLoss": nn.SoftMarginLoss()(OUTPUTS, MANY_HOT * 2 - 1),
    "MultiLabelSoftMarginLoss": nn.MultiLabelSoftMarginLoss()(OUTPUTS, MANY_HOT),
    "MultiLabelMarginLoss": nn.MultiLabelMarginLoss()(
        OUTPUTS, torch.tensor([[0, 2, -1], [2, -1, -1]])
    ),
}
OF_NUMBERS = {
    "L1Loss": nn.L1Loss()(OUTPUTS[:, :2], STANDARD),
    "MSELoss": nn.MSELoss()(OUTPUTS[:, :2], STANDARD),
    "SmoothL1Loss": nn.SmoothL1Loss()(OUTPUTS[:, :2], STANDARD),
    "PoissonNLLLoss": nn.PoissonNLLLoss()(OUTPUTS[:, :2], NUMBERS_SEEN),
}
# Of four images 0, 0, 1, 1: the two pairs of one class, and of the four others in order of distance
# every second.
_FIRST, _SECOND, _SIGNS = [0, 2, 1, 0], [1, 3, 2, 2], torch.tensor([1.0, 1, -1, -1])
# Every pair of one class in both orders, each with its semi-hard negative.
_ANCHORS, _POSITIVES, _NEGATIVES = [0, 1, 2, 3], [1, 0, 3, 2], [2, 2, 0, 1]


def distances(first: list[int], second: list[int]) -> torch.Tensor:
    return (UNIT[first] - UNIT[second]).norm(dim=1)


OF_PAIRS = {
    "CosineEmbeddingLoss": nn.CosineEmbeddingLoss()(UNIT[_FIRST], UNIT[_SECOND], _SIGNS),
    "HingeEmbeddingLoss": nn.HingeEmbeddingLoss()(distances(_FIRST, _SECOND), _SIGNS),
    "MarginRankingLoss": nn.MarginRankingLoss()(
        distances(_ANCHORS, _NEGATIVES), distances(_ANCHORS, _POSITIVES), torch.ones(4)
    ),
    "TripletMarginLoss": nn.TripletMarginLoss()(UNIT[_ANCHORS], UNIT[_POSITIVES], UNIT[_NEGATIVES]),
}


def test_every_loss_has_labels_that_it_is_for() -> None:
    assert (
        OF_ONE_CLASS.keys() | OF_SEVERAL.keys() | OF_NUMBERS.keys() | OF_PAIRS.keys()
        == LOSSES.parts.keys()
    )
    assert len(LOSSES.parts) == 17


@pytest.mark.parametrize("name", OF_ONE_CLASS)
def test_a_loss_of_one_class_has_pytorchs_own_value(name: str) -> None:
    assert torch.equal(build_loss(parse(f"{name}()"), CLASSES)(OUTPUTS, LABELS), OF_ONE_CLASS[name])


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_a_loss_of_several_classes_has_pytorchs_own_value(name: str) -> None:
    assert torch.equal(build_loss(parse(f"{name}()"), MANY)(OUTPUTS, LISTS), OF_SEVERAL[name])


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_a_loss_of_numbers_has_pytorchs_own_value_in_units_of_their_spread(name: str) -> None:
    assert torch.equal(
        build_loss(parse(f"{name}()"), DECIMALS)(OUTPUTS[:, :2], NUMBERS_SEEN), OF_NUMBERS[name]
    )


@pytest.mark.parametrize("name", OF_PAIRS)
def test_a_loss_of_pairs_has_pytorchs_own_value_on_what_is_formed(name: str) -> None:
    loss = build_loss(parse(f"{name}()"), CLASSES, pairs=True)
    assert torch.allclose(loss(PLACES, PLACE_LABELS), OF_PAIRS[name])
    assert loss.task.kind == "embedding"


@pytest.mark.parametrize("name", OF_PAIRS)
def test_a_batch_without_pairs_gives_no_loss_and_no_gradient(name: str) -> None:
    places = PLACES[:2].clone().requires_grad_()
    value = build_loss(parse(f"{name}(margin=0.5)"), CLASSES, pairs=True)(
        places, torch.tensor([0, 0])
    )
    value.backward()
    assert torch.isfinite(places.grad).all()


def test_swap_takes_effect() -> None:
    plain, swapped = (
        build_loss(parse(f"TripletMarginLoss(swap={swap})"), CLASSES) for swap in (False, True)
    )
    assert swapped(PLACES, PLACE_LABELS) > plain(PLACES, PLACE_LABELS)


@pytest.mark.parametrize("name", OF_ONE_CLASS)
def test_a_step_against_the_gradient_makes_the_true_class_more_probable(name: str) -> None:
    loss = build_loss(parse(f"{name}()"), CLASSES)
    # Near zero, as a fresh network's: far out a regression loss may pull a large right answer down.
    outputs = (OUTPUTS * 0.1).requires_grad_()
    loss(outputs, LABELS).backward()
    before = loss.task.values(outputs.detach())[torch.arange(2), LABELS]
    after = loss.task.values(outputs.detach() - 0.1 * outputs.grad)[torch.arange(2), LABELS]
    assert after.sum() > before.sum()


@pytest.mark.parametrize("name", OF_ONE_CLASS)
def test_the_predicted_class_is_the_most_probable_one(name: str) -> None:
    task = build_loss(parse(f"{name}()"), CLASSES).task
    values = task.values(OUTPUTS)
    assert torch.equal(task.answers(OUTPUTS), values.argmax(1))
    assert torch.allclose(values.sum(1), torch.ones(2))


@pytest.mark.parametrize("name", ["BCELoss", "L1Loss"])
def test_the_prediction_is_right_where_probabilities_saturate(name: str) -> None:
    saturated = torch.tensor([[18.0, 25.0, -1.0], [1.1, 1.3, 0.0], [-0.3, -0.1, -0.2]])
    assert build_loss(parse(f"{name}()"), CLASSES).task.answers(saturated).tolist() == [1, 1, 1]


def test_several_classes_are_read_one_by_one() -> None:
    task = build_loss(None, MANY).task
    assert task.answers(torch.tensor([[2.0, -2.0, 0.1]])).tolist() == [[True, False, True]]


def test_numbers_are_read_in_their_own_units() -> None:
    task = build_loss(None, DECIMALS).task
    assert task.values(torch.tensor([[1.0, -2.0]])).tolist() == [[5.0, -2.0]]


def test_counts_are_read_as_counts() -> None:
    assert build_loss(parse("PoissonNLLLoss()"), DECIMALS).task.values(
        torch.zeros(1, 2)
    ).tolist() == [[1.0, 1.0]]
    loss = build_loss(parse("PoissonNLLLoss(log_input=False)"), DECIMALS)
    assert torch.equal(loss.task.values(OUTPUTS), F.softplus(OUTPUTS))
    expected = nn.PoissonNLLLoss(log_input=False)(F.softplus(OUTPUTS[:, :2]), NUMBERS_SEEN)
    assert torch.equal(loss(OUTPUTS[:, :2], NUMBERS_SEEN), expected)


def test_the_labels_choose_the_loss() -> None:
    losses = {f.kind: build_loss(None, f).criterion for f in (CLASSES, MANY, DECIMALS)}
    assert {kind: type(loss).__name__ for kind, loss in losses.items()} == {
        SINGLE: "CrossEntropyLoss",
        MULTI: "BCEWithLogitsLoss",
        REGRESSION: "SmoothL1Loss",
    }
    assert DEFAULTS[SINGLE] == "CrossEntropyLoss(label_smoothing=0.1)"


def test_a_list_of_class_weights_takes_effect() -> None:
    loss = build_loss(parse("CrossEntropyLoss(weight=[1, 1, 5])"), CLASSES)
    assert torch.equal(
        loss(OUTPUTS, LABELS),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1, 5]))(OUTPUTS, LABELS),
    )


def test_balanced_weights_come_from_the_list() -> None:
    loss = build_loss(parse('CrossEntropyLoss(weight="balanced")'), CLASSES)
    assert loss.criterion.weight.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])


def test_balanced_weights_of_several_labels_count_images_not_labels() -> None:
    loss = build_loss(parse('MultiLabelSoftMarginLoss(weight="balanced")'), MANY)
    expected = MANY.num_images / (MANY.num_classes * MANY.counts)
    torch.testing.assert_close(loss.criterion.weight, expected)


def test_balanced_pos_weights_are_absent_over_present() -> None:
    loss = build_loss(parse('BCEWithLogitsLoss(pos_weight="balanced")'), MANY)
    assert loss.criterion.pos_weight.tolist() == pytest.approx([1.0, 4.0, 0.25])


def test_log_targets_give_the_same_divergence() -> None:
    losses = [
        build_loss(parse(f"KLDivLoss(log_target={flag})"), CLASSES)(OUTPUTS, LABELS)
        for flag in (True, False)
    ]
    assert torch.allclose(*losses)


@pytest.mark.parametrize("name", OF_ONE_CLASS)
def test_an_unmixed_share_of_one_is_the_plain_loss(name: str) -> None:
    loss = build_loss(parse(f"{name}()"), CLASSES)
    mixed = loss.mixed(OUTPUTS, LABELS, LABELS.flip(0), torch.ones(2))
    assert torch.allclose(mixed, loss(OUTPUTS, LABELS))


def test_a_loss_that_gives_no_image_its_own_is_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "own_loss.py").write_text(
        "import torch\n"
        "class Mean(torch.nn.CrossEntropyLoss):\n"
        "    def forward(self, outputs, labels):\n"
        "        return super().forward(outputs, labels).mean()\n"
    )
    loss = build_loss(parse(f"{tmp_path}/own_loss.py:Mean()"), CLASSES)
    with pytest.raises(UsageError, match="Mean must give each image's for reduction='none'"):
        loss.mixed(OUTPUTS, LABELS, LABELS.flip(0), torch.ones(2))


def test_mixed_cross_entropy_is_that_of_soft_targets() -> None:
    share = torch.tensor([0.3, 0.8])
    loss = build_loss(parse("CrossEntropyLoss(label_smoothing=0.1, weight=[1, 2, 5])"), CLASSES)
    partner = LABELS.flip(0)
    soft = F.one_hot(LABELS, 3) * share[:, None] + F.one_hot(partner, 3) * (1 - share[:, None])
    assert torch.allclose(
        loss.mixed(OUTPUTS, LABELS, partner, share), loss.criterion(OUTPUTS, soft)
    )


@pytest.mark.parametrize(
    ("call", "facts", "message"),
    [
        ("CrossEntropyLos()", CLASSES, "did you mean CrossEntropyLoss?"),
        ("CrossEntropyLoss(smoothing=0.1)", CLASSES, "did you mean label_smoothing?"),
        ("CrossEntropyLoss(weight=[1, 2])", CLASSES, "weight has 2 values, the data 3 classes"),
        ('MSELoss(reduction="elementwise_mean")', CLASSES, 'called "mean" now'),
        (
            'MSELoss(reduction="none")',
            CLASSES,
            'must be "mean" or "sum", as a step needs one number',
        ),
        ("MSELoss(reduce=False)", CLASSES, 'must be "mean" or "sum", as a step needs one number'),
        (
            "CrossEntropyLoss()",
            MANY,
            "does not fit these labels (several classes an image); use one of BCELoss, BCEW",
        ),
        (
            "TripletMarginLoss()",
            DECIMALS,
            "does not fit these labels (numbers); use one of L1Loss, MSELoss, Smooth",
        ),
        ("L1Loss()", MANY, "does not fit these labels"),
        ("PoissonNLLLoss()", replace(DECIMALS, lowest=-2.0), "is for counts, and the list has -2"),
    ],
)
def test_a_loss_that_cannot_be_is_refused(call: str, facts: LabelFacts, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        build_loss(parse(call), facts)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "reduction"),
    [
        ("size_average=False", "sum"),
        ("size_average=True", "mean"),
        ("reduce=True", "mean"),
        ("size_average=False, reduce=True", "sum"),
        # As in PyTorch the old names win.
        ("size_average=False, reduction='mean'", "sum"),
        ("None, False", "sum"),
    ],
)
def test_old_names_of_reductions_mean_what_they_mean_in_pytorch(
    arguments: str, reduction: str
) -> None:
    loss = build_loss(parse(f"CrossEntropyLoss({arguments})"), CLASSES)
    assert torch.equal(
        loss(OUTPUTS, LABELS), nn.CrossEntropyLoss(reduction=reduction)(OUTPUTS, LABELS)
    )


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("reduction", ["batchmean", "mean", "sum"])
def test_a_divergence_takes_its_reductions(reduction: str) -> None:
    loss = build_loss(parse(f"KLDivLoss(reduction='{reduction}')"), CLASSES)
    target = ONE_HOT * 0.9 + 0.1 / 3
    expected = nn.KLDivLoss(reduction=reduction)(OUTPUTS.log_softmax(1), target)
    torch.testing.assert_close(loss(OUTPUTS, LABELS), expected)


@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
def test_the_target_of_a_divergence_is_smoothed_as_asked(
    smoothing: float, log_target: bool
) -> None:
    loss = build_loss(parse(f"KLDivLoss(log_target={log_target})"), CLASSES, smoothing=smoothing)
    target = ONE_HOT * (1 - smoothing) + smoothing / 3
    expected = nn.KLDivLoss(reduction="batchmean")(OUTPUTS.log_softmax(1), target)
    assert torch.allclose(loss(OUTPUTS, LABELS), expected)


@pytest.mark.parametrize(
    ("call", "instead"), [("CrossEntropyLoss", "label_smoothing="), ("MSELoss", "KLDivLoss")]
)
def test_smoothing_is_for_a_divergence(call: str, instead: str) -> None:
    with pytest.raises(
        UsageError, match=rf"loss\.smoothing is for .*, found {call}: use {instead}"
    ):
        build_loss(parse(call), CLASSES, smoothing=0.2)


@pytest.mark.parametrize(
    ("call", "facts", "described"),
    [
        ("CrossEntropyLoss()", CLASSES, "CrossEntropyLoss()"),
        ("MSELoss(size_average=False)", CLASSES, "MSELoss(size_average=False), a sum over images"),
        ("MSELoss()", DECIMALS, "MSELoss(), numbers in units of their spread"),
        (
            "KLDivLoss()",
            CLASSES,
            "KLDivLoss(), after log-softmax, a mean over images, target smoothed by 0.1",
        ),
        ("BCELoss()", CLASSES, "BCELoss(), after sigmoid"),
        (
            "TripletMarginLoss()",
            CLASSES,
            "TripletMarginLoss(), on outputs of unit length, compared within a batch",
        ),
    ],
)
def test_what_is_added_to_pytorchs_loss_is_said(
    call: str, facts: LabelFacts, described: str
) -> None:
    assert build_loss(parse(call), facts).described == described


@pytest.mark.parametrize(
    ("call", "optimizer"),
    [
        ("CrossEntropyLoss()", "SGD"),
        ("KLDivLoss()", "SGD"),
        # The rate of SGD would have to follow the batch size, or the number of classes.
        ("CrossEntropyLoss(reduction='sum')", "AdamW"),
        ("KLDivLoss(reduction='mean')", "AdamW"),
    ],
)
def test_an_optimizer_suits_the_size_of_the_gradients(call: str, optimizer: str) -> None:
    assert usual_optimizer(build_loss(parse(call), CLASSES)).startswith(optimizer)


def test_pairs_are_for_losses_that_compare() -> None:
    with pytest.raises(
        UsageError, match=r"loss\.pairs is for losses that compare .*: HingeEmbeddingLoss, Cosine"
    ):
        build_loss(parse("CrossEntropyLoss()"), CLASSES, pairs=True)


def test_an_own_loss_takes_scores_and_class_indices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "from torch import nn\nclass Focal(nn.Module):\n    def __init__(self, gamma=2.0):\n       "
        " super().__init__()\n        self.gamma = gamma\n    def forward(self, outputs, labels):\n"
        "        return self.gamma * nn.functional.cross_entropy(outputs, labels)\ndef"
        " plain(outputs=1):\n    return outputs\n"
    )
    loss = build_loss(parse("mine.py:Focal(gamma=3.0)"), CLASSES)
    assert isinstance(loss, Loss)
    assert torch.equal(loss(OUTPUTS, LABELS), 3 * nn.functional.cross_entropy(OUTPUTS, LABELS))
    with pytest.raises(UsageError, match=r"must be a torch\.nn\.Module"):
        build_loss(parse("mine.py:plain"), CLASSES)


def test_an_own_loss_with_weights_that_nothing_would_train_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("""
import torch
from torch import nn

class Centres(nn.Module):
    def __init__(self, trained=True):
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(3, 3), requires_grad=trained)

    def forward(self, outputs, labels):
        return (outputs - self.centres[labels]).square().mean()
""")
    with pytest.raises(UsageError, match="Centres has parameters of its own, such as centres"):
        build_loss(parse("mine.py:Centres()"), CLASSES)
    build_loss(parse("mine.py:Centres(trained=False)"), CLASSES)


def test_every_row_of_the_table_has_a_use() -> None:
    assert all(rule.single or rule.multi or rule.numbers or rule.pairs for rule in RULES.values())


@pytest.mark.parametrize(
    "call", ["CrossEntropyLoss([1, 2])", "CrossEntropyLoss(weight=[1, 2, 3, 4])"]
)
def test_weights_of_another_length_are_refused_however_they_are_written(call: str) -> None:
    with pytest.raises(UsageError, match=r"weight has \d values, the data 3 classes"):
        build_loss(parse(call), CLASSES)


@pytest.mark.parametrize("call", ["CrossEntropyLoss(ignore_index=3)", "NLLLoss(ignore_index=255)"])
def test_an_ignore_index_that_is_no_class_is_refused(call: str) -> None:
    with pytest.raises(UsageError, match=r"ignore_index=\d+ is no class: they are 0 to 2"):
        build_loss(parse(call), CLASSES)


def test_a_threshold_is_for_several_labels() -> None:
    task = build_loss(None, MANY, threshold=0.9).task
    assert task.answers(torch.tensor([[2.0, 3.0, 0.0]])).tolist() == [[False, True, False]]
    with pytest.raises(UsageError, match=r"loss\.threshold is for several classes"):
        build_loss(None, CLASSES, threshold=0.9)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "outputs.sum(1)",
            r"must give one number with a gradient, the mean of the batch; found shape \(2,\)",
        ),
        ("outputs.detach().sum()", "found no gradient"),
        ("outputs[:, 99].sum()", r"Own fails on outputs \(2, 3\) and labels \(2,\): IndexError"),
    ],
)
def test_an_own_loss_that_cannot_be_stepped_on_is_refused(
    body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "from torch import nn\nclass Own(nn.Module):\n    def forward(self, outputs, labels):\n   "
        f"     return {body}\n"
    )
    with pytest.raises(UsageError, match=message):
        check_own_loss(build_loss(parse("own.py:Own"), CLASSES), LABELS, num_outputs=3)


@pytest.mark.parametrize("activation", sorted(DECODERS[SINGLE].keys() - {"none"}))
def test_the_probabilities_of_one_class_add_up_to_one(activation: str) -> None:
    values = Task(SINGLE, activation).values(OUTPUTS)
    torch.testing.assert_close(values.sum(1), torch.ones(2))
    assert (values >= 0).all()


def test_a_loss_is_added_up_in_float32() -> None:
    halves = OUTPUTS.bfloat16()
    loss = build_loss(parse("CrossEntropyLoss()"), CLASSES)
    assert torch.equal(loss(halves, LABELS), nn.CrossEntropyLoss()(halves.float(), LABELS))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("0", "2", "2"), (SINGLE, 3, [1, 0, 2], [], [], 0)),
        (("0,", "0,2", "2,"), (MULTI, 3, [2, 0, 2], [], [], 0)),
        # The second number is always the same, which must not divide by zero.
        (
            ("1.0,4.5", "-3.0,4.5", "2.0,4.5"),
            (REGRESSION, 2, [], [0, 4.5], [(14 / 3) ** 0.5, 1], -3),
        ),
    ],
    ids=[SINGLE, MULTI, REGRESSION],
)
def test_what_a_loss_is_told_of_the_labels(
    labels: tuple[str, ...], expected: tuple[Any, ...], tmp_path: Path
) -> None:
    (tmp_path / "train.txt").write_text(
        "".join(f"{k}.png {label}\n" for k, label in enumerate(labels))
    )
    found = facts_of(read_list(tmp_path / "train.txt"))
    kind, num_classes, counts, mean, std, lowest = expected
    assert (found.kind, found.num_classes, found.num_images, found.lowest) == (
        kind,
        num_classes,
        3,
        lowest,
    )
    assert found.counts.tolist() == counts
    assert (found.mean.tolist(), found.std.tolist()) == (pytest.approx(mean), pytest.approx(std))
