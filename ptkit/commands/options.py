"""Options that several commands share, declared once, and how a command gets groups of them."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_args, get_origin

import typer

from ptkit.commands.output import Printer
from ptkit.core.config.fields import Form
from ptkit.core.config.settings import ALPHA, AUTO, FLAGS, KEYWORDS, ON_BAD, Auto
from ptkit.core.ranks import rank_of_environment

Command = Callable[..., None]


def setting_flags(keywords: Sequence[str] = tuple(FLAGS)) -> dict[str, Any]:
    """Return the flags of settings, as Typer reads them: those that have one, or these."""
    return {name: Annotated[_kind(name) | None, setting_option(name)] for name in keywords}


def setting_option(keyword: str, **more: Any) -> Any:
    """Return a setting's flag. The settings check its range, for all doors; `more` may give one to
    commands without settings.
    """
    rules, is_list = KEYWORDS[keyword][1].metadata, get_origin(_kind(keyword)) is list
    help_text = rules["meaning"] + (" May be repeated." if is_list else "")
    more = {"metavar": "|".join(rules["choices"]) or None} | more
    if Auto in get_args(KEYWORDS[keyword][1].type):
        more |= {"metavar": f"<int>|{AUTO}", "parser": _number_or_auto}
    return typer.Option(FLAGS[keyword], help=help_text, **more)


def _kind(keyword: str) -> Any:
    """Return what Typer reads for a field of type T, T | None, or a tuple of T."""
    _, setting = KEYWORDS[keyword]
    kind: Any = setting.type
    if get_origin(kind) is tuple:
        return list[get_args(kind)[0]]  # type: ignore[misc]
    if setting.metadata["is_path"]:
        return Path
    if isinstance(setting.metadata["within"], Form):
        return str
    return next((part for part in get_args(kind) if part is not type(None)), kind)


def _number_or_auto(text: str) -> int | Auto:
    try:
        return AUTO if text == AUTO else int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a whole number nor {AUTO}.") from None


def with_flags(
    flags: Mapping[str, Any], *, before: str | None = None
) -> Callable[[Command], Command]:
    """Give a command more flags (name -> what Typer reads), before one of its own or at the end.

    The command's ** gets those that the user gave.
    """

    def decorate(command: Command) -> Command:
        parameters = inspect.signature(command).parameters.values()
        own = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
        place = [p.name for p in own].index(before) if before else len(own)

        @functools.wraps(command)
        def with_more(**values: Any) -> None:
            command(**{k: v for k, v in values.items() if k not in flags or v not in (None, [])})

        more = [_parameter(name, kind, default=None) for name, kind in flags.items()]
        return _showing(with_more, [*own[:place], *more, *own[place:]])

    return decorate


def with_printer(command: Command) -> Command:
    """Give a command --json and --quiet in place of its `printer`."""

    @functools.wraps(command)
    def with_both(*, as_json: bool, quiet: bool, **values: Any) -> None:
        is_main = rank_of_environment().is_main
        printer = Printer(as_json=as_json and is_main, quiet=quiet or not is_main)
        command(**values, printer=printer)

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "printer"]
    both = {"as_json": Json, "quiet": Quiet}
    more = [_parameter(name, kind, default=False) for name, kind in both.items()]
    return _showing(with_both, [*own, *more])


def reads_images(command: Command) -> Command:
    """Give a command --max-pixels, which holds while it runs."""

    @functools.wraps(command)
    def limited(*, max_pixels: int | None, **values: Any) -> None:
        from ptkit.core.data.pixel_limits import allowing_pixels

        with allowing_pixels(max_pixels):
            command(**values)

    own = list(inspect.signature(command).parameters.values())
    return _showing(limited, [*own, _parameter("max_pixels", MaxPixels, default=None)])


def writes_names(command: Command) -> Command:
    """Give a command --font, with which pictures are drawn while it runs."""

    @functools.wraps(command)
    def with_font(*, font: Path | None, **values: Any) -> None:
        if font is None:
            command(**values)
            return
        from ptkit.plots.fonts import using_font

        with using_font(font):
            command(**values)

    own = list(inspect.signature(command).parameters.values())
    return _showing(with_font, [*own, _parameter("font", Font, default=None)])


def _parameter(name: str, kind: Any, *, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _showing(command: Command, parameters: Sequence[inspect.Parameter]) -> Command:
    """Show Typer these parameters: it reads them off the signature and the annotations, the help
    off the docstring.
    """
    keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    command.__annotations__ = {p.name: p.annotation for p in keywords}
    command.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return command


Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CKPT",
        help="A checkpoint, a run folder, bare weights, or a model with pretrained ones.",
    ),
]
OwnCheckpoint = Annotated[
    Path, typer.Argument(metavar="CKPT", help="A checkpoint of ptkit, or a run folder.")
]
CheckpointOrOnnx = Annotated[
    Path,
    typer.Argument(
        metavar="CKPT",
        help="A checkpoint, a run folder, an ONNX file, bare weights, or a model with pretrained"
        " ones.",
    ),
]
ListFile = Annotated[
    Path, typer.Argument(metavar="LIST", help="A list file, one `PATH LABEL` a line.")
]
Images = Annotated[list[str] | None, typer.Argument(metavar="IMAGE...", help="Image files.")]
Sources = Annotated[
    list[str], typer.Argument(metavar="IMAGE...", help="Image files, folders, or lists (.txt).")
]

Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object and nothing else.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
Seed = Annotated[int, setting_option("seed", min=0)]
Device = Annotated[str, setting_option("device")]
OnBad = Annotated[
    str,
    typer.Option(
        metavar="|".join(ON_BAD),
        help="Stop at an image that cannot be read, or skip it; the exit code is 3 all the same.",
    ),
]
Root = Annotated[Path | None, setting_option("root", metavar="DIR")]
Alpha = Annotated[
    str,
    typer.Option(
        metavar="|".join(ALPHA), help="Drop the transparency of images, or put them on white."
    ),
]
AlphaOrAuto = Annotated[
    str,
    typer.Option(
        metavar="|".join((AUTO, *ALPHA)),
        help="Drop the transparency of images, or put them on white; auto as training does it.",
    ),
]
Workers = Annotated[int, setting_option("workers", min=0)]
Font = Annotated[
    Path | None,
    typer.Option(help="Font file for names with characters that the fonts found here lack."),
]
Out = Annotated[Path | None, typer.Option(help="Folder for what is written.")]
Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML file with settings, or a run folder for those of a run; flags take precedence."
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run code that a TOML file or the run to resume names.")
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        help="Read images of up to so many pixels, however small the file. Without it: 89 million,"
        " and fewer of files that are nearly empty.",
        min=1,
    ),
]
Size = Annotated[int | None, typer.Option(help="Input size in pixels.", min=1)]

Layers = Annotated[list[str] | None, typer.Option(help="Layer names or globs; may be repeated.")]
Scale = Annotated[
    str,
    typer.Option(
        metavar="layer|kernel",
        help="One scale per 'layer', or per 'kernel' (stretches dead ones).",
    ),
]
Columns = Annotated[int | None, typer.Option(help="Tiles side by side, make_grid's nrow.", min=1)]
Gap = Annotated[
    int | None, typer.Option(help="Pixels between tiles, make_grid's padding.", min=0, max=100)
]
GapColour = Annotated[
    str | None,
    typer.Option(
        help="Colour of the gaps, make_grid's pad_value: a grey of 0..1, a name, or #rrggbb."
    ),
]
NumImages = Annotated[int, typer.Option(help="How many images are drawn.", min=1)]


PathColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column of a table with the images' paths or ids."),
]
LabelColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column of a table with the classes.")
]


class BareWeights(TypedDict, total=False):
    """What a checkpoint would have said about bare weights, and the code that it may not run."""

    model: Annotated[
        str | None, typer.Option(help="Model of bare weights, such as 'resnet18(num_classes=10)'.")
    ]
    mean: Annotated[
        str | None,
        typer.Option(help="Mean of bare weights' training data, R,G,B in 0..1; one for grey."),
    ]
    std: Annotated[
        str | None, typer.Option(help="Standard deviation, R,G,B in 0..1; one for grey.")
    ]
    size: Size
    classes: Annotated[Path | None, typer.Option(help="File with one class name a line.")]
    transforms: Annotated[
        list[str],
        typer.Option(
            "--transform", help="Your own transform that the checkpoint names. May be repeated."
        ),
    ]
    alpha: Annotated[
        str | None,
        typer.Option(metavar="|".join(ALPHA), help="Put images of bare weights on white."),
    ]


# Of train, finetune and probe, which split a folder or a table of images themselves.
Source = Annotated[
    Path | None,
    typer.Argument(
        metavar="[DIR]",
        help="Images to split first, as `ptkit split DIR` does: a folder, or a table. The lists are"
        " then in the run folder.",
    ),
]


class SourceFlags(TypedDict, total=False):
    """How the classes of a source are known."""

    path_column: PathColumn
    label_column: LabelColumn
    group_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Keep images with the same value in this column in one part."
        ),
    ]
    label_from: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Take the class from each path below DIR: the match of this, or its first group.",
        ),
    ]


for_bare_weights = with_flags(BareWeights.__annotations__, before="device")

# Of train alone: what comes before training, or in its place.
TRIAL_FLAGS: dict[str, Any] = {
    "preflight": Annotated[
        bool | None,
        typer.Option(
            "--preflight",
            help="First look at the images, the initial loss, and whether the model can learn a"
            " batch; a failed check ends with exit code 5.",
        ),
    ],
    "lr_find": Annotated[
        bool | None,
        typer.Option(
            "--lr-find",
            help="Only try rising learning rates, draw the loss over them and suggest one; into"
            " --out or ./ptkit-lr-find.",
        ),
    ],
}

# Of train and finetune, beside the settings.
RUN_FLAGS: dict[str, Any] = {
    "config": Config,
    "recipe": Annotated[
        str | None,
        typer.Option(help="Ready settings by name (`ptkit list recipes`), or a TOML file."),
    ],
    "assignments": Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting: section.key=value. May be repeated."),
    ],
    "name": Annotated[
        str | None,
        typer.Option(help="Name of the run folder; by default the next number."),
    ],
    "resume": Annotated[
        Path | None, typer.Option(help="Continue this run from its last saved step.")
    ],
    "seeds": Annotated[
        int | None,
        typer.Option(help="Train with so many seeds, from --seed on, into one run folder.", min=2),
    ],
    "folds": Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Train on each fold that `ptkit split --kfold` wrote there, into one run folder.",
        ),
    ],
    "eject": Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.py",
            help="Only write the run as one script of plain PyTorch, without ptkit, that trains the"
            " same model.",
        ),
    ],
    "trust": Trust,
    "out": Out,
    **SourceFlags.__annotations__,
}
