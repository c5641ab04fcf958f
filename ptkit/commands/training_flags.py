"""From the flags of train and finetune to settings, and from a run's result to what is printed."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.core import config as settings_layers
from ptkit.core.errors import UsageError
from ptkit.core.wording import counted

if TYPE_CHECKING:
    from ptkit.core.training.run_folder import Run

# Flag -> the setting that it is.
_SETTINGS = {
    "train_list": ("data", "train"),
    "valid_list": ("data", "valid"),
    "size": ("data", "size"),
    "augment": ("data", "augment"),
    "transform": ("data", "transforms"),
    "workers": ("data", "workers"),
    "model": ("model", "call"),
    "init": ("model", "init"),
    "loss": ("loss", "call"),
    "optimizer": ("optimizer", "call"),
    "lr": ("optimizer", "lr"),
    "group": ("optimizer", "groups"),
    "scheduler": ("scheduler", "call"),
    "epochs": ("train", "epochs"),
    "batch_size": ("train", "batch_size"),
    "seed": ("train", "seed"),
    "device": ("train", "device"),
    "precision": ("train", "precision"),
    "save_every": ("train", "save_every"),
}


Command = Callable[..., None]


def with_training_flags(command: Command) -> Command:
    """Give a command the flags that train and finetune share; it gets their values as one mapping,
    `flags`.
    """
    shared = inspect.signature(_shared_flags).parameters
    own = [
        parameter
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "flags"
    ]

    def with_flags(**values: Any) -> None:
        flags = {name: values.pop(name) for name in shared}
        command(**values, flags=flags)

    # Typer reads the flags off the signature and the annotations, the help off the docstring.
    parameters = [*own, *shared.values()]
    for name in ("__name__", "__module__", "__doc__"):
        setattr(with_flags, name, getattr(command, name))
    with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return with_flags


def _shared_flags(
    train_list: options.TrainList = None,
    valid_list: options.ValidList = None,
    config: options.Config = None,
    recipe: options.Recipe = None,
    assignments: options.Assignments = None,
    model: options.TrainModel = None,
    size: options.InputSize = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lr: options.Rate = None,
    loss: options.LossCall = None,
    optimizer: options.OptimizerCall = None,
    scheduler: options.SchedulerCall = None,
    augment: options.Augment = None,
    transform: options.Transforms = None,
    init: options.Inits = None,
    group: options.Groups = None,
    precision: options.Precision = None,
    name: options.RunName = None,
    resume: options.Resume = None,
    save_every: options.SaveEvery = None,
    device: options.TrainDevice = None,
    workers: options.TrainWorkers = None,
    seed: options.TrainSeed = None,
    out: options.Out = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Stand for the flags: nothing but the signature is used."""


def settings_of(
    flags: Mapping[str, Any],
    *,
    before: settings_layers.Layer | None = None,
    argument: settings_layers.Layer | None = None,
) -> settings_layers.Settings:
    """Return what the flags mean: defaults < `before` < --recipe or the resumed run < --config <
    --set < flags.

    argument: settings that the command's own argument stands for; they win over all.

    Raises:
        UsageError: a bad setting, or an unreadable TOML file.
    """
    layers = [before or {}]
    if flags["recipe"] is not None:
        from ptkit.core.recipes import read_recipe

        layers.append(read_recipe(flags["recipe"]))
    if flags["resume"] is not None:
        given = [flag for flag in ("name", "out", "recipe") if flags[flag] is not None]
        if given:
            raise UsageError(
                f"--resume goes on with the run's own settings and folder: leave --{given[0]} out"
            )
        layers.append(settings_layers.read_toml(flags["resume"] / "config.toml"))
    if flags["config"] is not None:
        layers.append(settings_layers.read_toml(flags["config"]))
    layers += [settings_layers.parse_assignment(text) for text in flags["assignments"] or ()]
    own: dict[str, dict[str, Any]] = {}
    for flag, (section, key) in _SETTINGS.items():
        value = flags[flag]
        if value is None or value == []:
            continue
        own.setdefault(section, {})[key] = str(value) if isinstance(value, Path) else value
    return settings_layers.resolve(*layers, own, argument or {})


def train_and_print(
    settings: settings_layers.Settings, flags: Mapping[str, Any], *, is_verbose: bool = False
) -> None:
    """Run a session and print its result."""
    from ptkit.commands.training_screen import TrainingScreen, metric_text, profile_lines
    from ptkit.core.training import session

    printer = Printer(as_json=flags["as_json"], quiet=flags["quiet"])
    result = session.run(
        settings,
        watch=TrainingScreen(printer, is_verbose=is_verbose),
        runs=flags["out"] or Path("runs"),
        name=flags["name"],
        resume=flags["resume"],
        at_end=_look_at,
    )
    best = result.best
    metrics = {name: value for name, value in best.items() if name not in ("epoch", "loss")}
    found = ", ".join(
        f"{name} {metric_text(name, value).strip()}" for name, value in metrics.items()
    )
    printer.say(
        f"best: epoch {best['epoch']:.0f}, valid {found}, loss {best['loss']:.4f};"
        f" {result.seconds:.1f} s in all"
    )
    printer.say(f"checkpoint: {result.checkpoint}")
    for line in profile_lines(result.profile) if result.profile is not None else ():
        printer.say(line)
    pictures = [
        str(file.relative_to(result.run))
        for file in result.files
        if file.suffix in (".png", ".gif")
    ]
    printer.say(
        f"{counted(len(pictures), 'picture')} in {result.run}, such as {', '.join(pictures[:2])}"
    )
    printer.result(
        {
            "run": str(result.run),
            "checkpoint": str(result.checkpoint),
            "epochs": result.epochs,
            "best": {"accuracy": None, **best, "epoch": int(best["epoch"])},
            "seconds": result.seconds,
            "images_per_s": result.images_per_s,
            **({} if result.profile is None else {"profile": result.profile.as_dict()}),
        }
    )


def _look_at(run: "Run") -> tuple[Path, ...]:
    """Draw what a finished run is looked at with; matplotlib is loaded here, when it is needed."""
    from ptkit.looking.end_of_run import write_summaries

    return write_summaries(run)
