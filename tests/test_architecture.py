"""The rules of the house, held against the source: who imports whom, how long things are, what
every command has.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from ptkit.commands.app import app

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "ptkit").rglob("*.py"))
COMMANDS = get_command(app).commands
COMMAND_MODULES = {command.callback.__module__ for command in app.registered_commands}

# A part of the house, and the parts that it may import beside itself. The longest prefix of a
# module's name decides.
BELOW = {"ptkit", "ptkit.core", "ptkit.core.parts"}
ENGINE = BELOW | {"ptkit.core.data", "ptkit.core.models"}
MAY_IMPORT = {
    # The door names what it exports; `import ptkit` loads none of it.
    "ptkit": {"ptkit.api", "ptkit.core.data", "ptkit.core.models"},
    "ptkit.__main__": {"ptkit.cli"},
    "ptkit.cli": {"ptkit", "ptkit.commands", "ptkit.core"},
    "ptkit.api": ENGINE | {"ptkit.core.ejecting", "ptkit.core.training", "ptkit.looking"},
    "ptkit.commands": ENGINE
    | {
        "ptkit.api",
        "ptkit.core.comparing",
        "ptkit.core.ejecting",
        "ptkit.core.training",
        "ptkit.looking",
        "ptkit.plots",
    },
    "ptkit.looking": ENGINE
    | {"ptkit.core.comparing", "ptkit.core.exporting", "ptkit.core.training", "ptkit.plots"},
    "ptkit.plots": {"ptkit", "ptkit.core"},
    "ptkit.core.exporting": ENGINE,
    "ptkit.core.comparing": ENGINE | {"ptkit.core.training"},
    "ptkit.core.ejecting": ENGINE | {"ptkit.core.training"},
    "ptkit.core.training": ENGINE,
    "ptkit.core.models": BELOW,
    "ptkit.core.data": BELOW,
    "ptkit.core.parts": {"ptkit", "ptkit.core"},
    "ptkit.core": {"ptkit"},
}
# What a command may import before it is called; all else would make `ptkit --help` slow.
LIGHT = ("ptkit.api", "ptkit.commands", "ptkit.core.parts.calls", "ptkit.core.config",
         "ptkit.core.counting",
         "ptkit.core.errors", "ptkit.core.machine", "ptkit.core.ranks", "ptkit.core.shares",
         "ptkit.core.wording")  # fmt: skip
HEAVY = {
    "torch",
    "torchvision",
    "numpy",
    "cv2",
    "matplotlib",
    "PIL",
    "rich",
    "tensorboardX",
    "timm",
    "sklearn",
    "onnx",
    "onnxruntime",
}
WITHOUT_TORCH = [
    "core.parts.calls",
    "core.parts.catalogue",
    "core.errors",
    "core.files",
    "core.data.lists",
    "core.data.loading.entries",
    "core.data.splits.scanning",
    "core.data.splits.splitting",
    "core.data.splits.jobs",
    *(f"api.{file.stem}" for file in (ROOT / "ptkit/api").glob("[!_]*.py")),
    *(f"core.config.{file.stem}" for file in (ROOT / "ptkit/core/config").glob("[!_]*.py")),
]

MAX_FUNCTION_LINES, MAX_PARAMETERS = 60, 7
# A command and the Python door have a parameter for each flag.
DOORS = ("ptkit.commands", "ptkit.api")
# What stands in for a class of torch takes the arguments that torch's takes.
STAND_INS = ("ptkit.core.training.optimization.muon",)
MAX_FILE_LINES = 400
# Longer files, with the reason.
LONG_FILES: dict[str, int] = {}

# design.md, "Flags are a closed table": what is not here is a setting, reached by --set.
FLAGS = {
    "every command": {"--help", "--json", "--quiet"},
    "split": {"--ratio", "--copy", "--link", "--group-by", "--kfold", "--extend",
              "--near-duplicates", "--allow-missing", "--overwrite", "--seed", "--out",
              "--path-column", "--label-column", "--group-column", "--label-from", "--root"},
    "data": {"--from", "--label-column", "--out"},
    "check": {"--run", "--strict", "--workers", "--root", "--alpha", "--out"},
    "normstats": {"--num", "--size", "--whiten", "--seed", "--workers", "--on-bad", "--root",
                  "--out"},
    "train": {"--train", "--valid", "--root", "--config", "--recipe", "--set", "--model", "--size",
              "--fit", "--epochs", "--batch-size", "--lr", "--loss", "--optimizer", "--scheduler",
              "--augment", "--transform", "--init", "--group", "--precision", "--name", "--resume",
              "--save-every", "--seeds", "--folds", "--eject", "--relabel", "--device",
              "--workers", "--seed", "--trust", "--out"},
    "finetune": {"--verbose", "--weights"},
    "probe": {"--backbone", "--knn", "--model", "--set", "--train", "--valid", "--root", "--size",
              "--fit", "--transform", "--workers", "--batch-size", "--seed", "--device",
              "--precision", "--name", "--out"},
    "viz-weights": {"--layers", "--view", "--scale", "--columns", "--gap", "--gap-colour",
                    "--out"},
    "viz-featuremaps": {"--layers", "--list", "--after", "--scale", "--columns", "--gap",
                        "--gap-colour", "--num-images", "--model", "--mean", "--std",
                        "--size", "--classes", "--transform", "--device", "--out"},
    "gradcam": {"--layers", "--class", "--num-images", "--model", "--mean", "--std", "--size",
                "--classes", "--transform", "--device", "--workers", "--on-bad", "--root",
                "--out"},
    "viz-transforms": {"--transform", "--augment", "--size", "--fit", "--num-images", "--seed",
                       "--mean", "--std", "--config", "--trust", "--out"},
    "confmat": {"--num-images", "--model", "--mean", "--std", "--size", "--classes", "--transform",
                "--device", "--workers", "--on-bad", "--root", "--out"},
    "convert": {"--to", "--model", "--mean", "--std", "--size", "--classes", "--alpha", "--out"},
    "calibrate": {"--only", "--target-precision", "--known", "--train", "--remove", "--seed",
                  "--device", "--workers", "--on-bad", "--root", "--out"},
    "compare": {"--by", "--out"},
    "diagnose": {"--explain", "--strict", "--root", "--device", "--workers"},
    "report": {"--no-images", "--check", "--no-check", "--root", "--device", "--workers", "--out"},
    "summary": {"--size", "--num-classes", "--model", "--depth"},
    "predict": {"--top", "--threshold", "--csv", "--jsonl", "--path-column", "--label-column",
                "--model", "--mean", "--std", "--size", "--classes", "--transform",
                "--device", "--workers", "--on-bad", "--root", "--out"},
    "export": {"--to", "--precision", "--without-preprocessing", "--images", "--opset", "--model",
               "--mean", "--std", "--size", "--classes", "--transform", "--workers", "--root",
               "--out"},
    "list": {"--pretrained", "--plot", "--json-schema", "--epochs", "--out"},
    "cache": {"--remove"},
}  # fmt: skip
for _name in ("viz-featuremaps", "gradcam", "confmat", "calibrate"):
    FLAGS[_name].add("--font")
SOURCES = {"--path-column", "--label-column", "--group-column", "--label-from"}
FLAGS["train"] |= SOURCES
FLAGS["probe"] |= SOURCES
FLAGS["finetune"] |= FLAGS["train"]
FLAGS["train"] |= {"--preflight", "--lr-find"}
for _name in ("normstats", "train", "finetune", "probe", "viz-featuremaps", "viz-transforms",
              "gradcam", "confmat", "predict", "export"):  # fmt: skip
    FLAGS[_name] |= {"--max-pixels", "--alpha"}
FLAGS["check"].add("--max-pixels")
FLAGS["calibrate"].add("--max-pixels")


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = [module_name(file) for file in FILES]


# Parsed and walked once, where the first test wants it: every worker collects these tests, and few
# of them run any.
@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(FILES[MODULES.index(module)].read_text(encoding="utf-8"))


@cache
def nodes_of(module: str) -> list[ast.AST]:
    return list(ast.walk(tree_of(module)))


def part_of(module: str) -> str:
    return max((part for part in MAY_IMPORT if f"{module}.".startswith(f"{part}.")), key=len)


def folder_of(module: str) -> str:
    """Return the folder that a module lies in; a module at the top counts as its own folder."""
    parent = module.rpartition(".")[0]
    return module if parent == "ptkit" else parent


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the full names of the modules (and of the names taken from them) that import
    statements ask for.
    """
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports inside ptkit are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {as_module(name) for name in found}


def as_module(name: str) -> str:
    """Return the module of ptkit that a name comes from; of another library the name as it is."""
    while name.startswith("ptkit.") and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes that run when the module is imported: not those in functions, nor under
    TYPE_CHECKING.
    """
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not is_typing and not isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        ):
            yield node
            waiting += ast.iter_child_nodes(node)


@cache
def all_imports() -> dict[str, set[str]]:
    return {module: imported(nodes_of(module)) for module in MODULES}


@cache
def early_imports() -> dict[str, set[str]]:
    return {module: imported(at_import(tree_of(module))) for module in MODULES}


def ours(modules: set[str]) -> set[str]:
    return {module for module in modules if module.partition(".")[0] == "ptkit"}


def loaded_with(module: str) -> set[str]:
    """Return all modules that importing one imports; those of other libraries by name only."""
    seen: set[str] = set()
    waiting = {module}
    while waiting:
        seen |= waiting
        waiting = set().union(*(early_imports().get(name, set()) for name in waiting)) - seen
    return seen


def libraries(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def functions_of(modules: Iterable[str]) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every function of some modules with the module's name."""
    for module in modules:
        for node in nodes_of(module):
            if isinstance(node, ast.FunctionDef):
                yield module, node


def test_parts_of_the_house_import_only_what_is_below_them():
    assert {
        (module, name)
        for module, names in all_imports().items()
        for name in ours(names)
        if part_of(name) not in MAY_IMPORT[part_of(module)] | {part_of(module)}
    } == set()


def test_folders_form_no_circles():
    above: dict[str, set[str]] = {}
    # The door only names what it exports, and imports it when it is asked for.
    for module, names in {**all_imports(), "ptkit": set()}.items():
        above.setdefault(folder_of(module), set()).update(map(folder_of, ours(names)))
    graph = TopologicalSorter({folder: below - {folder} for folder, below in above.items()})
    assert set(graph.static_order()) >= {"ptkit.core.data.loading", "ptkit.core.training.tasks"}


def test_nobody_imports_a_command():
    users = {
        (module, name)
        for module, names in all_imports().items()
        if module != "ptkit.commands.app"
        for name in names & COMMAND_MODULES
    }
    # They show what training shows.
    assert users == {(f"ptkit.commands.{m}", "ptkit.commands.train") for m in ("finetune", "probe")}


def test_the_command_line_loads_only_commands_and_what_is_light():
    loaded = loaded_with("ptkit.commands.app")
    assert loaded >= COMMAND_MODULES
    assert {m for m in ours(loaded) - {"ptkit", "ptkit.core"} if not m.startswith(LIGHT)} == set()
    assert libraries(loaded) & HEAVY == set()


def test_nothing_is_imported_before_signals_are_heard():
    loaded = loaded_with("ptkit.cli")
    assert ours(loaded) == {"ptkit.cli"}
    assert libraries(loaded) - sys.stdlib_module_names == {"ptkit"}


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_settings_notation_and_lists_load_neither_torch_nor_numpy(module):
    assert f"ptkit.{module}" in MODULES
    assert libraries(loaded_with(f"ptkit.{module}")) & HEAVY == set()


def test_only_the_events_know_tensorboardx():
    users = {
        module
        for module, names in all_imports().items()
        if any(n.startswith("tensorboardX") for n in names)
    }
    assert users == {"ptkit.core.training.events", "ptkit.core.training.event_files"}


def test_one_module_writes_safetensors():
    names = {"safetensors.torch.save", "safetensors.torch.save_file"}
    users = {module for module, found in all_imports().items() if found & names}
    assert users == {"ptkit.core.exporting.torch_files"}


def test_nothing_draws_with_pyplot():
    users = {
        module for module, names in all_imports().items() if any("pyplot" in name for name in names)
    }
    assert users == set()


def test_the_core_neither_prints_nor_exits():
    core = {m for m in MODULES if m.startswith(("ptkit.core", "ptkit.plots", "ptkit.looking"))}
    called = {
        (module, ast.unparse(node.func))
        for module in core
        for node in nodes_of(module)
        if isinstance(node, ast.Call)
    }
    ends = {"print", "exit", "sys.exit", "os._exit", "input"}
    # A copy of the process ends itself, never the process.
    assert {use for use in called if use[1] in ends} == {("ptkit.core.data.forked", "os._exit")}
    assert {m for m in core if libraries(all_imports()[m]) & {"typer", "click", "rich"}} == set()


def test_sub_packages_have_init_files_without_code():
    files = [f for f in FILES if f.name == "__init__.py" and f.parent.name != "ptkit"]
    # What all functions of the Python door have in common.
    door = ROOT / "ptkit" / "api" / "__init__.py"
    assert [file for file in files if file.read_text(encoding="utf-8")] == [door]
    tree = ast.parse(door.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_functions_stay_short():
    lengths = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, node in functions_of(MODULES)
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


def test_functions_have_few_parameters():
    counts = {}
    for module, node in functions_of(m for m in MODULES if not m.startswith((*DOORS, *STAND_INS))):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = [a.arg for a in arguments if a.arg not in ("self", "cls")]
        counts[f"{module}.{node.name}"] = len(names)
    assert {name: count for name, count in counts.items() if count > MAX_PARAMETERS} == {}


def test_files_stay_short():
    lengths = {
        file.relative_to(ROOT).as_posix(): len(file.read_text(encoding="utf-8").splitlines())
        for file in FILES
    }
    assert {
        name: lines
        for name, lines in lengths.items()
        if lines > LONG_FILES.get(name, MAX_FILE_LINES)
    } == {}


def test_every_exception_from_the_file_length_is_needed():
    lengths = {
        name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in LONG_FILES
    }
    assert {name for name, lines in lengths.items() if lines <= MAX_FILE_LINES} == set()


def test_modules_and_public_functions_say_what_they_are_for():
    functions = {
        f"{module}.{node.name}": node
        for module in MODULES
        for node in tree_of(module).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    modules = {module: tree for module in MODULES if (tree := tree_of(module)).body}
    explained = {**functions, **modules}
    assert [name for name, node in explained.items() if ast.get_docstring(node) is None] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_ends_with_an_example(name):
    first, *_, last = COMMANDS[name].help.strip().split("\n\n")
    assert first.endswith(".")
    assert re.match(rf"Example: ptkit {name}( |$)", last)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_printed_without_the_escapes_of_a_markup(name):
    assert "\\[" not in CliRunner().invoke(app, [name, "--help"]).stdout


def test_every_option_and_argument_of_a_command_has_its_help():
    assert {
        (name, p.name)
        for name, command in COMMANDS.items()
        for p in command.params
        if not getattr(p, "help", None)
    } == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme_and_on_a_page_of_the_docs(name):
    assert f"ptkit {name}" in (ROOT / "README.md").read_text(encoding="utf-8")
    pages = {page.name: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")}
    assert [
        page
        for page, text in pages.items()
        if re.search(rf"^#+ .*`ptkit {name}`", text, re.MULTILINE)
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_are_a_closed_table(name):
    options = {
        flag
        for p in COMMANDS[name].params
        for flag in (*p.opts, *p.secondary_opts)
        if flag.startswith("--")
    }
    assert options | {"--help"} == FLAGS[name] | FLAGS["every command"]


def test_the_tests_run_with_the_oldest_versions_that_are_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {re.sub(r"([>,].*)?>=([^,]+).*", r"==\2", line) for line in project["dependencies"]}
    lines = (ROOT / "constraints" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    assert bounds <= set(lines)


def test_make_bench_runs_every_benchmark():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    scripts = {file.name for file in (ROOT / "benchmarks").glob("bench_*.py")}
    assert {name for name in scripts if f"benchmarks/{name}" not in makefile} == set()


# Tests of something else than one module or command, with the subject.
SUBJECTS = {
    "allowed_values": "every argument of every part, with values that it may have, run",
    "api": "the functions of ptkit/api/, and that they are what the commands are",
    "alternating_flip": "AlternatingFlip and WithHorizontalFlip, from the draw to evaluation",
    "architecture": "the rules in this file",
    "bad_arguments": "what every part says to wrong arguments",
    "bad_inputs": "docs/bad-inputs.md, row by row",
    "batch_forms": "transforms on batches against torchvision's on images",
    "benchmarks": "the programs in benchmarks/",
    "course": "docs/course.md and docs/course.zh.md",
    "diagnose_plants": "one seed of each fault that benchmarks/bench_diagnose.py plants",
    "device_forms": "transforms on a device against those on the CPU",
    "digits": "data/",
    "docs_catalogue": "docs/catalogue.md",
    "docs_json": "the table of --json in docs/files.md",
    "every_command": "what every command promises",
    "every_argument": "the table of arguments against the signatures",
    "folds": "--kfold in splits/splitting.py",
    "known_sets": "torchvision's sets in their own formats, every row of sets/known.py",
    "linear_transformation": "whitening from the list to the checkpoint",
    "losses_learn": "every loss trains",
    "model_summary": "looking/summary.py and summary_subject.py",
    "no_waiting": "training does not wait for the device",
    "old_runs": "files of an earlier version",
    "plain_pytorch": "docs/plain_pytorch.md",
    "onnx_page": "docs/onnx.md and docs/onnx.html",
    "one_channel": "grey images, from the pixels to the commands",
    "on_a_gpu": "every part on a GPU against the CPU",
    "optimizer_arguments": "every optimizer's arguments",
    "optimizer_continuation": "resuming with every optimizer",
    "package": "the wheel and the source package",
    "readme": "the documents",
    "totals": "the loss of a list, by every loss",
    "alpha": "transparency, from training to prediction",
    "recipes": "a subject of several modules",
    "service": "docs/service.md",
    "schedule_plot": "the picture of `ptkit list schedulers --plot`",
    "scoring": "the scores in tasks/task.py",
    "startup": "what starting loads",
    "transform_kernels": "every transform against torchvision's own",
    "sampling": "the images of an epoch, in their order",
    "transform_rows": "one row is all that a batched transform needs",
    "transform_order": "the order that plan.py checks, with the messages",
    "fit": "how images become square, in training and in everything after it",
}


def test_every_test_file_is_named_after_a_module_a_command_or_a_known_subject():
    modules = {file.stem for file in [*FILES, *(ROOT / "scripts").glob("*.py")]}
    commands = tuple(f"cli_{name.replace('-', '_')}" for name in COMMANDS)
    names = {file.stem.removeprefix("test_") for file in (ROOT / "tests").glob("test_*.py")}
    others = {name for name in names - modules if not name.startswith(commands)}
    assert others == SUBJECTS.keys()
