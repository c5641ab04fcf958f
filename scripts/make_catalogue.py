"""Write docs/catalogue.md: every part by name, with what it does, its arguments and the command
that uses it.

    python scripts/make_catalogue.py [FILE]

The page comes from the tables in the code; a test keeps it true to them.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ptkit.core.data.transforms.catalogue import BY_NAME, TRANSFORMS
from ptkit.core.models.initialization import INITS
from ptkit.core.models.zoo import models
from ptkit.core.parts.catalogue import Argument, Catalogue
from ptkit.core.training.optimization.optimizers import OPTIMIZERS
from ptkit.core.training.optimization.schedules import SCHEDULERS
from ptkit.core.training.tasks.loss import Use
from ptkit.core.training.tasks.losses import LOSSES, RULES
from ptkit.core.training.tasks.pairs import Pairing

PAGE = Path(__file__).resolve().parent.parent / "docs" / "catalogue.md"
INTRODUCTION = """\
# The catalogue

Every part that a command can name, written by `scripts/make_catalogue.py` from the tables in the
code; `ptkit list KIND` prints the same. [notation.md](notation.md) explains how to write a call. An
argument that you leave out has PyTorch's own default, shown after its name; the values that it
takes follow, and any other is refused before training begins.
"""


@dataclass(frozen=True)
class Kind:
    """One section: its catalogue, the command around a call, and calls for parts that need
    arguments.
    """

    title: str
    text: str
    catalogue: Catalogue
    command: str
    examples: Mapping[str, str]


KINDS = (
    Kind(
        "Transforms",
        "They start from the decoded image. `ptkit viz-transforms` draws them; more in"
        " [transforms.md](transforms.md).",
        TRANSFORMS,
        "ptkit train --transform '{}'",
        {name: f"{name}({spec.example})" for name, spec in BY_NAME.items() if spec.example},
    ),
    Kind(
        "Losses",
        "The labels they are for are in the table after this one.",
        LOSSES,
        "ptkit train --loss '{}'",
        {},
    ),
    Kind(
        "Optimizers",
        "The rate is `--lr`, or `lr=` in the call; parameters come from the run; see"
        " [optimizers.md](optimizers.md).",
        OPTIMIZERS,
        "ptkit train --optimizer '{}'",
        {},
    ),
    Kind(
        "Schedules",
        "See one with `ptkit list schedulers --plot CALL`; more in [optimizers.md](optimizers.md).",
        SCHEDULERS,
        "ptkit train --scheduler '{}'",
        {
            "StepLR": "StepLR(5)",
            "MultiStepLR": "MultiStepLR([5, 10])",
            "ExponentialLR": "ExponentialLR(0.9)",
            "LambdaLR": 'LambdaLR("0.95 ** epoch")',
            "CosineAnnealingWarmRestarts": "CosineAnnealingWarmRestarts(5)",
        },
    ),
    Kind(
        "Weight initialisations",
        "On a layer class, a module, or a glob on parameter names; `--init tutorial` is a recipe of"
        " several. `calculate_gain('relu')` can be an argument.",
        INITS,
        "ptkit train --init 'Conv2d={}'",
        {"constant_": "constant_(0.1)", "sparse_": "sparse_(0.1)"},
    ),
    Kind(
        "Models",
        "Ours and torchvision's; `timm:NAME` and your own `net.py:Net` as well. More in"
        " [models.md](models.md).",
        models(),
        "ptkit train --model '{}'",
        {},
    ),
)
# Lists around a transform that does not work alone.
_IN_COMPANY = {
    "Normalize": "ptkit train --transform 'ToTensor()' --transform '{}'",
    "ToPILImage": "ptkit train --transform '{}' --transform 'RandomRotation(10)'",
}
# Arguments that older versions of torch lack: the page is the same, whichever makes it.
_NEWER = {"Adam": Argument("decoupled_weight_decay", "False", "True or False, from torch 2.7")}
# These fill matrices, which no convolution has.
_ON_MATRICES = ("eye_", "sparse_")


def page() -> str:
    """Return the text of the page."""
    sections = [section(kind) for kind in KINDS]
    sections.insert(2, losses_and_labels())
    return "\n".join([INTRODUCTION, *sections])


def section(kind: Kind) -> str:
    """Return one kind as a Markdown table."""
    rows = [_row(kind, name) for name in kind.catalogue.parts]
    head = "| name | what it does | arguments | command |\n|---|---|---|---|\n"
    return f"## {kind.title}\n\n{kind.text}\n\n{head}{''.join(rows)}"


def example(kind: Kind, name: str) -> str:
    """Return a complete call of a part."""
    return kind.examples.get(name, f"{name}()")


def losses_and_labels() -> str:
    """Return the functions that surround each loss, for each kind of labels."""
    columns = {
        "one class": "single",
        "several classes": "multi",
        "numbers": "numbers",
        "compared images": "pairs",
    }
    rows = [
        f"| `{name}` | "
        + " | ".join(_use(getattr(rule, field)) for field in columns.values())
        + " |\n"
        for name, rule in RULES.items()
    ]
    text = (
        "Before the loss → its target → how outputs are read. Empty: the loss does not fit these"
        " labels."
    )
    head = f"| loss | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}\n"
    return f"### Losses and labels\n\n{text}\n\n{head}{''.join(rows)}"


# The functions that surround a loss, in words; other names are words already.
_WORDS = {
    "unchanged": "none",
    "as_labels": "the label",
    "hot": "0 and 1",
    "signs": "±1",
    "semi_hard_triplets": "semi-hard triplets",
}


def _use(use: Use | Pairing | None) -> str:
    if use is None:
        return ""
    if not isinstance(use, Use):
        return f"unit length → {_words(use.form)} → nearest"
    smoothed = "" if use.smoothing is None else f", smoothed by {use.smoothing:g}"
    return f"{_words(use.activation)} → {_words(use.target)}{smoothed} → {use.decoder}"


def _words(function: Callable[..., object]) -> str:
    return _WORDS.get(function.__name__, function.__name__.replace("_", " "))


def _row(kind: Kind, name: str) -> str:
    newer = [_NEWER[name]] if name in _NEWER else []
    known = {argument.name for argument in newer}
    older = [a for a in kind.catalogue.arguments(name) if a.name not in known]
    arguments = [_argument(argument) for argument in (*older, *newer)]
    command = kind.command.replace("Conv2d=", "fc=") if name in _ON_MATRICES else kind.command
    command = _IN_COMPANY.get(name, command)
    cells = (
        f"`{name}`",
        kind.catalogue.parts[name].summary,
        "; ".join(arguments) or "none",
        f"`{command.format(example(kind, name))}`",
    )
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def _argument(argument: Argument) -> str:
    default = f"={argument.default_text}" if argument.default_text else ""
    allowed = f": {argument.allowed_text}" if argument.allowed_text else ""
    return f"`{argument.name}{default}`{allowed}"


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    file.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
