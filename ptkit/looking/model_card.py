"""The card of a model for the Hugging Face Hub: what it is, how good, and what to watch for."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptkit.core.comparing.differences import metric_text
from ptkit.core.comparing.runs import FoundRun, Predictions, read_run
from ptkit.core.config.layers import to_layer
from ptkit.core.config.settings import FLAGS, KEYWORDS, Settings
from ptkit.core.data.labels import MULTI, REGRESSION, SINGLE
from ptkit.core.parts.calls import names_code, parse
from ptkit.core.run_files import sound_layers
from ptkit.core.training.tasks.metrics import majority_of
from ptkit.core.training.tasks.task import Task
from ptkit.core.wording import counted, one_line
from ptkit.looking.subject import Subject

# Where and how fast a run was, and what it found out by itself.
_LEFT_OUT = {"device", "workers", "cache", "mean", "std", "size", "compile", "weights_sha256"}
# Fewer validation images say little of a class.
_FEW = 20
_MOST_CLASSES = 100


def model_card(subject: Subject, *, name: str, is_timm: bool, geometry: bool) -> str:
    """Return the text of README.md.

    name: what the model is called. is_timm: whether timm loads the folder. geometry: whether timm's
    own transform prepares images as the pipeline does.
    """
    run = read_run(subject.weights.run) if subject.weights.run is not None else None
    checkpoint = subject.weights.checkpoint or {}
    library = "timm" if is_timm else "ptkit"
    sections = {
        "Use": _use(subject, is_timm=is_timm, geometry=geometry),
        "Preprocessing": _preprocessing(subject),
        "Figures": _figures(run, checkpoint),
        "Classes and data": _classes(subject, run, checkpoint),
        "Training": _training(checkpoint),
        "Limits": _limits(subject, run),
    }
    head = f"---\nlibrary_name: {library}\npipeline_tag: image-classification\ntags:\n"
    tags = "".join(
        f"- {tag}\n" for tag in ("image-classification", *dict.fromkeys((library, "ptkit")))
    )
    body = "\n".join(f"## {title}\n\n{text}\n" for title, text in sections.items())
    trained = ", trained with ptkit" if checkpoint.get("config") else ""
    about = f"`{_code(subject.weights.call or '')}`, {_what(subject)}{trained}."
    return f"{head}{tags}---\n\n# {_text(name)}\n\n{about}\n\n{body}"


def _what(subject: Subject) -> str:
    names = subject.class_names
    if subject.task.kind == REGRESSION:
        return f"which gives {counted(len(names), 'number')} for an image"
    return f"an image classifier of {counted(len(names), 'class', 'classes')}"


def _use(subject: Subject, *, is_timm: bool, geometry: bool) -> str:
    weights = subject.weights
    if not is_timm:
        call = weights.call or ""
        # Code that a file names is run only if it is named again.
        again = f', model="{_code(call)}"' if names_code(parse(call)) else ""
        return (
            "In the folder with these files:\n\n```python\nimport ptkit\n\n"
            f'model = ptkit.load("ckpt.pkl"{again})\n'
            'print(model.predict("image.jpg"))\n```\n\n'
            "`model.safetensors` has the weights alone."
        )
    steps = (
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        if geometry
        else "# timm has no transform for the steps below: see Preprocessing.\ntransform = ...\n"
    )
    reading = lines_to_read(subject.task)
    library = "import torch\n" if "torch." in reading else ""
    return (
        f"```python\nimport timm\n{library}from PIL import Image, ImageOps\n\n"
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n'
        f"{steps}"
        f"{_lines_to_open(subject.weights.alpha)}"
        "images = transform(image)[None]\n"
        f"{reading}print(values)\n```\n\n"
        "From the Hub: `hf-hub:USER/NAME` in the place of `local-dir:FOLDER`."
        f"{_withheld(subject)}"
    )


def _lines_to_open(alpha: str) -> str:
    opened = 'image = ImageOps.exif_transpose(Image.open("image.jpg"))'
    if alpha != "white":
        return f'{opened}.convert("RGB")\n'
    return (
        f'{opened}.convert("RGBA")\n'
        'image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)'
        '.convert("RGB")\n'
    )


# What makes values of outputs; of one class an image those of _SHARES are then divided by their
# sum.
_READ = {
    "softmax": "outputs.softmax(1)",
    "negative": "(-outputs).softmax(1)",
    "sigmoid": "outputs.sigmoid()",
    "softplus": "torch.nn.functional.softplus(outputs)",
    "clamp": "outputs.clamp(1e-6, 1)",
    "exp": "outputs.exp()",
}
_SHARES = ("sigmoid", "softplus", "clamp", "exp")


def lines_to_read(task: Task) -> str:
    """Return the lines of a program that do what Task.values does."""
    heat = "" if task.temperature in (None, 1.0) else f" / {task.temperature:.6g}"
    lines = [f"outputs = model(images){heat}", f"values = {_READ.get(task.activation, 'outputs')}"]
    if task.kind == SINGLE and task.activation in _SHARES:
        lines.append("values = values / values.sum(1, keepdim=True)")
    if task.scale is not None and task.shift is not None:
        # In the labels' units.
        scale, shift = (f"torch.tensor({values.tolist()})" for values in (task.scale, task.shift))
        lines.append(f"values = values * {scale} + {shift}")
    return "".join(f"{line}\n" for line in lines)


def _withheld(subject: Subject) -> str:
    """Return what timm does not do: say that an image is unknown, or that a class is present."""
    task, told = subject.task, ""
    if task.thresholds is not None:
        least = "present from its threshold on" if task.kind == MULTI else "answered from that on"
        told = (
            "\n\nA class has the threshold of its place in `ptkit.task.thresholds` of"
            f" `config.json`: it is {least}."
        )
    if task.strangers is not None:
        told += (
            "\n\nThe check for strangers is not part of these files: images unlike those of"
            " training are answered too."
        )
    return told


def _preprocessing(subject: Subject) -> str:
    steps = "\n".join(f"1. `{_code(step)}`" for step in subject.weights.pipeline)
    on_white = ", transparent pixels put on white" if subject.weights.alpha == "white" else ""
    what = f"RGB images turned upright{on_white}"
    return f"Steps of `torchvision.transforms.v2`, on {what}:\n\n{steps}"


def _figures(run: FoundRun | None, checkpoint: Mapping[str, Any]) -> str:
    found = run.predictions if run is not None else None
    if found is not None:
        rows = [
            (metric, metric_text(metric, value), _interval(metric, found))
            for metric, value in found.metrics().items()
        ]
        table = _table(("metric", "value", "95 % interval"), rows)
        text = f"On the {counted(len(found.paths), 'validation image')}:\n\n{table}"
        if found.kind == SINGLE:
            most = majority_of(found.truth, found.names)
            share = f"{most.share:.1%}"
            text += f"\n\nAlways answering “{_text(most.name)}” would be right for {share}."
        return text
    known = {
        key.removeprefix("valid_"): value
        for key, value in checkpoint.get("metrics", {}).items()
        if key.startswith("valid_") and isinstance(value, int | float)
    }
    if not known:
        return "None are known: these weights came without the figures of a run."
    values = [
        (key, f"{value:.4g}" if key == "loss" else metric_text(key, value))
        for key, value in known.items()
    ]
    table = _table(("metric", "value"), values)
    return f"In validation; the number of images is not known, and so no interval:\n\n{table}"


def _interval(metric: str, found: Predictions) -> str:
    return " to ".join(metric_text(metric, end) for end in found.intervals[metric])


def _classes(subject: Subject, run: FoundRun | None, checkpoint: Mapping[str, Any]) -> str:
    names = subject.class_names
    lines = []
    if count := checkpoint.get("data", {}).get("num_images"):
        lines.append(f"Trained on {counted(count, 'image')}.")
    log = sound_layers(run.folder) if run is not None else []
    counts = (log[0].get("class_counts"), log[0].get("valid_counts")) if log else (None, None)
    known = [
        each if isinstance(each, list) and len(each) == len(names) else None for each in counts
    ]
    recalls = _recalls(run.predictions if run is not None else None, len(names))
    every = {"training": known[0], "validation": known[1], "recall": recalls}
    columns = {title: values for title, values in every.items() if values}
    shown = names[:_MOST_CLASSES]
    rows = [(name, *(values[k] for values in columns.values())) for k, name in enumerate(shown)]
    lines.append(_table(("class", *columns), rows))
    if len(names) > len(shown):
        lines.append(f"And {len(names) - len(shown):,} more, in `config.json`.")
    return "\n\n".join(lines)


def _recalls(found: Predictions | None, num_classes: int) -> list[str] | None:
    if found is None or found.kind != SINGLE or len(found.names) != num_classes:
        return None
    support = np.bincount(found.truth, minlength=num_classes)
    right = np.bincount(found.truth[found.right], minlength=num_classes)
    return [
        f"{hits / total:.1%}" if total else "-"
        for hits, total in zip(right.tolist(), support.tolist(), strict=True)
    ]


def _training(checkpoint: Mapping[str, Any]) -> str:
    config, env = checkpoint.get("config"), checkpoint.get("env") or {}
    if not config:
        return "Not known: these weights came without the settings of a run."
    epoch = checkpoint.get("metrics", {}).get("epoch")
    versions = ", ".join(
        f"{name} {_code(str(env[name]))}" for name in ("ptkit", "torch", "torchvision")
        if name in env
    )  # fmt: skip
    seed = checkpoint.get("data", {}).get("seed")
    text = f"```\n{train_command(config)}\n```\n\nThe epoch with the best validation, {epoch}"
    return f"{text}; seed {seed}; {versions}." if versions else f"{text}; seed {seed}."


def train_command(config: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the command of a run: what its settings have other than the defaults.

    WEIGHTS stands for the file or model that it started from.

    Paths of the data are left out, and what the run found out by itself.
    """
    usual = to_layer(Settings())
    starts_fresh = not config.get("model", {}).get("weights")
    parts = ["ptkit train" if starts_fresh else "ptkit finetune WEIGHTS"]
    for keyword, (section, field) in KEYWORDS.items():
        known = usual[section][field.name]
        value = config.get(section, {}).get(field.name, known)
        is_path = field.metadata["is_path"]
        if section == "log" or is_path or field.name in _LEFT_OUT or _same(value, known):
            continue
        several = value if isinstance(value, list | tuple) else [value]
        if keyword in FLAGS:
            parts += [f"{FLAGS[keyword]} {shlex.quote(_value(each))}" for each in several]
        else:
            text = f"{section}.{field.name}={_value(value)}"
            parts.append(f"--set {shlex.quote(text)}")
    return _code(" ".join(parts))


def _same(value: Any, known: Any) -> bool:
    if isinstance(value, list | tuple) and isinstance(known, list | tuple):
        return list(value) == list(known)
    return bool(value == known)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(f'"{each}"' for each in value) + "]"
    return str(value)


def _limits(subject: Subject, run: FoundRun | None) -> str:
    lines = [
        "Images unlike those of its training may get worse answers: test it on your own first."
    ]
    if subject.task.kind != REGRESSION:
        lines.insert(0, "It knows its classes only, and answers with them for any picture.")
    found = run.predictions if run is not None else None
    if found is not None:
        lines.append(
            "The epoch was chosen on the validation images, so these figures are a little too good:"
            " a test list that nothing was chosen by tells more."
        )
        if found.kind == SINGLE:
            counts = np.bincount(found.truth, minlength=len(found.names))
            few = [name for name, n in zip(found.names, counts, strict=True) if n < _FEW]
            if few:
                some = ", ".join(f"“{_text(name)}”" for name in few[:5]) + (
                    ", ..." * (len(few) > 5)
                )
                lines.append(
                    f"Of {counted(len(few), 'class', 'classes')} there are fewer than {_FEW}"
                    f" validation images ({some}): their recall is uncertain."
                )
    lines.append("Licence of the weights and of the data: to be added by whoever publishes them.")
    return "\n".join(f"- {line}" for line in lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [
        [f"{cell:,}" if isinstance(cell, int) else _text(str(cell)) for cell in row] for row in rows
    ]
    lines = [list(header), ["---"] * len(header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """Return a text of the user's that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>#|" else c for c in one_line(text))


def _code(text: str) -> str:
    return one_line(text).replace("`", "'")


def default_name(subject: Subject) -> str:
    """Return what a model is called: its run, or its file."""
    run: Path | None = subject.weights.run
    return run.name if run is not None else subject.weights.path.stem
