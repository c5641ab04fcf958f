import copy
import inspect

import pytest
import torch
from torch import nn

from ptkit.core.errors import UsageError
from ptkit.core.models import torchvision_models
from ptkit.core.models.zoo import (
    build_model,
    check_forward,
    default_model,
    find_head,
    models,
    origin,
    usual_size,
)
from ptkit.core.parts.calls import parse

FAMILIES = {
    "alexnet": "classifier.6",
    "convnext_tiny": "classifier.2",
    "densenet121": "classifier",
    "efficientnet_b0": "classifier.1",
    "googlenet": "fc",
    "inception_v3": "fc",
    "maxvit_t": "classifier.5",
    "mnasnet0_5": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "resnet18": "fc",
    "shufflenet_v2_x0_5": "fc",
    "squeezenet1_0": "classifier.1",
    "swin_t": "head",
    "vgg11": "classifier.6",
    "vit_b_32": "heads.head",
}

OURS = {
    *("lenet", "resnet8", "resnet20", "resnet56", "resnet34_tutorial", "whitenet"),
    "efficientnet_lite0",
}


def built(call, *, num_classes=10, size=32, seed=0):
    return build_model(call, num_classes=num_classes, size=size, seed=seed)[0]


def resolved(call, size):
    return build_model(call, num_classes=10, size=size, seed=0)[1]


def num_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "head"), FAMILIES.items())
def test_every_torchvision_family_gets_the_classes_of_the_data(name, head):
    with torch.device("meta"):
        model = built(name, num_classes=7, size=224)
    assert find_head(model, 7) == head


def test_regnet_gets_the_classes_of_the_data():
    assert find_head(built("regnet_y_400mf", num_classes=7, size=224), 7) == "fc"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_argument_that_is_listed_is_one_that_torchvision_takes(name):
    builder = getattr(torchvision_models, name)
    defaults = {
        k: p.default for k, p in inspect.signature(builder).parameters.items() if k != "num_classes"
    }
    samples = {
        "stochastic_depth_prob": 0.3,
        "dropout": 0.1,
        "groups": 1,
        "width_per_group": 64,
        "stem": "small",
    }
    given = {k: samples.get(k) if default is None else default for k, default in defaults.items()}
    with torch.device("meta"):
        assert isinstance(builder(num_classes=3, **given), nn.Module)


def test_catalogue_has_our_models_and_all_of_torchvisions():
    from torchvision import models as theirs

    assert set(models().parts) == OURS | set(theirs.list_models(module=theirs))


def test_catalogue_describes_a_torchvision_model_with_what_a_user_may_set():
    text, summary = models().describe("mobilenet_v3_small")
    assert text == (
        "mobilenet_v3_small(width_mult=1.0, reduced_tail=False, dilated=False, dropout=0.2,"
        " in_channels=3)"
    )
    assert summary == "2.5 million parameters, 67.7 % on ImageNet-1K"


def test_every_model_of_the_catalogue_has_its_origin():
    origins = {name: origin(name) for name in models().parts}
    ours = {name for name, where in origins.items() if where == "ptkit"}
    assert ours == OURS
    assert origins["resnet18"] == "torchvision"


@pytest.mark.parametrize(
    ("call", "size"),
    [
        ("lenet", 32),
        ("lenet(size=28)", 28),
        ("resnet8", 32),
        ("resnet18", 224),
        ("vit_b_16(image_size=64)", 64),
        ("maxvit_t(input_size=(96, 96))", 96),
        ("net.py:Net", 224),
        ("net.py:lenet", 224),
    ],
)
def test_usual_size_is_what_the_call_says_or_what_the_model_is_made_for(call, size):
    assert usual_size(parse(call)) == size


def test_arguments_of_a_call_take_effect():
    model = built("mobilenet_v3_small(dropout=0.1)")
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.1]


def test_none_stands_for_torchvisions_own_value():
    with torch.device("meta"):
        models = [built("efficientnet_b0(dropout=None)"), built("efficientnet_b0(dropout=0.4)")]
    assert [model.classifier[0].p for model in models] == [0.2, 0.4]


@pytest.mark.parametrize(
    ("call", "size", "text"),
    [
        ("resnet18", 32, "resnet18(stem='small')"),
        ("resnet18()", 64, "resnet18(stem='small')"),
        ("resnet18(stem='standard')", 32, "resnet18(stem='standard')"),
        (
            "resnet18(num_classes=10, zero_init_residual=True)",
            None,
            "resnet18(zero_init_residual=True, stem='standard')",
        ),
        ("lenet", 32, "lenet()"),
        ("lenet", 28, "lenet(size=28)"),
        ("vit_b_32", 64, "vit_b_32(image_size=64)"),
        ("resnet8", 16, "resnet8()"),
    ],
)
def test_resolved_call_records_what_the_size_settled(call, size, text):
    with torch.device("meta"):
        assert resolved(call, size) == text


@pytest.mark.parametrize("call", ["lenet", "resnet18"])
def test_resolved_call_alone_builds_the_same_model_again(call):
    model, text = build_model(call, num_classes=10, size=28, seed=3)
    again, _ = build_model(text, num_classes=10, size=None, seed=3)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_small_stem_keeps_the_size_of_the_image():
    model = built("resnet18(stem='small')")
    assert model.maxpool(model.conv1(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 32, 32)


def test_seed_decides_the_weights_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, same, other = built("resnet8"), built("resnet8"), built("resnet8", seed=1)
    assert torch.equal(first.fc.weight, same.fc.weight)
    assert not torch.equal(first.fc.weight, other.fc.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_lenet_has_the_parameters_of_the_course():
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in built("lenet").named_parameters()
        if "weight" in name
    }
    assert shapes == {
        "conv1.weight": (6, 3, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "fc1.weight": (120, 400),
        "fc2.weight": (84, 120),
        "fc3.weight": (10, 84),
    }


@pytest.mark.parametrize(
    ("name", "num_layers"), [("resnet8", 8), ("resnet20", 20), ("resnet56", 56)]
)
def test_cifar_family_has_as_many_layers_as_its_name_says(name, num_layers):
    shortcuts = {f"layer{stage}.0.shortcut.0.weight" for stage in (2, 3)}
    weights = [n for n, p in built(name).named_parameters() if p.ndim > 1]
    assert shortcuts < set(weights)
    assert len(weights) - len(shortcuts) == num_layers


def test_cifar_family_has_widths_16_32_64():
    model = built("resnet8")
    features = model.layer1(model.bn1(model.conv1(torch.zeros(1, 3, 32, 32))))
    assert features.shape == (1, 16, 32, 32)
    assert model.layer2(features).shape == (1, 32, 16, 16)
    assert model.layer3(model.layer2(features)).shape == (1, 64, 8, 8)


def test_tutorial_resnet_has_the_stages_of_the_course_and_takes_any_size():
    with torch.device("meta"):
        model = built("resnet34_tutorial")
        assert model(torch.zeros(2, 3, 48, 48)).shape == (2, 10)
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    assert [len(stage) for stage in stages] == [3, 4, 6, 3]
    assert [stage[0].left[0].out_channels for stage in stages] == [128, 256, 512, 512]
    assert [block.right is None for block in model.layer1] == [False, True, True]
    # Counted from the course's own code.
    assert num_parameters(model) == 46_998_090


def test_default_model_is_small_up_to_64_pixels():
    assert [default_model(size) for size in (16, 64, 65, 224)] == [
        "resnet8()",
        "resnet8()",
        "resnet18()",
        "resnet18()",
    ]


def test_users_factory_gets_the_number_of_classes_and_its_own_arguments(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\ndef wide(num_classes, width=1): return nn.Sequential(nn.Flatten(),"
        " nn.Linear(width, num_classes))\ndef fixed(width): return nn.Linear(width, 2)\ndef"
        " wrong(): return 5\n"
    )
    model, text = build_model(f"{file}:wide(width=12)", num_classes=4, size=2, seed=0)
    assert (model[1].in_features, model[1].out_features) == (12, 4)
    assert text == f"{file}:wide(width=12)"
    assert built(f"{file}:fixed(3)").in_features == 3
    with pytest.raises(UsageError, match=r"wrong must return a torch\.nn\.Module, found int"):
        built(f"{file}:wrong")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("resnet9", "no model is called resnet9; did you mean resnet8?"),
        ("mobilenet_v3_small(dropot=0.1)", "has no argument dropot; did you mean dropout?"),
        ("vgg11(stem='small')", "vgg11 has no argument stem"),
        ("resnet18(stem='tiny')", "stem must be 'small', 'standard' or None, found 'tiny'"),
        (
            "resnet18(pretrained=True)",
            "pretrained is not part of a model: ptkit finetune resnet18 starts from",
        ),
        ("resnet18(weights='DEFAULT')", "ptkit finetune resnet18 starts from pretrained weights"),
        ("resnet8(num_classes=7)", "the data has 10 classes; leave num_classes out"),
        ("lenet(10)", "lenet takes at most 0 arguments"),
    ],
)
def test_wrong_call_is_a_usage_error(call, message):
    with pytest.raises(UsageError) as caught:
        built(call)
    assert message in str(caught.value)


def test_lenet_refuses_images_that_leave_nothing_to_look_at():
    with pytest.raises(UsageError, match="16 pixels or larger, found 8"):
        built("lenet", size=8)


def test_size_too_small_for_the_model_is_a_usage_error():
    with pytest.raises(
        UsageError,
        match=r"SqueezeNet does not take 8×8 images .*change --size, --model or the transforms",
    ) as caught:
        check_forward(built("squeezenet1_1"), 8)
    assert "\n" not in str(caught.value)


def test_check_forward_leaves_modes_and_statistics_as_they_were():
    model = built("resnet8").train()
    model.bn1.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_forward(model, 16, num_classes=10)
    assert (model.training, model.bn1.training, model.layer1.training) == (True, False, True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_check_forward_refuses_another_number_of_scores():
    with pytest.raises(UsageError, match=r"must give \(images, 4\) scores, found \(1, 10\)"):
        check_forward(built("resnet8"), 16, num_classes=4)


def test_find_head_takes_the_last_layer_of_that_many_outputs():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3), nn.Linear(5, 4))
    assert find_head(model, 5) == "1"
    with pytest.raises(UsageError, match="with 6 outputs"):
        find_head(model, 6)


@pytest.mark.parametrize("name", ["lenet", "resnet34_tutorial"])
def test_pooling_first_gives_the_numbers_of_rectifying_first(name):
    model = build_model(f"{name}()", num_classes=3, size=32, seed=0)[0].double()
    textbook = copy.deepcopy(model)
    if name == "lenet":
        # Rectified twice is rectified once.
        for number in (1, 2):
            convolution = getattr(textbook, f"conv{number}")
            convolution.register_forward_hook(lambda _module, _inputs, maps: maps.relu())
    else:
        convolution, norm, pool, relu = textbook.pre
        textbook.pre = nn.Sequential(convolution, norm, relu, pool)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    outputs = [each(images) for each in (model, textbook)]
    assert torch.equal(*outputs)
    gradients = [
        torch.autograd.grad(found.square().sum(), [*each.parameters()])
        for found, each in zip(outputs, (model, textbook), strict=True)
    ]
    assert all(map(torch.equal, *gradients))
