"""A transform is one row: with it, ptkit can name, plan, batch, draw and check the transform."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ptkit.core.data.transforms.catalogue import BY_CLASS, BY_NAME, TRANSFORMS, spec_of
from ptkit.core.data.transforms.completion import complete, mirrors
from ptkit.core.data.transforms.eval_lists import evaluation_of
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.data.transforms.spec import Spec, refused
from ptkit.core.errors import UsageError
from ptkit.core.parts.argument_rules import SHARE, Together
from ptkit.core.parts.calls import parse, parse_all
from ptkit.looking.transforms import transform_sheets


class Negative(nn.Module):
    def __init__(self, p=0.5, most=1.0):
        super().__init__()
        self.p, self.most = p, most


def negative(t, image, draws):
    return 255 - image if draws[0] < t.p else image


def negative_batch(t, images, draws):
    chosen = draws[:, 0] < t.p
    images[chosen] = 255 - images[chosen]
    return images


@pytest.fixture
def row(monkeypatch):
    spec = Spec(
        Negative,
        "negative colours with probability p",
        arguments={"p": SHARE, "most": SHARE},
        together=Together(lambda given: given["p"] <= given["most"], "p must not be above most"),
        draws=1,
        apply=negative,
        batch=negative_batch,
        refuses=refused("{} takes whole numbers: put it before ToTensor", "float"),
        mirrors=True,
    )
    monkeypatch.setitem(BY_NAME, "Negative", spec)
    monkeypatch.setitem(BY_CLASS, Negative, spec)
    return spec


def test_every_row_is_found_by_its_name_and_by_its_class():
    for name, spec in BY_NAME.items():
        assert (name, BY_CLASS[spec.target]) == (spec.target.__name__, spec)


def test_a_row_names_a_transform(row):
    built = TRANSFORMS.build(parse("Negative(0.25)"))
    assert (type(built), built.p, spec_of(built)) == (Negative, 0.25, row)
    assert TRANSFORMS.describe("Negative") == ("Negative(p=0.5, most=1.0)", row.summary)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("Negative(2)", "Negative: p must be a number of 0..1, found 2"),
        ("Negative(0.5, 0.25)", "Negative: p must not be above most"),
        ("Negativ()", "no transform is called Negativ; did you mean Negative?"),
    ],
)
def test_a_row_says_which_arguments_are_wrong(row, call, message):
    with pytest.raises(UsageError) as caught:
        TRANSFORMS.build(parse(call))
    assert str(caught.value).splitlines()[0] == message


def test_a_row_says_what_its_transform_does_in_a_list(row):
    calls = parse_all(["Negative()"])
    assert complete(calls, size=8, mean=(0, 0, 0), std=(1, 1, 1))[1] == calls[0]
    assert (mirrors(calls), evaluation_of(calls)) == (True, ())
    with pytest.raises(UsageError, match="Negative takes whole numbers"):
        Pipeline.parse(["ToTensor()", "Negative()"])


def test_a_row_with_a_batch_form_runs_on_batches(row):
    pipeline = Pipeline.parse(["Resize((8, 8))", "Negative()", "ToTensor()"])
    plan = pipeline.plan
    assert ([s.spec for s in plan.batch_steps], plan.image_steps) == ([row], ())
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    draws = pipeline.draws(0, epoch=1, keys=np.arange(20))
    batch = pipeline.apply_to_batch(images.copy(), draws)
    assert not np.array_equal(batch, images)
    for image, own, found in zip(images, draws, batch, strict=True):
        expected = negative(Negative(), torch.from_numpy(image), own)
        np.testing.assert_array_equal(found, expected.numpy())


def test_a_row_is_drawn(row, tmp_path):
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png")
    calls = parse_all(["Resize((8, 8))", "Negative(1.0)", "ToTensor()"])
    (sheet,) = transform_sheets([str(tmp_path / "a.png")], calls, num_draws=2)
    assert [step.call for step in sheet.steps] == ["Resize((8, 8))", "Negative(1.0)"]
    assert [draw[0, 0].tolist() for draw in sheet.steps[1].draws] == [[0, 255, 255]] * 2


def test_a_step_is_drawn_after_own_steps_that_are_not_random(tmp_path):
    (tmp_path / "own.py").write_text("def half(image):\n    return 255 - image[:, :4]\n")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png")
    calls = parse_all([f"Lambda('{tmp_path}/own.py:half')", "RandomHorizontalFlip()", "ToTensor()"])
    (sheet,) = transform_sheets([str(tmp_path / "a.png")], calls, num_draws=2)
    before = sheet.steps[1].before
    assert (before.shape, before[0, 0].tolist()) == ((4, 8, 3), [0, 255, 255])
