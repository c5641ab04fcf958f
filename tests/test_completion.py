import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from test_startup import HEAVY
from typer.main import get_command

from ptkit.commands.app import app
from ptkit.commands.completion import _COMPLETERS, words_of_bash
from ptkit.core.models import timm_models
from ptkit.core.models.layer_names import layers_of_file

ROOT = Path(__file__).parent.parent
FILE = ROOT / "ptkit" / "commands" / "completion_names.json"
# Where the names of the file come from; older versions have fewer of them.
TORCHVISION = (0, 29)
# What a shell runs, with the modules that were loaded told at the end.
ASK = """
import json, os, sys
sys.path.insert(0, {root!r})
if "TELL" in os.environ:
    import atexit
    atexit.register(lambda: open(os.environ["TELL"], "w").write(json.dumps(list(sys.modules))))
from ptkit.cli import main
main()
"""
BASH = """
source {script}
COMP_WORDS=({words})
COMP_CWORD={current}
COMPREPLY=()
_ptkit_completion ptkit
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A folder with the program, as a shell finds it, and the completion scripts that it prints."""
    folder = tmp_path_factory.mktemp("shell")
    program = folder / "ptkit"
    (folder / "ask.py").write_text(ASK.format(root=str(ROOT)))
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder}/ask.py" "$@"\n')
    program.chmod(0o755)
    for name in ("bash", "zsh"):
        (folder / f"script.{name}").write_text(asked(folder, f"source_{name}"))
    return folder


def asked(folder, instruction, **more):
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **more}
    return subprocess.run(
        [folder / "ptkit"],
        env=environment | {"_PTKIT_COMPLETE": instruction},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def in_bash(folder, *words):
    """Return what bash offers for the last of the words."""
    text = BASH.format(
        script=folder / "script.bash",
        words=" ".join(f"'{word}'" for word in ("ptkit", *words)),
        current=len(words),
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", text],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def completions(*words):
    """Return what is offered for the last of the words, asked in this process."""
    command = get_command(app)
    group = command.make_context("ptkit", [words[0]], resilient_parsing=True)
    own = command.commands[words[0]]
    context = own.make_context(words[0], list(words[1:-2]), parent=group, resilient_parsing=True)
    option = next(p for p in own.params if words[-2] in p.opts)
    return [item.value for item in option.shell_complete(context, words[-1])]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_flags_and_values_that_hold_colons_and_equals_signs(shell):
    assert in_bash(shell, "viz-f") == ["viz-featuremaps"]
    assert in_bash(shell, "data", "ci") == ["cifar10", "cifar100"]
    assert in_bash(shell, "train", "--model", "efficientnet_l") == ["efficientnet_lite0"]
    # Bash takes these apart; it replaces only what follows the sign.
    assert in_bash(shell, "train", "--set", "data.cache", "=", "r") == ["ram"]
    assert in_bash(shell, "train", "--loss", "=", "CrossE") == ["CrossEntropyLoss"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_loads_the_script_and_gets_values_and_the_texts_of_flags(shell):
    script = f"autoload -Uz compinit && compinit -u -d {shell}/dump && source {shell}/script.zsh"
    subprocess.run(["zsh", "-fc", script], check=True, capture_output=True)
    offered = asked(shell, "complete_zsh", _TYPER_COMPLETE_ARGS="ptkit train --augment na")
    assert '"natural"' in offered
    help_text = asked(shell, "complete_zsh", _TYPER_COMPLETE_ARGS="ptkit train --conf")
    assert '"--config":"' in help_text


def test_completion_loads_neither_torch_nor_numpy(shell, tmp_path):
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "w.pt")
    # The last one offers a flag with its help.
    asked_for = (f"viz-weights {tmp_path}/w.pt --layers ", "train --model r", "train --mod")
    for number, words in enumerate(asked_for):
        told = tmp_path / f"{number}.json"
        asked(shell, "complete_zsh", _TYPER_COMPLETE_ARGS=f"ptkit {words}", TELL=str(told))
        loaded = {name.partition(".")[0] for name in json.loads(told.read_text())}
        assert loaded & HEAVY == set()


def test_install_completion_writes_the_script_of_the_shell_that_asks(shell, tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{shell}:{os.environ['PATH']}"}
    # Not the last command, or the shell would become it.
    line = "ptkit --install-completion; true"
    subprocess.run(["bash", "--norc", "-c", line], env=environment, check=True)
    written = (tmp_path / ".bash_completions" / "ptkit.sh").read_text()
    assert written.strip() == (shell / "script.bash").read_text().strip()
    assert "ptkit.sh" in (tmp_path / ".bashrc").read_text()


def test_a_home_folder_that_cannot_be_written_is_one_line(shell, tmp_path):
    (tmp_path / "home").write_text("a file")
    environment = {**os.environ, "HOME": str(tmp_path / "home")}
    line = f"{shell}/ptkit --install-completion; exit $?"
    done = subprocess.run(
        ["bash", "--norc", "-c", line], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (74, "")
    assert done.stderr.startswith("ptkit: cannot install the completion: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "some"),
    [
        (("train", "--optimizer", "Ad"), {"Adam", "AdamW"}),
        (("train", "--scheduler", "Cos"), {"CosineAnnealingLR"}),
        (("finetune", "--transform", "RandomC"), {"RandomCrop"}),
        (("train", "--recipe", "photos"), {"photos", "photos-scratch"}),
        (("train", "--init", "Conv2d=kai"), {"Conv2d=kaiming_normal_"}),
        (("train", "--precision", ""), {"auto", "bf16"}),
        (("train", "--batch-size", ""), {"auto"}),
        (("train", "--set", "train.cl"), {"train.clip_grad=", "train.clip_value="}),
        (("train", "--set", "log.graph="), {"log.graph=true", "log.graph=false"}),
        (("viz-weights", "--view", "c"), {"channels"}),
        (("diagnose", "--explain", "lr"), {"lr too high"}),
    ],
)
def test_flags_offer_their_values(words, some):
    offered = completions(*words)
    assert some <= set(offered)
    assert all(value.startswith(words[-1]) for value in offered)


def test_layers_are_those_of_the_weights_that_the_line_names(tmp_path):
    weights = {"layer1.conv.weight": torch.zeros(2), "fc.bias": torch.zeros(1)}
    torch.save({"state_dict": weights, "notes": ["a.weight of the text.bias"]}, tmp_path / "w.pkl")
    save_file(weights, tmp_path / "w.safetensors")
    expected = ["layer1", "layer1.conv", "fc"]
    assert layers_of_file(tmp_path / "w.pkl") == expected
    assert sorted(layers_of_file(tmp_path / "w.safetensors")) == sorted(expected)
    found = completions("viz-weights", str(tmp_path / "w.pkl"), "--layers", "l")
    assert found == ["layer1", "layer1.conv"]
    (tmp_path / "text.pkl").write_text("no weights")
    assert layers_of_file(tmp_path / "text.pkl") == layers_of_file(tmp_path / "none") == []
    (tmp_path / "number.safetensors").write_bytes((1).to_bytes(8, "little") + b"3")
    assert layers_of_file(tmp_path / "number.safetensors") == []


@pytest.mark.skipif(not timm_models.is_installed(), reason="needs timm")
def test_timms_models_are_those_that_timm_lists():
    offered = completions("train", "--model", "timm:")
    assert {name.removeprefix("timm:") for name in offered} - {""} == set(timm_models.names())


def test_a_quoted_word_of_bash_stays_whole(capsys):
    words = {"COMP_WORDS": "ptkit\ntrain\n--set\n'data.cache=", "COMP_CWORD": "3"}
    with words_of_bash(words):
        print("data.cache=ram")
    assert capsys.readouterr().out == "data.cache=ram\n"


def test_the_names_in_the_file_are_those_of_the_catalogues():
    names = runpy.run_path(str(ROOT / "scripts" / "make_completion_names.py"))["names"]
    live, written = names(), json.loads(FILE.read_text(encoding="utf-8"))
    assert {k: [n for n in v if n not in written[k]] for k, v in live.items()} == {
        kind: [] for kind in written
    }
    version = tuple(int(part) for part in torchvision.__version__.split(".")[:2])
    assert version < TORCHVISION or live == written


def test_every_name_with_values_is_a_parameter_of_some_command():
    parameters = {p.name for command in get_command(app).commands.values() for p in command.params}
    assert _COMPLETERS.keys() - parameters == set()
