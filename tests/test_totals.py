"""A mean over a list is one mean: PyTorch's value on all images at once, however they are cut into
batches and whatever their order; the gradients of accumulated batches likewise.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_data import make_lists
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

import ptkit
from ptkit.commands.app import app
from ptkit.core.config.layers import resolve
from ptkit.core.data.labels import MULTI, REGRESSION, SINGLE
from ptkit.core.errors import DivergedError, UsageError
from ptkit.core.parts.calls import parse
from ptkit.core.training import divergence, evaluating, loop
from ptkit.core.training.observers import Unwatched, Watcher
from ptkit.core.training.session import run
from ptkit.core.training.setup import prepare
from ptkit.core.training.tasks.loss import LabelFacts, Totals
from ptkit.core.training.tasks.losses import RULES, build_loss
from ptkit.looking.end_of_run import write_summaries

N, K = 30, 3
GENERATOR = torch.Generator().manual_seed(0)
OUTPUTS = torch.randn(N, K, generator=GENERATOR)
# Sorted, as `ptkit split` writes them: batches of one class.
LABELS = torch.arange(N) // 10
MANY = torch.rand(N, K, generator=GENERATOR) > 0.5
NUMBERS = torch.rand(N, K, generator=GENERATOR) * 5
SHUFFLED = torch.randperm(N, generator=GENERATOR)

NONE = torch.empty(0)
FACTS = {
    SINGLE: LabelFacts(SINGLE, K, N, torch.tensor([25.0, 4, 1]), NONE, NONE),
    MULTI: LabelFacts(MULTI, K, N, MANY.sum(0).float(), NONE, NONE),
    REGRESSION: LabelFacts(REGRESSION, K, N, NONE, NUMBERS.mean(0), NUMBERS.std(0)),
}
LABELS_OF = {SINGLE: LABELS, MULTI: MANY, REGRESSION: NUMBERS}

ZERO_WEIGHT = torch.tensor([1.0, 2, 0])
HOT = F.one_hot(LABELS, K).float()
SMOOTHED = HOT * 0.9 + 0.1 / K
STANDARD = (NUMBERS - NUMBERS.mean(0)) / NUMBERS.std(0)
WEIGHT, BALANCED = torch.tensor([1.0, 20, 3]), torch.tensor([N / 75, N / 12, N / 3])
ABSENT_OVER_PRESENT = (N - MANY.sum(0)) / MANY.sum(0)


def places(rows: Tensor) -> Tensor:
    """Return the indices of the true columns, then -1."""
    found = torch.arange(K).expand(len(rows), -1).masked_fill(~rows, K).sort(dim=1).values
    return found.masked_fill(found == K, -1)


# Kind of the labels, call, and PyTorch's own value of all images at once, from the outputs.
OF_LISTS: list[tuple[str, str, Callable[[Tensor], Tensor]]] = [
    (SINGLE, "CrossEntropyLoss()", lambda o: nn.CrossEntropyLoss()(o, LABELS)),
    (
        SINGLE,
        "CrossEntropyLoss(label_smoothing=0.2)",
        lambda o: nn.CrossEntropyLoss(label_smoothing=0.2)(o, LABELS),
    ),
    (
        SINGLE,
        "CrossEntropyLoss(weight=[1, 20, 3])",
        lambda o: nn.CrossEntropyLoss(WEIGHT)(o, LABELS),
    ),
    (
        SINGLE,
        "CrossEntropyLoss(weight=[1, 20, 3], ignore_index=0, label_smoothing=0.2)",
        lambda o: nn.CrossEntropyLoss(WEIGHT, ignore_index=0, label_smoothing=0.2)(o, LABELS),
    ),
    (
        SINGLE,
        "CrossEntropyLoss(weight='balanced')",
        lambda o: nn.CrossEntropyLoss(BALANCED)(o, LABELS),
    ),
    # A class of weight 0 adds its smoothing to the numerator, and nothing to the denominator.
    (
        SINGLE,
        "CrossEntropyLoss(weight=[1, 2, 0], label_smoothing=0.2)",
        lambda o: nn.CrossEntropyLoss(ZERO_WEIGHT, label_smoothing=0.2)(o, LABELS),
    ),
    (
        SINGLE,
        "CrossEntropyLoss(ignore_index=2)",
        lambda o: nn.CrossEntropyLoss(ignore_index=2)(o, LABELS),
    ),
    (
        SINGLE,
        "CrossEntropyLoss(weight=[1, 20, 3], reduction='sum')",
        lambda o: nn.CrossEntropyLoss(WEIGHT, reduction="sum")(o, LABELS),
    ),
    (
        SINGLE,
        "NLLLoss(weight=[1, 20, 3], ignore_index=1)",
        lambda o: nn.NLLLoss(WEIGHT, ignore_index=1)(o.log_softmax(1), LABELS),
    ),
    (
        SINGLE,
        "MultiMarginLoss(p=2, margin=0.5, weight=[1, 20, 3])",
        lambda o: nn.MultiMarginLoss(2, 0.5, WEIGHT)(o, LABELS),
    ),
    (
        SINGLE,
        "KLDivLoss()",
        lambda o: nn.KLDivLoss(reduction="batchmean")(o.log_softmax(1), SMOOTHED),
    ),
    (
        SINGLE,
        "KLDivLoss(reduction='mean')",
        lambda o: nn.KLDivLoss(reduction="none")(o.log_softmax(1), SMOOTHED).mean(),
    ),
    (
        SINGLE,
        "KLDivLoss(reduction='sum')",
        lambda o: nn.KLDivLoss(reduction="sum")(o.log_softmax(1), SMOOTHED),
    ),
    (SINGLE, "BCELoss(weight=[1, 20, 3])", lambda o: nn.BCELoss(WEIGHT)(o.sigmoid(), HOT)),
    (MULTI, "BCELoss(weight=[1, 20, 3])", lambda o: nn.BCELoss(WEIGHT)(o.sigmoid(), MANY.float())),
    (
        MULTI,
        "BCEWithLogitsLoss(weight=[1, 20, 3], pos_weight='balanced')",
        lambda o: nn.BCEWithLogitsLoss(WEIGHT, pos_weight=ABSENT_OVER_PRESENT)(o, MANY.float()),
    ),
    (MULTI, "SoftMarginLoss()", lambda o: nn.SoftMarginLoss()(o, MANY * 2.0 - 1)),
    (
        MULTI,
        "MultiLabelSoftMarginLoss(weight=[1, 20, 3])",
        lambda o: nn.MultiLabelSoftMarginLoss(WEIGHT)(o, MANY.float()),
    ),
    (MULTI, "MultiLabelMarginLoss()", lambda o: nn.MultiLabelMarginLoss()(o, places(MANY))),
    (
        MULTI,
        "MultiLabelMarginLoss(size_average=False)",
        lambda o: nn.MultiLabelMarginLoss(reduction="sum")(o, places(MANY)),
    ),
    (
        SINGLE,
        "HingeEmbeddingLoss(margin=2)",
        lambda o: nn.HingeEmbeddingLoss(2)(F.softplus(o), HOT * 2 - 1),
    ),
    (REGRESSION, "L1Loss()", lambda o: nn.L1Loss()(o, STANDARD)),
    (REGRESSION, "MSELoss()", lambda o: nn.MSELoss()(o, STANDARD)),
    (REGRESSION, "MSELoss(reduction='sum')", lambda o: nn.MSELoss(reduction="sum")(o, STANDARD)),
    (REGRESSION, "SmoothL1Loss(beta=0.3)", lambda o: nn.SmoothL1Loss(beta=0.3)(o, STANDARD)),
    (REGRESSION, "PoissonNLLLoss(full=True)", lambda o: nn.PoissonNLLLoss(full=True)(o, NUMBERS)),
    (
        REGRESSION,
        "PoissonNLLLoss(log_input=False, eps=0.1)",
        lambda o: nn.PoissonNLLLoss(log_input=False, eps=0.1)(F.softplus(o), NUMBERS),
    ),
    # One class an image, as one-hot rows.
    (
        SINGLE,
        "KLDivLoss(log_target=True)",
        lambda o: nn.KLDivLoss(reduction="batchmean", log_target=True)(
            o.log_softmax(1), SMOOTHED.log()
        ),
    ),
    (
        SINGLE,
        "BCEWithLogitsLoss(pos_weight=[1, 20, 3])",
        lambda o: nn.BCEWithLogitsLoss(pos_weight=WEIGHT)(o, HOT),
    ),
    (
        SINGLE,
        "SoftMarginLoss(reduce=True, size_average=False)",
        lambda o: nn.SoftMarginLoss(reduction="sum")(o, HOT * 2 - 1),
    ),
    (
        SINGLE,
        "MultiLabelSoftMarginLoss(reduction='sum')",
        lambda o: nn.MultiLabelSoftMarginLoss(reduction="sum")(o, HOT),
    ),
    (SINGLE, "MultiLabelMarginLoss()", lambda o: nn.MultiLabelMarginLoss()(o, places(HOT > 0))),
    (
        SINGLE,
        "HingeEmbeddingLoss(reduction='sum')",
        lambda o: nn.HingeEmbeddingLoss(reduction="sum")(F.softplus(o), HOT * 2 - 1),
    ),
    (SINGLE, "L1Loss(reduction='sum')", lambda o: nn.L1Loss(reduction="sum")(o, HOT)),
    (SINGLE, "MSELoss()", lambda o: nn.MSELoss()(o, HOT)),
    (SINGLE, "SmoothL1Loss(beta=2)", lambda o: nn.SmoothL1Loss(beta=2)(o, HOT)),
    (SINGLE, "PoissonNLLLoss()", lambda o: nn.PoissonNLLLoss()(o, HOT)),
    (
        SINGLE,
        "PoissonNLLLoss(log_input=False, full=True)",
        lambda o: nn.PoissonNLLLoss(log_input=False, full=True)(F.softplus(o), HOT),
    ),
]
# What these compare is formed from the list, not batch by batch.
OF_PAIRS = [name for name, rule in RULES.items() if rule.pairs]

each_loss = pytest.mark.parametrize(
    ("kind", "call", "at_once"), OF_LISTS, ids=[f"{kind} {call}" for kind, call, _ in OF_LISTS]
)
each_size = pytest.mark.parametrize("batch_size", [1, 7, 30])


def test_every_loss_is_here() -> None:
    assert {parse(call).name for _, call, _ in OF_LISTS} | set(OF_PAIRS) == RULES.keys()


@each_loss
@each_size
@pytest.mark.parametrize("order", [torch.arange(N), SHUFFLED], ids=["sorted", "shuffled"])
def test_a_list_has_one_mean(
    kind: str, call: str, at_once: Callable[[Tensor], Tensor], batch_size: int, order: Tensor
) -> None:
    loss = build_loss(parse(call), FACTS[kind])
    totals = Totals(loss)
    for rows in order.split(batch_size):
        labels = LABELS_OF[kind][rows]
        part, size = loss(OUTPUTS[rows], labels, over=len(rows)), len(rows)
        totals.add(part, over=size, count=loss.count(labels), num_images=size)
    assert totals.loss() == pytest.approx(at_once(OUTPUTS).item(), rel=2e-6)


@each_loss
@each_size
def test_the_parts_of_a_mean_have_the_gradient_of_the_whole(
    kind: str, call: str, at_once: Callable[[Tensor], Tensor], batch_size: int
) -> None:
    loss, labels = build_loss(parse(call), FACTS[kind]), LABELS_OF[kind]
    whole, cut = OUTPUTS.clone().requires_grad_(), OUTPUTS.clone().requires_grad_()
    at_once(whole).backward()
    batches = torch.arange(N).split(batch_size)
    over = sum(loss.count(labels[rows]) for rows in batches)
    for rows in batches:
        loss(cut[rows], labels[rows], over=over).backward()
    torch.testing.assert_close(cut.grad, whole.grad, rtol=1e-5, atol=1e-6)


@each_loss
def test_a_batch_alone_has_pytorchs_own_value(
    kind: str, call: str, at_once: Callable[[Tensor], Tensor]
) -> None:
    loss = build_loss(parse(call), FACTS[kind])
    torch.testing.assert_close(loss(OUTPUTS, LABELS_OF[kind]), at_once(OUTPUTS))


@pytest.mark.parametrize(
    "call",
    [
        "CrossEntropyLoss(ignore_index=2)",
        "CrossEntropyLoss(weight=[1, 1, 0])",
        "CrossEntropyLoss(weight=[1, 1, 0], label_smoothing=0.2)",
        "NLLLoss(weight=[1, 1, 0])",
        "NLLLoss(ignore_index=2)",
    ],
)
def test_a_batch_in_which_nothing_counts_adds_nothing(call: str) -> None:
    loss = build_loss(parse(call), FACTS[SINGLE])
    outputs, labels = OUTPUTS.clone().requires_grad_(), torch.full((N,), 2)
    value = loss(outputs, labels)
    value.backward()
    assert (value.item(), float(loss.count(labels))) == (0, 0)
    assert not outputs.grad.any()


@pytest.mark.parametrize("name", OF_PAIRS)
def test_pairs_are_counted_before_they_are_formed(name: str) -> None:
    pairing = RULES[name].pairs
    for labels in (LABELS, LABELS[SHUFFLED][:11], torch.zeros(5, dtype=torch.int64), LABELS[:1]):
        formed = pairing.form(F.normalize(torch.randn(len(labels), 4), dim=1), labels)
        assert len(formed[0]) == pairing.count(torch.bincount(labels).tolist())


def test_mixed_images_are_divided_by_the_shares_that_count() -> None:
    share, partner = torch.linspace(0, 1, N), LABELS.flip(0)
    loss = build_loss(parse("CrossEntropyLoss(ignore_index=1)"), FACTS[SINGLE])
    each = OUTPUTS.log_softmax(1)
    counts = torch.stack([share * (LABELS != 1), (1 - share) * (partner != 1)])
    values = -torch.stack([each[torch.arange(N), some] for some in (LABELS, partner)])
    torch.testing.assert_close(
        loss.mixed(OUTPUTS, LABELS, partner, share), (values * counts).sum() / counts.sum()
    )


@pytest.mark.parametrize("call", ["CrossEntropyLoss(weight=[1, 20, 3])", "MSELoss()"])
def test_the_parts_of_a_mixed_mean_add_up(call: str) -> None:
    share, partner = torch.linspace(0, 1, N), LABELS.flip(0)
    loss = build_loss(parse(call), FACTS[SINGLE])
    parts = [
        loss.mixed(OUTPUTS[rows], LABELS[rows], partner[rows], share[rows], over=N)
        for rows in torch.arange(N).split(7)
    ]
    torch.testing.assert_close(sum(parts), loss.mixed(OUTPUTS, LABELS, partner, share))


# ------------------------------------------------------------------------------------- whole runs

# One layer without norms: nothing but the loss can depend on what is in a batch.
NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)
    def forward(self, images):
        return self.fc(images.mean((2, 3)))
"""
SPARSE = """
class Sparse(Net):
    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.table = nn.Embedding(2, num_classes, sparse=True)
    def forward(self, images):
        return super().forward(images) + 9 * self.table((images.mean((1, 2, 3)) > 0).long())
"""
PLAIN = {
    "data": {"augment": "none", "shuffle": False},
    "model": {"call": "net.py:Net"},
    "optimizer": {"call": "SGD()", "lr": 1.0},
    "scheduler": {"call": "none", "warmup": 0.0},
    "train": {"epochs": 1, "batch_size": 48},
    "log": {"tensorboard": False, "pictures": False},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_lists(tmp_path))
    Path("net.py").write_text(NET)
    return tmp_path


class Listener(Watcher):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def prepared(**layer: Any) -> loop.Training:
    return prepare(resolve(PLAIN, layer), Unwatched(), is_resumed=False).training


def outputs_of(training: loop.Training) -> tuple[Tensor, Tensor]:
    """Return the outputs and labels of the validation list."""
    batches = list(training.valid.epoch())
    with torch.no_grad():
        outputs = torch.cat([training.model(batch.images) for batch in batches])
    return outputs, torch.cat([batch.labels for batch in batches])


@pytest.mark.parametrize("batch_size", [4, 5, 48])
def test_validation_is_one_mean(here: Path, batch_size: int) -> None:
    training = prepared(
        loss={"call": "CrossEntropyLoss(weight=[1, 20, 3])"}, train={"batch_size": batch_size}
    )
    found, _ = evaluating.evaluate(training)
    outputs, labels = outputs_of(training)
    assert found == pytest.approx(F.cross_entropy(outputs, labels, WEIGHT).item(), rel=1e-6)


@pytest.mark.parametrize("batch_size", [4, 21])
@pytest.mark.parametrize(
    "call",
    [
        *(f"{name}(margin=0.5)" for name in OF_PAIRS),
        *(f"{name}(reduction='sum')" for name in OF_PAIRS),
        "TripletMarginLoss(p=1, swap=True, eps=0.1)",
    ],
)
def test_pairs_of_validation_are_those_of_the_whole_list(
    here: Path, call: str, batch_size: int
) -> None:
    training = prepared(
        loss={"call": call, "pairs": True, "embedding": 4}, train={"batch_size": batch_size}
    )
    found, _ = evaluating.evaluate(training)
    loss, (outputs, labels) = training.loss, outputs_of(training)
    compared = loss.use.form(F.normalize(outputs, dim=1), labels)
    assert found == pytest.approx(loss.criterion(*compared).item(), rel=1e-5)


def test_of_many_images_each_compared_part_has_every_class_however_the_list_is_sorted(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "COMPARED", 6)
    lines = [line for line in Path("valid.txt").read_text().splitlines() if not line.endswith(" 2")]
    found = []
    # In turns, every second image would be of one class.
    for order in (lines, sorted(lines, key=lambda line: line[-1])):
        Path("valid.txt").write_text("\n".join(order) + "\n")
        training = prepared(loss={"call": "TripletMarginLoss()", "embedding": 4})
        assert all(
            len(labels.unique()) == 2
            for _, labels in evaluating._examined(training, lambda: None)
            if len(labels)
        )
        found.append(evaluating.evaluate(training)[0])
    assert found[0] > 0
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize(
    "call",
    [
        "CrossEntropyLoss()",
        "CrossEntropyLoss(weight=[1, 20, 3], ignore_index=1)",
        "CrossEntropyLoss(reduction='sum')",
        "NLLLoss(weight=[1, 20, 3])",
        "KLDivLoss()",
        "BCEWithLogitsLoss(weight=[1, 20, 3])",
    ],
)
@pytest.mark.parametrize("transforms", [(), ("FiveCrop(12)",)])
def test_accumulated_batches_step_as_one(
    here: Path, call: str, transforms: tuple[str, ...]
) -> None:
    weights = []
    # Of 48 images the last of the three batches is smaller.
    for train in ({"batch_size": 48}, {"batch_size": 18, "accumulate": 3}):
        training = prepared(loss={"call": call}, train=train, data={"transforms": transforms})
        (result,) = loop.fit(training)
        weights.append({**training.model.state_dict(), "loss": torch.tensor(result.train_loss)})
    torch.testing.assert_close(*weights, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("arguments", ["weight=[1, 1, 0]", "ignore_index=2"])
def test_what_the_loss_ignores_is_left_out_of_accuracy_and_said(here: Path, arguments: str) -> None:
    watch = Listener()
    settings = {
        "model": {"call": "lenet()"},
        "loss": {"call": f"CrossEntropyLoss({arguments})"},
        "optimizer": {"lr": 0.01},
        "train": {"batch_size": 4},
    }
    # Sorted: the last batches have nothing that counts.
    lines = Path("valid.txt").read_text().splitlines(keepends=True)
    Path("valid.txt").write_text("".join(sorted(lines, key=lambda line: line.split()[-1])))
    result = run(resolve(PLAIN, settings), watch=watch, at_end=write_summaries)
    assert (
        "ignored by the loss, and by accuracy: square; 16 of 48 training images and 7 of 21"
        " validation images" in watch.lines
    )
    found = ptkit.evaluate(result.run, "valid.txt")
    assert (len(found.images), found.num_ignored, found.matrix.sum(axis=1).tolist()) == (
        14,
        7,
        [7, 7, 0],
    )
    assert found.accuracy == pytest.approx(result.best["accuracy"])
    printed = CliRunner().invoke(app, ["confmat", str(result.run), "valid.txt"]).stdout
    assert "7 of 14 images" in printed
    assert "\n7 images left out: the model's loss ignored their class" in printed


def test_training_accuracy_leaves_out_what_the_loss_ignores(here: Path) -> None:
    training = prepared(loss={"call": "CrossEntropyLoss(ignore_index=2)"}, optimizer={"lr": 1e-30})
    (result,) = loop.fit(training)
    (batch,) = training.train.epoch(1)
    answers = training.model(batch.images).argmax(dim=1)
    is_right = (answers == batch.labels)[batch.labels != 2]
    assert result.train_accuracy == pytest.approx(is_right.float().mean().item())


@pytest.mark.parametrize("arguments", ["weight=[0, 1, 1]", "ignore_index=0"])
def test_a_list_in_which_nothing_counts_is_refused(here: Path, arguments: str) -> None:
    lines = Path("valid.txt").read_text().splitlines(keepends=True)
    Path("valid.txt").write_text("".join(line for line in lines if line.endswith(" 0\n")))
    with pytest.raises(
        UsageError, match=r"valid\.txt has only images of classes that this ignores"
    ):
        prepared(loss={"call": f"CrossEntropyLoss({arguments})"})


def test_gradients_are_clipped_value_by_value(here: Path) -> None:
    training = prepared(train={"clip_value": 1e-3}, optimizer={"lr": 1.0})
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    list(loop.fit(training))
    moved = torch.cat([(v - before[k]).flatten() for k, v in training.model.state_dict().items()])
    assert moved.abs().max().item() == pytest.approx(1e-3, rel=1e-3)


def test_sparse_gradients_are_clipped_too(here: Path) -> None:
    Path("net.py").write_text(NET + SPARSE)
    training = prepared(
        model={"call": "net.py:Sparse"},
        optimizer={"call": "SparseAdam()", "lr": 1e-3},
        train={"clip_value": 1e-4},
    )
    list(loop.fit(training))
    gradients = [
        p.grad.coalesce().values() if p.grad.is_sparse else p.grad for p in training.parameters
    ]
    assert [gradient.abs().max().item() for gradient in gradients] == pytest.approx([1e-4] * 3)


# ---------------------------------------------------------------- what cannot help is not advised


def test_no_rate_is_advised_before_the_first_step(here: Path) -> None:
    training = prepared()
    with torch.no_grad():
        training.model.fc.bias.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"at step 1 .* neither --lr nor clipping can help"):
        list(loop.fit(training))


@pytest.mark.parametrize("clip", ["clip_grad", "clip_value"])
def test_clipping_is_not_advised_where_gradients_are_clipped(here: Path, clip: str) -> None:
    training = prepared(train={clip: 1.0})
    assert divergence.remedy(training, num_steps=1) == "try a lower --lr"
    assert "train.clip_grad=1" in divergence.remedy(prepared(), num_steps=1)


def test_a_users_own_loss_may_be_the_cause(here: Path) -> None:
    Path("own.py").write_text("from torch import nn\nclass Own(nn.CrossEntropyLoss):\n    pass\n")
    training = prepared(loss={"call": "own.py:Own"})
    assert "Own itself gives it for some batch" in divergence.remedy(training, num_steps=1)


def test_no_larger_batch_is_advised_where_no_class_has_two_images(here: Path) -> None:
    lines = Path("train.txt").read_text().splitlines(keepends=True)
    Path("train.txt").write_text("".join(lines[:3]))
    with pytest.raises(UsageError, match=r"train\.txt has no two images of one class"):
        prepared(loss={"call": "TripletMarginLoss()"}, train={"batch_size": 3})


# --------------------------------------------------------------------------------------- older runs


def test_a_weighted_run_of_an_earlier_version_is_not_resumed(here: Path) -> None:
    settings = resolve(PLAIN, {"loss": {"call": "CrossEntropyLoss(ignore_index=2)"}})
    folder = run(settings, watch=Unwatched()).run
    state = torch.load(folder / "last.pkl", weights_only=True)
    del state["task"]["counted"]
    torch.save(state, folder / "last.pkl")
    longer = replace(settings, train=replace(settings.train, epochs=2))
    with pytest.raises(UsageError, match=r"begun by an earlier ptkit, .* `ptkit finetune runs/1`"):
        run(longer, watch=Unwatched(), resume=folder)


def test_a_step_that_adds_nothing_is_not_looked_at() -> None:
    # As of a process whose only batch of a step stands in for one that another has.
    assert not Totals(build_loss(parse("CrossEntropyLoss()"), FACTS[SINGLE])).is_due()


@pytest.mark.parametrize(("optimizer", "expected"), [("SGD()", True), ("LBFGS()", False)])
def test_clipping_is_advised_where_it_can_help(
    optimizer: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_lists(tmp_path))
    asked = {"model": {"call": "lenet()"}, "optimizer": {"call": optimizer}}
    setup = prepare(resolve(asked), Unwatched(), is_resumed=False)
    advice = divergence.remedy(setup.training, num_steps=3)
    setup.data.close()
    assert advice.startswith("try a lower --lr")
    assert ("train.clip_grad=1" in advice) is expected
