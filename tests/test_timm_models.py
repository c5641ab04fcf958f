import importlib.util
import json
import sys

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.errors import UsageError
from ptkit.core.models.zoo import build_model, check_forward, find_head, usual_size
from ptkit.core.parts.calls import parse

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed"
)


def built(call, size=32):
    return build_model(call, num_classes=7, size=size, seed=0)


@pytest.fixture
def without_timm(monkeypatch):
    """As where timm is not installed: importing it raises ImportError."""
    monkeypatch.setitem(sys.modules, "timm", None)


def test_without_timm_the_error_says_how_to_install_it(without_timm):
    result = CliRunner().invoke(app, ["summary", "timm:resnet18"])
    assert result.exit_code == 2
    assert "pip install 'ptkit[timm]'" in result.stderr


def test_without_timm_the_list_of_models_says_so(without_timm):
    lines = CliRunner().invoke(app, ["list", "models"]).stdout.splitlines()
    assert lines[-2:] == ["timm:NAME", "    timm: not installed (pip install 'ptkit[timm]')"]


@needs_timm
def test_with_timm_the_list_has_its_models_for_programs_and_their_number_for_people():
    rows = json.loads(CliRunner().invoke(app, ["list", "models", "--json"]).stdout)
    names = [row["name"] for row in rows if row["origin"] == "timm"]
    assert "timm:vit_tiny_patch16_224" in names
    last = CliRunner().invoke(app, ["list", "models"]).stdout.splitlines()[-1]
    assert last == f"    timm: {len(names):,} models; `ptkit list models --json` has their names"


@needs_timm
@pytest.mark.parametrize(
    ("call", "text", "head"),
    [
        ("timm:resnet18", "timm:resnet18()", "fc"),
        (
            "timm:mobilenetv3_small_050(drop_rate=0.3)",
            "timm:mobilenetv3_small_050(drop_rate=0.3)",
            "classifier",
        ),
        # A transformer is built for one size: that of the images.
        ("timm:vit_tiny_patch16_224", "timm:vit_tiny_patch16_224(img_size=32)", "head"),
        (
            "timm:vit_tiny_patch16_224(img_size=(32, 32))",
            "timm:vit_tiny_patch16_224(img_size=(32, 32))",
            "head",
        ),
        ("timm:convnext_atto", "timm:convnext_atto()", "head.fc"),
    ],
)
def test_a_model_of_timm_gets_the_classes_and_size_of_the_data(call, text, head):
    model, resolved = built(call)
    check_forward(model, 32, num_classes=7)
    assert resolved == text
    assert find_head(model, 7) == head


@needs_timm
def test_images_of_one_channel_get_a_model_of_one():
    model, text = build_model("timm:resnet18", num_classes=7, size=32, channels=1, seed=0)
    assert text == "timm:resnet18(in_chans=1)"
    check_forward(model, 32, num_classes=7, channels=1)


@needs_timm
def test_arguments_take_effect():
    model, _ = built("timm:mobilenetv3_small_050(drop_rate=0.3)")
    assert model.drop_rate == 0.3


@needs_timm
def test_seed_decides_the_weights():
    first, same = (built("timm:resnet18(num_classes=7)")[0].fc.weight for _ in range(2))
    assert torch.equal(first, same)
    assert not torch.equal(
        first, build_model("timm:resnet18", num_classes=7, size=32, seed=1)[0].fc.weight
    )


@needs_timm
def test_the_call_alone_builds_the_same_model_again():
    model, text = built("timm:vit_tiny_patch16_224")
    again, _ = build_model(text, num_classes=7, size=None, seed=0)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


@needs_timm
@pytest.mark.parametrize(
    ("call", "size"),
    [
        ("timm:resnet18", 224),
        ("timm:vit_base_patch16_384", 384),
        ("timm:vit_base_patch16_384(img_size=64)", 64),
    ],
)
def test_usual_size_is_the_one_that_timm_describes(call, size):
    assert usual_size(parse(call)) == size


@needs_timm
@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("timm:resnet19()", "timm has no model resnet19; did you mean resnet18?"),
        (
            "timm:resnet18(drop_rat=0.1)",
            "unexpected keyword argument 'drop_rat'; did you mean drop_rate?",
        ),
        ("timm:resnet18(drop_rate='x')", "drop_rate must be a number, found 'x'"),
        ("timm:resnet18(zero_init_last=1)", "zero_init_last must be True or False, found 1"),
        ("timm:resnet18(0.1)", "timm's models take their arguments by name only"),
        ("timm:resnet18(num_classes=3)", "the data has 7 classes; leave num_classes out"),
        (
            "timm:resnet18(pretrained=True)",
            (
                "pretrained is not part of a model: ptkit finetune timm:resnet18 starts from"
                " pretrained weights"
            ),
        ),
        ("timm:resnet18(checkpoint_path='x.pth')", "checkpoint_path is not part of a model"),
        ("timm:vit_tiny_patch16_224(global_pool='most')", "timm: Only avg,"),
    ],
)
def test_wrong_call_is_a_usage_error(call, message):
    with pytest.raises(UsageError) as caught:
        built(call)
    assert message in str(caught.value)


@needs_timm
@pytest.mark.parametrize("call", ["timm:resnet18", "timm:swinv2_tiny_window8_256(img_size=64)"])
def test_summary_knows_timms_models_also_those_that_compute_with_their_weights_when_built(call):
    from ptkit.looking.summary_subject import summarize_subject

    model, _ = build_model(call, num_classes=10, size=64, seed=0)
    found = summarize_subject(call, size=64)
    assert found.summary.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.summary.multiply_adds > 1e6


@needs_timm
def test_an_initialisation_and_layers_reach_timms_models():
    from ptkit.core.models.initialization import initialize
    from ptkit.core.models.layers import parameters_by_layer

    model, _ = built("timm:vit_tiny_patch16_224")
    initialize(model, ["head=constant_(0.5)"], seed=0)
    assert isinstance(model.head, nn.Linear)
    assert model.head.weight.unique().tolist() == [0.5]
    first, *blocks, last = parameters_by_layer(model)
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= set(first)
    assert len(blocks) == 12
    assert last == ["head.weight", "head.bias"]
