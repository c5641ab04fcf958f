from pathlib import Path

import pytest
import torch
from torch import nn

from ptkit.core.errors import UsageError
from ptkit.core.training.losses import LOSSES, READINGS, RULES, build_loss, predictions, probabilities

OUTPUTS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -0.3]])
LABELS = torch.tensor([0, 2])
ONE_HOT = torch.tensor([[1.0, 0, 0], [0, 0, 1]])
# What PyTorch gives for the same task, written out by hand.
EXPECTED = {
    "CrossEntropyLoss": nn.CrossEntropyLoss()(OUTPUTS, LABELS),
    "NLLLoss": nn.NLLLoss()(OUTPUTS.log_softmax(1), LABELS),
    "MultiMarginLoss": nn.MultiMarginLoss()(OUTPUTS, LABELS),
    "KLDivLoss": nn.KLDivLoss(reduction="batchmean")(OUTPUTS.log_softmax(1), ONE_HOT * 0.9 + 0.1 / 3),
    "BCELoss": nn.BCELoss()(OUTPUTS.sigmoid(), ONE_HOT),
    "BCEWithLogitsLoss": nn.BCEWithLogitsLoss()(OUTPUTS, ONE_HOT),
    "SoftMarginLoss": nn.SoftMarginLoss()(OUTPUTS, ONE_HOT * 2 - 1),
    "MultiLabelSoftMarginLoss": nn.MultiLabelSoftMarginLoss()(OUTPUTS, ONE_HOT),
    "MultiLabelMarginLoss": nn.MultiLabelMarginLoss()(OUTPUTS, torch.tensor([[0, -1, -1], [2, -1, -1]])),
    "HingeEmbeddingLoss": nn.HingeEmbeddingLoss()(nn.functional.softplus(OUTPUTS), ONE_HOT * 2 - 1),
    "L1Loss": nn.L1Loss()(OUTPUTS, ONE_HOT),
    "MSELoss": nn.MSELoss()(OUTPUTS, ONE_HOT),
    "SmoothL1Loss": nn.SmoothL1Loss()(OUTPUTS, ONE_HOT),
    "PoissonNLLLoss": nn.PoissonNLLLoss()(OUTPUTS, ONE_HOT),
}


@pytest.mark.parametrize("name", LOSSES.parts)
def test_a_loss_has_pytorchs_own_value(name: str) -> None:
    assert torch.equal(build_loss(f"{name}()", num_classes=3)(OUTPUTS, LABELS), EXPECTED[name])


@pytest.mark.parametrize("name", LOSSES.parts)
def test_a_step_against_the_gradient_makes_the_true_class_more_probable(name: str) -> None:
    loss = build_loss(f"{name}()", num_classes=3)
    # Near zero, as a fresh network's: far out a regression loss may pull a large right answer down.
    outputs = (OUTPUTS * 0.1).requires_grad_()
    loss(outputs, LABELS).backward()
    before = probabilities(outputs.detach(), RULES[name].reading)[torch.arange(2), LABELS]
    after = probabilities(outputs.detach() - 0.1 * outputs.grad, RULES[name].reading)[torch.arange(2), LABELS]
    assert after.sum() > before.sum()


@pytest.mark.parametrize("reading", READINGS)
def test_probabilities_sum_to_one(reading: str) -> None:
    found = probabilities(OUTPUTS, reading)
    assert found.min() >= 0
    assert torch.allclose(found.sum(1), torch.ones(2))


@pytest.mark.parametrize("name", LOSSES.parts)
def test_the_predicted_class_is_the_most_probable_one(name: str) -> None:
    reading = RULES[name].reading
    assert torch.equal(predictions(OUTPUTS, reading), probabilities(OUTPUTS, reading).argmax(1))


def test_the_prediction_is_right_where_probabilities_saturate() -> None:
    saturated = torch.tensor([[18.0, 25.0, -1.0], [1.1, 1.3, 0.0], [-0.3, -0.1, -0.2]])
    assert predictions(saturated, "sigmoid").tolist() == [1, 1, 1]
    assert predictions(saturated, "clamp").tolist() == [1, 1, 1]


def test_a_list_of_class_weights_takes_effect() -> None:
    loss = build_loss("CrossEntropyLoss(weight=[1, 1, 5])", num_classes=3)
    assert torch.equal(loss(OUTPUTS, LABELS), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1, 5]))(OUTPUTS, LABELS))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("CrossEntropyLos()", "did you mean CrossEntropyLoss?"),
        ("CrossEntropyLoss(smoothing=0.1)", "did you mean label_smoothing?"),
        ("CrossEntropyLoss(weight=[1, 2])", "weight has 2 values, the data 3 classes"),
        ("CrossEntropyLoss(size_average=True)", "called differently now"),
        ('MSELoss(reduction="elementwise_mean")', 'called "mean" now'),
        ('MSELoss(reduction="none")', 'reduction must be "mean"'),
        ("TripletMarginLoss()", "needs pairs or triplets"),
        ('CrossEntropyLoss(label_smoothing="x")', "label_smoothing must be a number"),
    ],
)
def test_a_loss_that_cannot_be_is_refused(call: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        build_loss(call, num_classes=3)


def test_an_own_loss_takes_scores_and_class_indices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "from torch import nn\n"
        "class Focal(nn.Module):\n"
        "    def __init__(self, gamma=2.0):\n        super().__init__()\n        self.gamma = gamma\n"
        "    def forward(self, outputs, labels):\n"
        "        return self.gamma * nn.functional.cross_entropy(outputs, labels)\n"
        "def plain(outputs=1):\n    return outputs\n"
    )
    loss = build_loss("mine.py:Focal(gamma=3.0)", num_classes=3)
    assert torch.equal(loss(OUTPUTS, LABELS), 3 * nn.functional.cross_entropy(OUTPUTS, LABELS))
    with pytest.raises(UsageError, match=r"must be a torch\.nn\.Module"):
        build_loss("mine.py:plain", num_classes=3)
