import dataclasses
import os
import re
import tomllib
from pathlib import Path

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from ptkit.core.config.layers import (
    gather,
    layer_of,
    parse_assignment,
    parse_assignments,
    read_toml,
    resolve,
    to_layer,
    to_toml,
)
from ptkit.core.config.settings import FIELDS, FLAGS, KEYWORDS, Settings
from ptkit.core.errors import UsageError

SETTINGS = [(section, field) for section, fields in FIELDS.items() for field in fields.values()]
PATHS = ("train", "valid", "classes")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FILE_NAMES = st.sampled_from(["a.txt", "../lists/b.txt", "sub/ü ö.txt", "图像.txt", 'quote".txt'])
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.sampled_from(["none", "auto", "1,2,3", "0.5,x", "sgd", "\udcff"])
)


@st.composite
def valid_settings(draw):
    """Any settings that stay inside their ranges and change what each test below looks at."""
    layer = {
        "data": {
            "train": draw(FILE_NAMES),
            "valid": draw(FILE_NAMES),
            "classes": draw(st.none() | FILE_NAMES),
            "transforms": draw(st.lists(TEXT, max_size=3)),
            "mean": draw(st.lists(st.floats(0, 1), max_size=3)),
            "std": draw(st.lists(st.floats(0, exclude_min=True, allow_infinity=False), max_size=3)),
            "cache": draw(st.sampled_from(["auto", "ram", "disk", "off"])),
            "allow_leak": draw(st.booleans()),
            "size": draw(st.none() | st.integers(1, 2**40)),
        },
        "model": {"call": draw(st.none() | TEXT.filter(lambda text: text != "none"))},
        "optimizer": {"lr": draw(st.none() | st.floats(0, exclude_min=True, allow_infinity=False))},
        "log": {"comment": draw(TEXT)},
    }
    return resolve(layer)


def with_whole_paths(found):
    """Return the settings with the paths of files as seen from the root."""
    paths = {
        key: os.path.abspath(value)
        for key, value in to_layer(found)["data"].items()
        if key in PATHS and value
    }
    return resolve(to_layer(found), {"data": paths})


def resolved_or_none(layer):
    try:
        return resolve(layer)
    except UsageError:
        return None


@given(valid_settings(), st.sampled_from(["runs/1", "../elsewhere/x", "."]))
@settings(max_examples=examples(60), deadline=None)
def test_settings_written_as_toml_are_read_back_the_same_wherever_the_file_lies(
    tmp_path_factory, found, folder
):
    home = tmp_path_factory.mktemp("home")
    (home / folder).mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        file = Path(folder) / "config.toml"
        file.write_text(to_toml(found, folder=file.parent), encoding="utf-8")
        again = resolve(read_toml(file))
        assert with_whole_paths(again) == with_whole_paths(found)


@given(
    st.sampled_from(SETTINGS),
    PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(TEXT, PLAIN, max_size=2),
)
@settings(max_examples=examples(200), deadline=None)
def test_any_value_makes_settings_that_can_be_kept_or_a_usage_error(setting, value):
    section, field = setting
    found = resolved_or_none({section: {field.name: value}})
    assert found is None or tomllib.loads(to_toml(found, folder=Path("runs/1")))


@pytest.mark.parametrize(("section", "field"), SETTINGS, ids=[f"{s}.{f.name}" for s, f in SETTINGS])
def test_every_setting_has_a_meaning_and_a_default_that_keeps_its_own_rules(section, field):
    assert re.fullmatch(r"[A-Z].{5,}\.", field.metadata["meaning"])
    assert resolve({section: {field.name: field.default}}) == Settings()


def test_later_layers_win_key_by_key():
    found = resolve({"train": {"epochs": 3, "seed": 1}}, {}, {"train": {"epochs": 5}})
    assert found == resolve({"train": {"epochs": 5, "seed": 1}})
    assert (found.train.epochs, found.train.seed, found.train.batch_size) == (5, 1, None)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"optimzer": {"lr": 1}},
         "no section [optimzer]; did you mean optimizer?; sections: data, model, loss, "),
        ({"optimizer": {"lrr": 1}}, "[optimizer] has no setting lrr; did you mean lr?"),
        ({"loss": {"weights": [1]}}, "[loss] has no setting weights; it has: call"),
        ({"train": 5}, "train must be a section, as in [train], found 5"),
        ({"train": {"epochs": 0}}, "train.epochs must be at least 1, found 0"),
        ({"train": {"epochs": 2.0}}, "train.epochs must be a whole number, found 2.0"),
        ({"train": {"epochs": True}}, "train.epochs must be a whole number, found True"),
        ({"train": {"epochs": "many"}}, "train.epochs must be a whole number, found 'many'"),
        ({"train": {"seed": 2**63}},
         "train.seed must be at most 9223372036854775807, found 9223372036854775808"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr must be above 0, found 0.0"),
        ({"optimizer": {"lr": -1}}, "optimizer.lr must be above 0, found -1.0"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr must be a finite number, found nan"),
        ({"optimizer": {"lr": 10**400}}, "optimizer.lr must be a finite number, found inf"),
        ({"scheduler": {"warmup": -0.5}}, "scheduler.warmup must be at least 0, found -0.5"),
        ({"data": {"sampler": "balance"}},
         "data.sampler must be one of none, balanced, found 'balance'; did you mean balanced?"),
        ({"train": {"deterministic": 1}}, "train.deterministic must be true or false, found 1"),
        ({"data": {"transforms": [1]}}, "data.transforms must be text, found 1"),
        ({"data": {"mean": [0.5, 0.5, 128]}}, "data.mean must be at most 1, found 128.0"),
        ({"data": {"std": [0.5, 0.5, 0]}}, "data.std must be above 0, found 0.0"),
        ({"data": {"mean": "0.5,half,0.5"}}, "data.mean must be a number, found 'half'"),
        ({"data": {"train": ""}}, "data.train must name a file, found ''"),
        ({"data": {"classes": "a\0b"}}, r"data.classes must name a file, found 'a\x00b'"),
        ({"data": {"train": "\udcff.txt"}},
         r"data.train must be UTF-8 text, found '\udcff.txt': config.toml cannot hold it; rename "
         "it"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_told_with_what_would_be_right(layer, message):
    with pytest.raises(UsageError) as caught:
        resolve(layer)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("key", "full"),
    [
        ("lrr", "optimizer.lr"),
        ("headlr", "optimizer.head_lr"),
        ("optimizer", "optimizer.call"),
        ("folder", "log.folder"),
    ],
)
def test_a_setting_in_the_wrong_section_is_named_in_full(key, full):
    with pytest.raises(UsageError) as refused:
        resolve({"train": {key: 1}})
    said = str(refused.value)
    assert said.startswith(f"[train] has no setting {key}; it has: epochs, batch_size, ")
    assert said.endswith(f", method, knn; did you mean {full}?")


@pytest.mark.parametrize("name", ["optimizer.momentum", "train.weight_decay", "train.amp"])
def test_a_name_that_no_setting_is_near_to_gets_no_hint(name):
    section, key = name.split(".")
    with pytest.raises(UsageError) as caught:
        resolve({section: {key: 1}})
    assert "did you mean" not in str(caught.value)


def test_a_whole_number_serves_where_a_number_is_wanted():
    assert resolve({"optimizer": {"lr": 1}}).optimizer.lr == 1.0
    assert isinstance(resolve({"optimizer": {"lr": 1}}).optimizer.lr, float)


def test_one_value_serves_where_a_list_is_wanted():
    assert resolve({"data": {"transforms": "ToTensor()"}}).data.transforms == ("ToTensor()",)


def test_none_takes_a_setting_back():
    layer = {"optimizer": {"lr": 0.1}, "model": {"call": "lenet"}, "train": {"patience": 3}}
    back = {"optimizer": {"lr": "none"}, "model": {"call": "none"}, "train": {"patience": "none"}}
    assert resolve(layer, back) == Settings()


def test_no_schedule_is_called_none_and_stays_a_name():
    assert resolve({"scheduler": {"call": "none"}}).scheduler.call == "none"


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("train.epochs=5", "train", "epochs", 5),
        (" optimizer.lr = 1e-3", "optimizer", "lr", 0.001),
        ("train.deterministic=true", "train", "deterministic", True),
        (
            "loss.call=CrossEntropyLoss(label_smoothing=0.1)",
            "loss",
            "call",
            "CrossEntropyLoss(label_smoothing=0.1)",
        ),
        ('model.call=resnet18(stem="small")', "model", "call", 'resnet18(stem="small")'),
        (
            'data.transforms=["Pad(1)", "RandomCrop(16)"]',
            "data",
            "transforms",
            ("Pad(1)", "RandomCrop(16)"),
        ),
        ("data.mean=0.1, .2,3e-1", "data", "mean", (0.1, 0.2, 0.3)),
        ("data.mean=[0.1, 0.2, 0.3]", "data", "mean", (0.1, 0.2, 0.3)),
        ("data.train=my lists/a=b.txt", "data", "train", "my lists/a=b.txt"),
        ('log.comment="5"', "log", "comment", "5"),
        ("log.comment=", "log", "comment", ""),
    ],
)
def test_an_assignment_takes_toml_or_plain_text(text, section, key, value):
    assert getattr(getattr(resolve(parse_assignment(text)), section), key) == value


@pytest.mark.parametrize("text", ["train.epochs", "epochs=5", "=5", ""])
def test_an_assignment_of_another_form_is_refused(text):
    with pytest.raises(UsageError, match=r"--set expects section\.key=value"):
        parse_assignment(text)


def test_paths_in_a_toml_file_are_relative_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "old.pkl").touch()
    file = Path("configs/a.toml")
    file.write_text(
        '[data]\ntrain = "../lists/train.txt"\nvalid = "/abs/v.txt"\n[model]\nweights ='
        ' "../old.pkl"\n'
    )
    found = resolve(read_toml(file))
    assert (found.data.train, found.data.valid) == ("lists/train.txt", "/abs/v.txt")
    assert found.model.weights == "old.pkl"


def test_weights_that_are_a_models_name_are_not_taken_for_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = to_toml(resolve({"model": {"weights": "resnet18"}}), folder=Path("runs/1"))
    assert tomllib.loads(text)["model"]["weights"] == "resnet18"
    (tmp_path / "a.toml").write_text(text)
    assert resolve(read_toml(tmp_path / "a.toml")).model.weights == "resnet18"


def test_toml_of_an_editor_that_writes_a_bom_is_read(tmp_path):
    file = tmp_path / "a.toml"
    file.write_bytes(b"\xef\xbb\xbf[train]\r\nepochs = 3\r\n")
    assert resolve(read_toml(file)).train.epochs == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[train\n", "is not TOML: Expected"),
        (b"[train]\nepochs = five\n", r"is not TOML: Invalid value \(at line 2"),
        (b"[train]\ncomment = '\xff'\n", "is not TOML: 'utf-8' codec can't decode"),
    ],
)
def test_a_file_that_is_not_toml_is_a_usage_error_with_the_place(tmp_path, content, message):
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_toml(tmp_path / "a.toml")


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*gone\.toml: No such file"):
        read_toml(tmp_path / "gone.toml")


def test_settings_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().train.epochs = 3  # type: ignore[misc]


def test_every_setting_has_a_keyword_and_a_flag_of_its_own():
    assert len(KEYWORDS) == len(SETTINGS)
    assert all(keyword.isidentifier() for keyword in KEYWORDS)
    assert FLAGS.keys() <= KEYWORDS.keys()
    assert len(set(FLAGS.values())) == len(FLAGS)


def test_keywords_name_settings_without_their_section(tmp_path):
    found = resolve(layer_of({"model": "lenet", "train": tmp_path / "a.txt", "lr": 0.5}))
    assert (found.model.call, found.data.train) == ("lenet", str(tmp_path / "a.txt"))
    assert found == resolve(
        {"model": {"call": "lenet"}, "data": {"train": str(tmp_path / "a.txt")}},
        {"optimizer": {"lr": 0.5}},
    )


def test_an_unknown_keyword_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match=r"^no setting is called epoch; did you mean epochs\?$"):
        layer_of({"epoch": 3})


def test_the_folder_of_a_run_stands_for_its_settings(tmp_path):
    run = tmp_path / "runs/1"
    run.mkdir(parents=True)
    (run / "config.toml").write_text('[data]\ntrain = "../../a.txt"\n[train]\nepochs = 7\n')
    assert gather({}, config=run) == gather({}, config=run / "config.toml")
    assert gather({}, config=run).data.train == str(tmp_path / "a.txt")


def test_a_folder_that_is_no_run_is_refused_with_the_runs_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/1").mkdir(parents=True)
    text = "runs is a folder without a config.toml: expected a TOML file or a run folder"
    with pytest.raises(UsageError, match=f"^{re.escape(text)}$"):
        gather({}, config=Path("runs"))
    Path("runs/1/config.toml").touch()
    with pytest.raises(UsageError, match=f"^{re.escape(text)}; it holds runs, such as runs/1$"):
        gather({}, config=Path("runs"))
    with pytest.raises(UsageError, match=r"; for the settings of this run: --config runs/1$"):
        gather({}, recipe="runs/1")


def test_a_recipe_of_which_a_file_sets_everything_is_refused(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(to_toml(gather({}, recipe="speed"), folder=tmp_path))
    with pytest.raises(UsageError, match=r"^--recipe speed has no effect beside --config "):
        gather({}, recipe="speed", config=file)
    file.write_text("[train]\nepochs = 3\n")
    assert gather({}, recipe="speed", config=file).train.epochs == 3


def test_keywords_win_over_config_over_recipe_over_base(tmp_path):
    (tmp_path / "a.toml").write_text("[train]\nepochs = 2\nseed = 2\n")
    (tmp_path / "b.toml").write_text("[train]\nepochs = 3\nseed = 3\npatience = 3\n")
    found = gather(
        {"epochs": 1},
        config=tmp_path / "a.toml",
        recipe=str(tmp_path / "b.toml"),
        base={"train": {"epochs": 4, "seed": 4, "patience": 4, "accumulate": 4}},
    ).train
    assert (found.epochs, found.seed, found.patience, found.accumulate) == (1, 2, 3, 4)


def test_later_assignments_win():
    assert parse_assignments(["train.seed=1", "model.call=lenet", "train.seed=2"]) == {
        "seed": 2,
        "model": "lenet",
    }


@pytest.mark.parametrize("text", ["train.epoch=1", "trains.epochs=1", "train.epochs=0"])
def test_an_assignment_is_checked_like_every_setting(text):
    with pytest.raises(UsageError, match=r"did you mean|at least"):
        parse_assignments([text])


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("epochs=2", "did you mean train.epochs?"),
        ("optimizer=SGD()", "did you mean optimizer.call?"),
        ("x=1", "'x=1'"),
    ],
)
def test_a_setting_without_its_section_is_named_in_full(text, hint):
    with pytest.raises(UsageError) as refused:
        parse_assignment(text)
    assert str(refused.value).endswith(hint)


def test_another_size_keeps_the_share_that_evaluation_crops():
    own = ("Resize(256, InterpolationMode.BICUBIC)", "CenterCrop(224)")
    before = {"data": {"size": 224, "eval_transforms": list(own)}}
    found = resolve(before, {"data": {"size": 112}}).data.eval_transforms
    assert found == ("Resize(128, InterpolationMode.BICUBIC)", "CenterCrop(112)")
