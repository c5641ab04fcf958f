"""From the flags of train and finetune to settings, and from a run's result to what is printed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptkit.commands.output import Printer
from ptkit.core import config

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


def settings_of(flags: Mapping[str, Any], *, before: config.Layer | None = None) -> config.Settings:
    """Return the settings that the flags mean: defaults < `before` < --config or the resumed run < --set < flags.

    Raises:
        UsageError: a bad setting, or an unreadable TOML file.
    """
    layers = [before or {}]
    if flags["resume"] is not None:
        layers.append(config.read_toml(flags["resume"] / "config.toml"))
    if flags["config"] is not None:
        layers.append(config.read_toml(flags["config"]))
    layers += [config.parse_assignment(text) for text in flags["assignments"] or ()]
    own: dict[str, dict[str, Any]] = {}
    for flag, (section, key) in _SETTINGS.items():
        value = flags[flag]
        if value is None or value == []:
            continue
        own.setdefault(section, {})[key] = str(value) if isinstance(value, Path) else value
    return config.resolve(*layers, own)


def train_and_print(settings: config.Settings, flags: Mapping[str, Any]) -> None:
    """Run a session and print its result."""
    from ptkit.commands.training_screen import TrainingScreen
    from ptkit.core.training import session

    printer = Printer(as_json=flags["as_json"], quiet=flags["quiet"])
    result = session.run(
        settings,
        watch=TrainingScreen(printer, is_verbose=flags.get("verbose", False)),
        runs=flags["out"] or Path("runs"),
        name=flags["name"],
        resume=flags["resume"],
    )
    best = result.best
    printer.say(
        f"best: epoch {best['epoch']:.0f}, valid accuracy {best['accuracy']:.2%}, loss {best['loss']:.4f}; "
        f"{result.seconds:.1f} s in all"
    )
    printer.say(f"checkpoint: {result.checkpoint}; pictures: {', '.join(file.name for file in result.files[:2])}")
    printer.result(
        {
            "run": str(result.run),
            "checkpoint": str(result.checkpoint),
            "epochs": result.epochs,
            "best": {"epoch": int(best["epoch"]), "accuracy": best["accuracy"], "loss": best["loss"]},
            "seconds": result.seconds,
            "images_per_s": result.images_per_s,
        }
    )
