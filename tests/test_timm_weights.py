"""timm's pretrained weights, from a small Hub on the loopback address and from caches."""

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from small_hub import put_into_cache, serving
from tiny_data import make_lists
from typer.testing import CliRunner

from ptkit.commands.app import app
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.errors import CheckpointError, StorageError, UsageError
from ptkit.core.models.locate import find_weights, weights_to_start_from

if importlib.util.find_spec("timm") is None:
    pytest.skip("timm is not installed", allow_module_level=True)
import timm
from huggingface_hub import constants

RESNET, VIT = "timm/test_resnet.r160_in1k", "timm/test_vit.r160_in1k"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def resnet():
    """A small network of timm's with weights that are not trained, as the bytes of its file."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet")
    return model, save(model.state_dict())


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    model = timm.create_model("test_vit")
    return model, save(model.state_dict())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the Hub and one of torch's, and a Hub that cannot be reached."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    use_hub(monkeypatch, NOWHERE)
    return tmp_path / "hub"


def use_hub(monkeypatch, address):
    """As HF_ENDPOINT does, which the client reads when it is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def ptkit(*arguments):
    return CliRunner().invoke(app, list(arguments))


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_weights_come_from_the_hub_once_with_all_that_timm_says_of_them(monkeypatch, resnet):
    model, data = resnet
    with serving({f"{RESNET}/model.safetensors": data}) as address:
        use_hub(monkeypatch, address)
        found = find_weights("timm:test_resnet")
    use_hub(monkeypatch, NOWHERE)
    again = find_weights("timm:test_resnet.r160_in1k(drop_rate=0.1)")
    assert same(found.state_dict, model.state_dict())
    assert same(again.state_dict, found.state_dict)
    assert (found.source, found.call) == ("timm:test_resnet.r160_in1k", "timm:test_resnet()")
    assert again.call == "timm:test_resnet(drop_rate=0.1)"
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert (found.size, found.mean, found.std) == (160, (0.5,) * 3, (0.5,) * 3)
    assert found.class_names[:2] == ("tench", "goldfish")
    assert found.pipeline == (
        "Resize(168, InterpolationMode.BILINEAR)",
        "CenterCrop(160)",
        "ToTensor()",
        "Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])",
    )


def test_an_older_repository_has_the_weights_in_a_pickle(monkeypatch, tmp_path, resnet):
    model, _ = resnet
    torch.save(model.state_dict(), tmp_path / "old.bin")
    files = {f"{RESNET}/pytorch_model.bin": (tmp_path / "old.bin").read_bytes()}
    with serving(files) as address:
        use_hub(monkeypatch, address)
        assert same(find_weights("timm:test_resnet").state_dict, model.state_dict())


def test_pixels_are_prepared_as_timm_prepares_them(cache, vit):
    import numpy as np
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config

    model, data = vit
    put_into_cache(cache, VIT, "model.safetensors", data)
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    theirs = create_transform(**resolve_model_data_config(model))(Image.fromarray(pixels))
    ours = Pipeline.parse(find_weights("timm:test_vit").pipeline).view(pixels)
    # PIL rounds after each of the two directions.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2.5 / 255 / 0.5)


def test_positions_are_resampled_for_another_size_as_timm_does_it(cache, vit):
    _, data = vit
    file = put_into_cache(cache, VIT, "model.safetensors", data)
    found = weights_to_start_from("timm:test_vit", model=None, size=96)
    overlay = {"file": str(file)}
    theirs = timm.create_model(
        "test_vit", pretrained=True, pretrained_cfg_overlay=overlay, img_size=96
    )
    assert same(found.state_dict, theirs.state_dict())
    assert (found.call, found.size) == ("timm:test_vit(img_size=96)", 96)


def test_a_file_on_disk_that_a_tag_describes_needs_no_network(tmp_path, vit):
    model, data = vit
    # As the authors of DINOv2 name things, and a token that only training needs.
    (tmp_path / "theirs.safetensors").write_bytes(
        save({**model.state_dict(), "mask_token": torch.zeros(1, 64)})
    )
    path = str(tmp_path / "theirs.safetensors")
    found = find_weights(path, model="timm:test_vit.r160_in1k")
    assert same(found.state_dict, model.state_dict())
    assert (found.source, found.size, found.call) == (path, 160, "timm:test_vit()")
    by_hand = tmp_path / "torch" / "checkpoints" / "test_vit.r160_in1k.safetensors"
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(data)
    assert find_weights("timm:test_vit").path == by_hand


def test_without_a_network_one_line_says_what_to_put_where(tmp_path):
    with pytest.raises(StorageError) as caught:
        find_weights("timm:test_resnet")
    place = tmp_path / "torch" / "checkpoints" / "test_resnet.r160_in1k.safetensors"
    assert str(caught.value) == (
        "cannot download the weights of timm:test_resnet.r160_in1k (Connection refused): put"
        f" {NOWHERE}/{RESNET}/resolve/main/model.safetensors at {place} by hand, or give a file of"
        " weights"
    )


def test_the_offline_switch_is_respected(monkeypatch, resnet):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with serving({f"{RESNET}/model.safetensors": resnet[1]}) as address:
        use_hub(monkeypatch, address)
        with pytest.raises(StorageError, match="HF_HUB_OFFLINE"):
            find_weights("timm:test_resnet")


def test_a_licence_to_accept_gives_the_page(monkeypatch, cache):
    with serving({}, gated=(VIT,)) as address:
        use_hub(monkeypatch, address)
        result = ptkit("predict", "timm:test_vit", "x.png")
    assert result.exit_code == 4
    assert f"do so at {address}/{VIT}, log in with `hf auth login`" in result.stderr
    assert [file for file in cache.rglob("*") if file.is_file() and file.stat().st_size] == []


def test_a_file_that_was_cut_off_is_not_taken_for_weights(cache, resnet):
    put_into_cache(cache, RESNET, "model.safetensors", resnet[1][:5000])
    with pytest.raises(CheckpointError, match=r"damaged \.safetensors file.*fetch it again"):
        find_weights("timm:test_resnet")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("timm:test_resnet.r161_in1k", UsageError, "no weights r161_in1k of test_resnet; did you"),
        ("timm:test_resnett.x", UsageError, "no model test_resnett; did you mean test_resnet"),
        ("timm:resnet18d.x", UsageError, "no weights x of resnet18d; it has: ra"),
        (
            "timm:mobilenetv3_large_075",
            UsageError,
            "no pretrained weights of mobilenetv3_large_075",
        ),
        ("timm:test_resnet(drop_rat=1)", UsageError, "unexpected keyword argument 'drop_rat'"),
        ("timm:test_resnet('x')", UsageError, "take their arguments by name only"),
    ],
)
def test_what_timm_does_not_have_is_a_usage_error(cache, resnet, text, error, message):
    put_into_cache(cache, RESNET, "model.safetensors", resnet[1])
    with pytest.raises(error) as caught:
        find_weights(text)
    assert message in str(caught.value)


def test_a_file_of_another_model_is_not_that_of_a_tag(tmp_path, vit):
    (tmp_path / "other.safetensors").write_bytes(vit[1])
    with pytest.raises(CheckpointError) as caught:
        find_weights(str(tmp_path / "other.safetensors"), model="timm:test_resnet.r160_in1k")
    assert "does not hold the weights test_resnet.r160_in1k" in str(caught.value)
    assert "leave .r160_in1k out" in str(caught.value)


QUICK = ["--epochs", "1", "--batch-size", "16", "--size", "32", "--set", "log.tensorboard=false",
         "--set", "log.pictures=false"]  # fmt: skip


@pytest.fixture
def lists(tmp_path, monkeypatch, blank_pictures):
    monkeypatch.chdir(make_lists(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "start",
    [
        ["timm:test_resnet.r160_in1k"],
        ["--weights", "timm:test_resnet"],
        ["--model", "timm:test_resnet.r160_in1k(drop_rate=0.0)"],
    ],
)
def test_finetune_starts_from_the_pretrained_weights(start, lists, cache, resnet):
    put_into_cache(cache, RESNET, "model.safetensors", resnet[1])
    sha256 = hashlib.sha256(resnet[1]).hexdigest()
    result = ptkit("finetune", *start, *QUICK)
    assert result.exit_code == 0, result.output
    size = len(resnet[0].state_dict())
    taken = f"took {size - 2} of the model's {size} tensors; 2 were left out"
    assert f"weights of timm:test_resnet.r160_in1k: {taken}; sha256 {sha256[:12]}" in result.stdout
    saved = torch.load("ckpt.pkl", weights_only=True)
    assert saved["model"]["call"].startswith("timm:test_resnet(")
    assert saved["config"]["model"]["weights_sha256"] == sha256


def test_a_run_is_repeated_with_the_same_file_only(lists, cache, resnet, vit):
    file = put_into_cache(cache, RESNET, "model.safetensors", resnet[1]).resolve()
    assert ptkit("finetune", "timm:test_resnet", *QUICK).exit_code == 0
    again = ["train", "--config", "runs/1/config.toml"]
    assert ptkit(*again).exit_code == 0
    metrics = [Path(f"runs/{n}/metrics.csv").read_text().split(",")[:12] for n in (1, 2)]
    assert metrics[0] == metrics[1]
    file.write_bytes(resnet[1] + b"")
    other = timm.create_model("test_resnet")
    file.write_bytes(save(other.state_dict()))
    result = ptkit(*again)
    assert result.exit_code == 4
    found, meant = (hashlib.sha256(b).hexdigest() for b in (file.read_bytes(), resnet[1]))
    assert f"found sha256 {found}, model.weights_sha256 is {meant}" in result.stderr
    file.unlink()
    assert ptkit(*again).exit_code == 74
    assert sorted(path.name for path in Path("runs").iterdir()) == ["1", "2"]


@pytest.mark.slow
def test_a_file_that_a_tag_describes_is_read_so_again_when_the_run_is_repeated(lists, vit):
    # As the first of timm's transformers had them.
    flat = {"patch_embed.proj.weight": vit[0].patch_embed.proj.weight.detach().flatten(1)}
    Path("theirs.safetensors").write_bytes(save(vit[0].state_dict() | flat))
    start = ["finetune", "theirs.safetensors", "--model", "timm:test_vit.r160_in1k"]
    result = ptkit(*start, *QUICK)
    assert result.exit_code == 0, result.output
    again = ptkit("train", "--config", "runs/1/config.toml")
    size = len(vit[0].state_dict())
    for run in (result, again):
        taken = f"took {size - 2} of the model's {size} tensors; 2 were left out"
        assert f"weights of theirs.safetensors: {taken}" in run.stdout
    assert ptkit("train", "--resume", "runs/1", "--epochs", "2").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["finetune"], 2, "finetune needs weights to start from: ptkit finetune WEIGHTS"),
        (["finetune", "a.pt", "--weights", "b.pt"], 2, "given twice, a.pt and --weights b.pt"),
        (["finetune", "--model", "resnet8"], 4, "no weights resnet8: not a file"),
        (["finetune", "--model", "net.py:Net"], 4, "no weights net.py:Net"),
        (
            ["train", "--model", "timm:test_vit.r160_in1k"],
            2,
            ".r160_in1k names pretrained weights: ptkit finetune timm:test_vit.r160_in1k starts",
        ),
        (
            ["train", "--set", "model.weights_sha256=ab"],
            2,
            "is for model.weights, which is not given",
        ),
    ],
)
def test_weights_that_are_not_clear_are_refused(arguments, code, message, lists):
    result = ptkit(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert not Path("runs").exists()


@pytest.mark.slow
def test_evaluation_resizes_as_the_weights_had_it_also_when_the_run_is_resumed(lists, cache, vit):
    put_into_cache(cache, VIT, "model.safetensors", vit[1])
    own = [argument for argument in QUICK if argument not in ("--size", "32")]
    result = ptkit("finetune", "timm:test_vit", *own)
    assert result.exit_code == 0, result.output
    steps = "Resize(168, InterpolationMode.BICUBIC), CenterCrop(160), ToTensor()"
    assert f"evaluated with: {steps}" in result.stdout
    result = ptkit("train", "--resume", "runs/1", "--epochs", "2")
    assert result.exit_code == 0, result.output
    assert f"evaluated with: {steps}" in result.stdout


def test_a_bare_file_is_used_with_what_its_tag_says(lists, vit):
    Path("vit.safetensors").write_bytes(save(vit[0].state_dict()))
    image = next(Path().rglob("*.png"))
    command = ["predict", "vit.safetensors", str(image), "--json", "--model"]
    result = ptkit(*command, "timm:test_vit.r160_in1k")
    assert result.exit_code == 0, result.output
    with torch.inference_mode():
        found = find_weights("vit.safetensors", model="timm:test_vit.r160_in1k")
        pixels = Pipeline.parse(found.pipeline).read_image(image)
        best = vit[0].eval()(pixels[None]).argmax().item()
    assert json.loads(result.stdout)[0]["class"] == found.class_names[best]
    assert "add --mean R,G,B" in ptkit(*command, "timm:test_vit").stderr
    result = ptkit("summary", "vit.safetensors", "--model", "timm:test_vit.r160_in1k")
    assert result.stdout.startswith("timm:test_vit(): 1,000 classes, 160×160 pixels")


def test_what_a_tag_says_of_a_file_goes_into_safetensors(lists, vit):
    Path("vit.safetensors").write_bytes(save({**vit[0].state_dict(), "mask_token": torch.ones(1)}))
    command = ["convert", "vit.safetensors", "--to", "safetensors", "--out", "new.safetensors"]
    result = ptkit(*command, "--model", "timm:test_vit.r160_in1k")
    assert result.exit_code == 0, result.output
    assert same(load_file("new.safetensors"), vit[0].state_dict())


@pytest.mark.parametrize("model", ["lenet", "timm:test_vit.r160_in1k"])
def test_weights_named_by_their_model_are_of_no_other(lists, cache, resnet, model):
    put_into_cache(cache, RESNET, "model.safetensors", resnet[1])
    before = sorted(lists.iterdir())
    result = ptkit("convert", "timm:test_resnet", "--to", "safetensors", "--model", model)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert "is of timm:test_resnet(): leave out --model" in result.stderr
    assert sorted(lists.iterdir()) == before


def test_the_pretrained_are_listed_with_size_parameters_and_whether_they_are_here(cache, resnet):
    put_into_cache(cache, RESNET, "model.safetensors", resnet[1])
    found = json.loads(ptkit("list", "models", "TIMM:test_*net", "--pretrained", "--json").stdout)
    rows = {row["name"]: row for row in found}
    assert rows["timm:test_resnet.r160_in1k"] == {
        "name": "timm:test_resnet.r160_in1k",
        "origin": "timm",
        "size": [160, 160],
        "parameters": sum(parameter.numel() for parameter in resnet[0].parameters()),
        "num_bytes": len(resnet[1]),
        "is_here": True,
    }
    assert not rows["timm:test_byobnet.r160_in1k"]["is_here"]
    lines = ptkit("list", "models", "timm:test_resnet", "--pretrained").stdout.splitlines()
    assert lines[1].split() == [
        *("timm:test_resnet.r160_in1k", "160×160", "469,688", "1.9", "MB", "yes"),
    ]
    names = ptkit("list", "models", "timm:test_vit?").stdout.splitlines()
    assert names == ["timm:test_vit2", "timm:test_vit3", "timm:test_vit4"]


def test_all_the_pretrained_are_listed_without_counting_parameters_of_timms():
    rows = json.loads(ptkit("list", "models", "--pretrained", "--json").stdout)
    by_name = {row["name"]: row for row in rows}
    assert by_name["efficientnet_lite0"]["parameters"] == 4_652_008
    assert by_name["resnet18"]["size"] == [224, 224]
    assert by_name["timm:vit_base_patch16_384.augreg_in1k"]["parameters"] is None
    text = ptkit("list", "models", "--pretrained").stdout
    assert "timm:" not in text.partition("more of timm")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "timm:test_restnet", "--pretrained"], "did you mean timm:test_resnet?"),
        (["models", "restnet18"], "no name is like restnet18; did you mean resnet18?"),
        (
            ["losses", "--pretrained"],
            "--pretrained works only with `ptkit list models`, found KIND losses",
        ),
    ],
)
def test_a_pattern_that_nothing_fits_is_refused(arguments, message):
    result = ptkit("list", *arguments)
    assert (result.exit_code, message in result.stderr) == (2, True)
