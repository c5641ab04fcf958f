import inspect
import sys

import pytest
import torch
from torch import nn

from ptkit.core.data.transforms.catalogue import TRANSFORMS
from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.models.initialization import INITS
from ptkit.core.models.zoo import models
from ptkit.core.parts import catalogue
from ptkit.core.parts.calls import Call, parse
from ptkit.core.parts.catalogue import Argument, Catalogue, load_function, refuse_user_code
from ptkit.core.parts.part import Part
from ptkit.core.training.optimization.optimizers import OPTIMIZERS
from ptkit.core.training.optimization.schedules import SCHEDULERS
from ptkit.core.training.tasks.losses import LOSSES

CATALOGUES = {c.kind: c for c in (TRANSFORMS, LOSSES, OPTIMIZERS, SCHEDULERS, INITS, models())}
PARTS = [(kind, name) for kind, found in CATALOGUES.items() for name in found.parts]


def parameters():
    return [nn.Parameter(torch.zeros(2, 2))]


def supplied(kind):
    sgd = torch.optim.SGD(parameters(), lr=0.1, momentum=0.9)
    given = {"optimizer": {"params": parameters(), "lr": 0.1}, "schedule": {"optimizer": sgd}}
    return given.get(kind, {"tensor": torch.zeros(3, 3), "num_classes": 3})


def build(kind, text):
    return CATALOGUES[kind].build(parse(text), supplied=supplied(kind))


def error_of(kind, text):
    with pytest.raises(UsageError) as caught:
        build(kind, text)
    return str(caught.value)


def marked(message):
    """Return the message and the source from the caret on."""
    reason, line, caret = message.split("\n")
    return reason, line[caret.index("^") :]


@pytest.fixture
def user_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "mine.py"
    file.write_text(
        "WIDTH = 3\ndef scale(width=1, verbose=False, reduce='x'): return (width, verbose, "
        "reduce)\ndef needs(width): return width\ndef fails(): return [][1]\n"
    )
    return file


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_part_exists_and_says_what_it_takes(kind, name):
    call, summary = CATALOGUES[kind].describe(name)
    assert call.startswith(f"{name}(")
    assert " at 0x" not in call
    assert "args" not in call
    assert summary


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_part_refuses_an_argument_that_it_does_not_have(kind, name):
    message = error_of(kind, f"{name}(not_an_argument=1)")
    assert marked(message)[1] == "not_an_argument=1)"


@pytest.mark.parametrize(
    ("kind", "text", "reason", "at"),
    [
        (
            "optimizer",
            "SDG(momentum=0.9)",
            "no optimizer is called SDG; did you mean SGD?",
            "SDG(momentum=0.9)",
        ),
        (
            "loss",
            "crossentropyloss()",
            "no loss is called crossentropyloss; did you mean CrossEntropyLoss?",
            "crossentropyloss()",
        ),
        (
            "optimizer",
            "SGD(momentun=0.9)",
            "SGD has no argument momentun; did you mean momentum?",
            "momentun=0.9)",
        ),
        (
            "schedule",
            "StepLR(5, width=2)",
            "StepLR has no argument width; it takes: step_size, gamma",
            "width=2)",
        ),
        (
            "transform",
            "RandomApply([RandomCorp(32)])",
            "no transform is called RandomCorp; did you mean RandomCrop?",
            "RandomCorp(32)])",
        ),
        (
            "transform",
            "RandomFlip()",
            "no transform is called RandomFlip; did you mean RandomHorizontalFlip or"
            " RandomVerticalFlip?",
            "RandomFlip()",
        ),
        (
            "transform",
            "RandomApply([RandomCrop(32, pading=4)], p=0.5)",
            "RandomCrop has no argument pading; did you mean padding?",
            "pading=4)], p=0.5)",
        ),
        (
            "transform",
            "RandomRotation(9, resample=2)",
            "resample is called differently now: use interpolation",
            "resample=2)",
        ),
        (
            "transform",
            "RandomAffine(9, fillcolor=0)",
            "fillcolor is called differently now: use fill",
            "fillcolor=0)",
        ),
        (
            "schedule",
            "StepLR(5, last_epoch=3)",
            "last_epoch is called differently now: use --resume, which restores the schedule",
            "last_epoch=3)",
        ),
        (
            "loss",
            "L1Loss('elementwise_mean')",
            '"elementwise_mean" is called "mean" now',
            "'elementwise_mean')",
        ),
        (
            "optimizer",
            "SGD(lr=0.1)",
            "SGD has no argument lr here: it comes from the run",
            "lr=0.1)",
        ),
        ("optimizer", "SGD(0.1)", "SGD has no argument lr here: it comes from the run", "0.1)"),
        (
            "schedule",
            "StepLR(5, 0.1, 2)",
            "StepLR takes at most 2 arguments without their names: step_size, gamma",
            "2)",
        ),
        ("schedule", "StepLR(5, step_size=5)", "StepLR got step_size twice", "step_size=5)"),
        (
            "model",
            "lenet(32)",
            "lenet takes at most 0 arguments without their names; with their names: size,"
            " in_channels",
            "32)",
        ),
        (
            "optimizer",
            'SGD(momentum="0.9")',
            "SGD: momentum must be a number of 0..1, found '0.9'",
            'momentum="0.9")',
        ),
        (
            "optimizer",
            "SGD(nesterov=1)",
            "SGD: nesterov must be True or False, found 1",
            "nesterov=1)",
        ),
        (
            "loss",
            "L1Loss(reduction=None)",
            'L1Loss: reduction must be "mean" or "sum", as a step needs one number, found None',
            "reduction=None)",
        ),
        (
            "transform",
            'AutoAugment("cifar10")',
            "AutoAugment: policy must be AutoAugmentPolicy.IMAGENET, CIFAR10 or SVHN, found "
            "'cifar10'",
            '"cifar10")',
        ),
        (
            "transform",
            "Resize(8, InterpolationMode.BILINAER)",
            "InterpolationMode has no BILINAER; did you mean BILINEAR?",
            "InterpolationMode.BILINAER)",
        ),
        (
            "transform",
            "Resize(8, os.path)",
            "os.path is not known here; enumerations: InterpolationMode, AutoAugmentPolicy",
            "os.path)",
        ),
        (
            "schedule",
            "StepLR()",
            "StepLR: missing a required argument: 'step_size'; it must be a whole number of at "
            "least 1",
            "StepLR()",
        ),
        (
            "optimizer",
            "SGD(nesterov=True)",
            "SGD: Nesterov momentum requires a momentum and zero dampening",
            "SGD(nesterov=True)",
        ),
        (
            "optimizer",
            "Adam(betas=[0.9])",
            "Adam: betas must be a list of 2 numbers of at least 0 and below 1, found [0.9]",
            "betas=[0.9])",
        ),
    ],
)
def test_a_mistake_is_reported_and_pointed_at(kind, text, reason, at):
    assert marked(error_of(kind, text)) == (reason, at)


def test_the_arguments_of_a_part_are_those_that_the_user_may_give():
    assert SCHEDULERS.arguments("StepLR") == [
        Argument("step_size", default_text="", allowed_text="a whole number of at least 1"),
        Argument("gamma", default_text="0.1", allowed_text="a number above 0"),
    ]
    assert [a.name for a in LOSSES.arguments("KLDivLoss")] == ["reduction", "log_target"]
    assert TRANSFORMS.arguments("AutoAugment")[0].default_text == "AutoAugmentPolicy.IMAGENET"


def test_arguments_left_out_are_pytorchs_own():
    found = build("optimizer", "Adam(eps=1e-6)")
    usual = inspect.signature(torch.optim.Adam).parameters
    assert found.defaults["eps"] == 1e-6
    assert found.defaults["betas"] == usual["betas"].default


def test_the_tensor_to_fill_is_not_counted_among_the_arguments():
    tensor = torch.zeros(3, 3)
    INITS.build(parse("constant_(0.5)"), supplied={"tensor": tensor})
    assert tensor.eq(0.5).all()


def test_a_call_can_be_had_with_all_its_arguments_by_name():
    call = LOSSES.named(parse("CrossEntropyLoss([1, 2], label_smoothing=0.1)"))
    assert str(call) == "CrossEntropyLoss(weight=[1, 2], label_smoothing=0.1)"
    assert marked(str(call.error("wrong", "weight"))) == ("wrong", "[1, 2], label_smoothing=0.1)")


def test_what_the_call_says_wins_over_what_the_run_supplies():
    adam = OPTIMIZERS.build(parse("Adam(eps=0.5)"), supplied={"params": parameters(), "eps": 0.25})
    assert adam.defaults["eps"] == 0.5


def test_what_a_part_does_not_take_is_not_supplied_to_it():
    assert isinstance(LOSSES.build(parse("L1Loss()"), supplied={"num_classes": 3}), nn.L1Loss)


def test_lists_of_numbers_become_tensors_where_pytorch_needs_tensors():
    assert build("loss", "CrossEntropyLoss(weight=[1, 2, 3])").weight.equal(
        torch.tensor([1.0, 2.0, 3.0])
    )


def test_nested_calls_are_built():
    choice = build(
        "transform",
        "RandomChoice([RandomOrder([Grayscale(3)]), Pad((1, 2), padding_mode='edge')], p=[0.5,"
        " 0.5])",
    )
    assert choice.transforms[0].transforms[0].num_output_channels == 3
    assert choice.transforms[1].padding == [1, 2]


def test_a_function_of_the_table_may_be_an_argument():
    tensor = torch.zeros(100, 100)
    INITS.build(
        parse("orthogonal_(gain=calculate_gain('leaky_relu', 0))"), supplied={"tensor": tensor}
    )
    assert torch.allclose(tensor @ tensor.T, 2 * torch.eye(100), atol=1e-4)


def test_enumerations_are_written_by_name():
    rotation = build("transform", "RandomRotation(9, interpolation=InterpolationMode.BICUBIC)")
    assert rotation.interpolation.value == "bicubic"


def test_a_users_function_may_have_arguments_of_any_name(user_file):
    assert build("transform", "mine.py:scale('wide', True, reduce=2)") == ("wide", True, 2)
    assert build("transform", "mine:scale(width=5)") == (5, False, "x")


@pytest.mark.parametrize(
    ("text", "reason", "at"),
    [
        ("mine.py:scael()", "mine.py has no scael; did you mean scale?", "scael()"),
        ("mine.py:scale(wdith=3)", "scale has no argument wdith; did you mean width?", "wdith=3)"),
        ("mine.py:needs()", "needs: missing a required argument: 'width'", "needs()"),
        ("mine.py:WIDTH(3)", "WIDTH is a int, not a function or class with arguments", "WIDTH(3)"),
        (
            "mine.py:fails()",
            "fails cannot take these arguments (IndexError: list index out of range)",
            "fails()",
        ),
        ("gone.py:scale()", "no file gone.py", "scale()"),
        (
            "no_such_module:scale()",
            "cannot import no_such_module: ModuleNotFoundError: No module named 'no_such_module'",
            "scale()",
        ),
    ],
)
def test_a_mistake_about_a_users_own_part_is_reported_and_pointed_at(user_file, text, reason, at):
    assert marked(error_of("transform", text)) == (reason, at)


def test_an_error_inside_a_users_file_is_not_taken_for_a_missing_file(user_file):
    user_file.with_name("opens.py").write_text("open('gone.txt')\n")
    reason, _ = marked(error_of("transform", "opens.py:f()"))
    assert reason.startswith("cannot import opens.py: FileNotFoundError: ")


def test_two_files_of_one_name_do_not_replace_each_other(user_file, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.py").write_text("class Net: pass\n")
    (tmp_path / "mine.py").write_text("class Net: pass\n")
    first, second = load_function("mine.py:Net"), load_function("other/mine.py:Net")
    assert first is not second
    assert sys.modules[first.__module__] is not sys.modules[second.__module__]


@pytest.mark.parametrize("text", ["scale", "mine.py:", "mine.py:not a name", ":scale"])
def test_a_function_needs_a_module_and_a_name(user_file, text):
    with pytest.raises(UsageError, match=r'^expected "module:function" or "file\.py:function"'):
        load_function(text)


@pytest.mark.parametrize(
    "text",
    [
        "mine.py:Net()",
        "timm:resnet10t",
        'Lambda("mine:f")',
        'RandomApply([Lambda(function="mine.py:f")], p=0.5)',
        'RandomChoice(transforms=[(Pad(1), [Lambda("mine:f")])])',
    ],
)
def test_a_checkpoints_call_that_names_user_code_is_refused_and_nothing_is_run(user_file, text):
    user_file.write_text("open('ran', 'w')\n")
    what = "a model of timm" if text.startswith("timm:") else "user code"
    with pytest.raises(CheckpointError, match=rf"names {what} .* nothing was run"):
        refuse_user_code(parse(text), where="the checkpoint's model", remedy="do something")
    assert not user_file.with_name("ran").exists()


def test_a_checkpoints_call_of_built_in_parts_is_accepted():
    refuse_user_code(
        parse("RandomApply([ColorJitter(0.4), Pad((1, 2))], p=0.5)"),
        where="the saved pipeline",
        remedy="do something",
    )


def test_an_unknown_symbol_is_refused_where_a_kind_has_none():
    plain = Catalogue("part", {"Call": Part("ptkit.core.parts.calls:Call", "a call")})
    with pytest.raises(UsageError, match=r"X\.Y is not known here; enumerations: none"):
        plain.build(parse("Call('f', X.Y)"))


def test_the_table_of_a_part_is_not_changed_by_building_it():
    call = parse("StepLR(step_size=[1])")
    before = Call(call.name, call.args, {"step_size": [1]})
    build("transform", "Resize([8, 8])")
    assert call == before


def test_the_catalogue_itself_needs_no_torch():
    assert "torch" not in vars(catalogue)
