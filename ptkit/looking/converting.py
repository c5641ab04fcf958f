"""Old and foreign files of weights as a checkpoint of ptkit, or as .safetensors."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ptkit.core.errors import CheckpointError, UsageError
from ptkit.core.exporting.torch_files import safetensors_of
from ptkit.core.files import make_folder, write_atomically
from ptkit.core.models.checkpoints import save_checkpoint
from ptkit.core.models.fitting import fit_bare_weights
from ptkit.core.models.locate import find_weights, weights_path
from ptkit.core.models.recognition import recognised
from ptkit.core.models.weights import Weights, plain_names
from ptkit.core.wording import check_choice
from ptkit.looking.subject import ANSWER_FLAGS, Subject, subject_of

CHECKPOINT, SAFETENSORS = "ckpt", "safetensors"
# What a file is converted to, and the end of its name.
FORMS = {CHECKPOINT: ".pkl", SAFETENSORS: ".safetensors"}
# Said of the images, which a file of weights alone does not hold.
_OF_IMAGES = ("mean", "std", "classes", "alpha")


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A file that was written.

    to: CHECKPOINT or SAFETENSORS. model, class_names, pipeline: None and () where only weights were
    written. num_parameters: all numbers of the tensors. notes: what was done, a line each.
    """

    file: Path
    to: str
    model: str | None
    class_names: tuple[str, ...]
    pipeline: tuple[str, ...]
    num_tensors: int
    num_parameters: int
    num_bytes: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "file": str(self.file),
            "to": self.to,
            "model": self.model,
            "classes": list(self.class_names),
            "pipeline": list(self.pipeline),
            "num_tensors": self.num_tensors,
            "numbers": self.num_parameters,
            "bytes": self.num_bytes,
            "notes": list(self.notes),
        }


def convert_weights(
    source: str, *, out: Path | None = None, to: str = CHECKPOINT, **answers: Any
) -> Converted:
    """Write the weights of a file, a run folder or a model with pretrained ones in another form.

    out: the new file, or a folder for it; without it the name of the old one in the working
    directory. answers: of bare weights, as of `load_subject`.

    Raises:
        UsageError: an answer that is missing or has no effect; a file that is there already.
        CheckpointError: no such file, damaged, or weights that do not fit the model.
        StorageError: the disk refused.
    """
    check_choice("--to", to, tuple(FORMS))
    given = {name: value for name, value in answers.items() if value not in (None, ())}
    file = _new_file(source, out, FORMS[to])
    model, size = given.get("model"), given.get("size")
    weights = find_weights(source, model=model, size=size, takes_apart=True)
    if to == SAFETENSORS:
        return _write_safetensors(weights, file, given)
    if weights.checkpoint is not None:
        return _write_again(weights, weights.checkpoint, file, given)
    if model is None and weights.call is None and (looks := recognised(weights.state_dict)):
        raise UsageError(f"{source} holds bare weights: add --model NAME{looks}")
    subject = subject_of(weights, **given)
    make_folder(file.parent)
    save_checkpoint(file, checkpoint_of_subject(subject))
    done = subject.weights
    return _converted(
        file,
        CHECKPOINT,
        subject.model.state_dict(),
        model=done.call,
        class_names=subject.class_names,
        pipeline=done.pipeline,
        notes=done.lines,
    )


def _new_file(source: str, out: Path | None, ending: str) -> Path:
    """Return where the new file goes; nothing is there yet."""
    old = weights_path(source)
    stem = re.sub(r"[^\w.-]+", "-", source) if old is None else old.resolve().name
    if old is not None and not os.path.isdir(old):
        stem = old.stem
    named = Path(stem + ending)
    file = named if out is None else out / named if out.is_dir() else out
    if file.suffix != ending:
        raise UsageError(f"--out must end in {ending}, or be a folder, found {out}")
    if os.path.lexists(file):
        raise UsageError(f"{file} is there already, and is not replaced: name another with --out")
    return file


def _write_safetensors(weights: Weights, file: Path, given: Mapping[str, Any]) -> Converted:
    if needless := ", ".join(ANSWER_FLAGS[name] for name in given if name in _OF_IMAGES):
        raise UsageError(f"a .safetensors file holds weights alone: leave out {needless}")
    is_checkpoint = weights.checkpoint is not None
    if is_checkpoint:
        _refuse_answers(weights, given)
    # Of a file, `--model` may have said which of timm's weights it holds.
    is_named = not is_checkpoint and weights_path(weights.source) is None
    if is_named and given.get("model"):
        raise UsageError(f"{weights.source} is of {weights.call}: leave out --model")
    # Some of timm's weights are cut to another size of images.
    has_size = is_named and (weights.call or "").startswith("timm:")
    if given.get("size") and not given.get("model") and not has_size:
        advice = "leave it out" if is_named else "add --model, or leave it out"
        raise UsageError(f"--size is of the model: {advice}")
    call, notes = weights.call, weights.notes
    tensors = dict(weights.state_dict) if is_checkpoint else plain_names(weights.state_dict)
    if call is None and (model := given.get("model")):
        fitted = fit_bare_weights(weights, model=model, size=given.get("size"))
        tensors, call, notes = fitted.module.state_dict(), fitted.call, fitted.notes
    elif prefix := _removed(weights.state_dict, tensors):
        notes = (*notes, f"removed the prefix {prefix} from the weights' names")
    make_folder(file.parent)
    write_atomically(file, safetensors_of(tensors))
    lines = tuple(f"weights of {weights.source}: {note}" for note in notes)
    return _converted(file, SAFETENSORS, tensors, model=call, notes=lines)


def _removed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    first, plain = next(iter(before)), next(iter(after))
    return first.removesuffix(plain)


def _write_again(
    weights: Weights, checkpoint: Mapping[str, Any], file: Path, given: Mapping[str, Any]
) -> Converted:
    """Write a checkpoint anew: in the present format, and without the state of training."""
    # The model need not be built.
    _refuse_answers(weights, given)
    kept = {key: value for key, value in checkpoint.items() if key not in _WITHOUT}
    make_folder(file.parent)
    save_checkpoint(file, {**kept, "kind": "best"})
    done = ["it is a checkpoint of ptkit already"]
    done += ["left out the state of training"] * ("train" in checkpoint)
    return _converted(
        file,
        CHECKPOINT,
        weights.state_dict,
        model=weights.call,
        class_names=weights.class_names or (),
        pipeline=weights.pipeline,
        notes=tuple(f"weights of {weights.source}: {note}" for note in done),
    )


def _refuse_answers(weights: Weights, given: Mapping[str, Any]) -> None:
    """Raise a UsageError for answers that a checkpoint holds itself."""
    if flags := ", ".join(ANSWER_FLAGS[name] for name in given):
        raise UsageError(
            f"{weights.source} is a checkpoint and already stores this: leave out {flags}"
        )


# What writing adds, and what only `--resume` needs.
_WITHOUT = {"format", "format_version", "ptkit_version", "train"}


def checkpoint_of_subject(subject: Subject) -> dict[str, Any]:
    """Return the contents of a checkpoint that holds what its use needs, and nothing of a run."""
    weights = subject.weights
    if weights.mean is None or weights.std is None:
        raise CheckpointError(f"{weights.source} does not say how its images are normalised")
    return {
        "kind": "best",
        "model": {"call": weights.call, "num_classes": len(subject.class_names)},
        "classes": list(subject.class_names),
        "task": subject.task.as_dict(),
        "pipeline": weights.pipeline_record,
        "state_dict": subject.model.state_dict(),
        "metrics": {},
    }


def _converted(file: Path, to: str, tensors: Mapping[str, Tensor], **more: Any) -> Converted:
    return Converted(
        file=file,
        to=to,
        num_tensors=len(tensors),
        num_parameters=sum(tensor.numel() for tensor in tensors.values()),
        num_bytes=file.stat().st_size,
        **{"class_names": (), "pipeline": (), **more},
    )
