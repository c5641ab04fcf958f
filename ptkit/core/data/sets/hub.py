"""Image data sets of the Hugging Face Hub, through its own library; no code of a set is run."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptkit.core.data.images import read_bytes
from ptkit.core.data.sets.contents import About, Part, SetImage
from ptkit.core.data.splits.given_parts import part_of
from ptkit.core.errors import DataError, PtkitError, StorageError, UsageError
from ptkit.core.wording import counted, first_of, nearest, reason_of

# Columns that hold the class where none says so.
_USUAL = ("label", "labels", "class", "category", "target")
# Seconds in which the Hub must answer first.
_TIMEOUT_S = 15.0
# Older versions of the library run the code that comes with a set.
_FIRST_WITHOUT_CODE = 4


def read_hub(
    name: str, scratch: Path, source: Path | None, *, label_column: str | None
) -> tuple[list[Part], About]:
    """Return the parts of a set, and where it comes from.

    name: NAME, or NAME:CONFIG. scratch: an empty folder. source: a parquet file, or a folder of
    such files, of images, or of what `save_to_disk` wrote; None for the Hub.

    Raises:
        UsageError: no such set or column, or the library is missing.
        StorageError: the network failed. DataError: what `source` holds is no such set.
    """
    _library()
    name, _, config = name.partition(":")
    with _silenced(is_quiet=source is not None):
        about = _asked(name) if source is None else _of_files(source)
        try:
            found = _loaded(name, config or None, scratch, source)
        except PtkitError:
            raise
        # The library lets errors of several others through.
        except Exception as error:
            raise _refusal(name, source, error) from error
    return _parts(found, name, about, label_column=label_column)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        # It may be there, and something that it needs be too old.
        raise UsageError(
            f"hf: needs the library datasets ({reason_of(error)}): pip install 'ptkit[datasets]'"
        ) from None
    if int(datasets.__version__.partition(".")[0]) < _FIRST_WITHOUT_CODE:
        raise UsageError(
            f"hf: needs the library datasets from version {_FIRST_WITHOUT_CODE} on, which runs no"
            f" code of a set; found {datasets.__version__}: pip install -U 'ptkit[datasets]'"
        )
    return datasets


def _asked(name: str) -> About:
    """Ask the Hub about a set: loading it would try for half a minute to reach a Hub."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    page = f"https://huggingface.co/datasets/{name}"
    if constants.HF_HUB_OFFLINE:
        # The library takes what it has kept.
        return About(page, f"see {page}", f"see {page}")
    try:
        info = HfApi().dataset_info(name, timeout=_TIMEOUT_S)
    except GatedRepoError as error:
        raise UsageError(
            f"hf:{name} has a licence to accept: do so at {page}, log in with `hf auth login` (or"
            " set HF_TOKEN), and run this again"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UsageError(f"the Hugging Face Hub has no data set {name}: see {page}") from error
    # Its HTTP library has changed twice.
    except Exception as error:
        raise _unreachable(name, error) from error
    card: Any = info.card_data or {}
    licence = card.get("license") or "none stated"
    shown = licence if isinstance(licence, str) else ", ".join(map(str, licence))
    return About(page, shown, f"see {page}")


def _of_files(source: Path) -> About:
    # What is in the files of others is theirs to say.
    return About(str(source), "see where the files come from", "see where the files come from")


def _unreachable(name: str, error: BaseException) -> StorageError:
    reason = re.sub(r"\[Errno -?\d+\] ", "", reason_of(error)).partition(". (Request ID")[0]
    return StorageError(
        f"cannot download hf:{name} ({reason}): get the files of"
        f" https://huggingface.co/datasets/{name} by hand and pass --from FOLDER"
    )


def _loaded(name: str, config: str | None, scratch: Path, source: Path | None) -> dict[str, Any]:
    """Return the splits by name; "" for a set without."""
    datasets = _library()
    if source is None:
        found = datasets.load_dataset(name, config)
    elif not source.is_dir():
        if source.suffix != ".parquet":
            raise DataError(f"{source} is not a .parquet file; expected one, or a folder")
        found = datasets.load_dataset(
            "parquet", data_files={"train": str(source)}, cache_dir=str(scratch)
        )
        found = found["train"]
    elif any((source / file).exists() for file in ("state.json", "dataset_dict.json")):
        found = datasets.load_from_disk(str(source))
    else:
        # An absolute path cannot be a name on the Hub.
        found = datasets.load_dataset(str(source.absolute()), config, cache_dir=str(scratch))
    return dict(found) if isinstance(found, dict) else {"": found}


def _refusal(name: str, source: Path | None, error: Exception) -> PtkitError:
    reason = reason_of(error)
    if "Config name is missing" in reason or "BuilderConfig" in reason:
        return UsageError(
            f"hf:{name} has several configurations: name one, hf:NAME:CONFIG; {reason}"
        )
    if source is not None:
        return DataError(f"{source} is not a data set that can be read: {reason}")
    if isinstance(error, OSError):
        return _unreachable(name, error)
    return DataError(f"hf:{name} cannot be read: {reason}")


def _parts(
    found: dict[str, Any], name: str, about: About, *, label_column: str | None
) -> tuple[list[Part], About]:
    datasets = _library()
    splits, notes = _known_splits(found, name)
    features = next(iter(splits.values())).features
    image = _image_column(features, name)
    label = label_column or _label_column(features, name)
    if label not in features:
        raise UsageError(
            f"hf:{name} has no column {label}{nearest(label, features)}; it has"
            f" {', '.join(features)}"
        )
    class_names = getattr(features[label], "names", None)
    if getattr(features[label], "dtype", None) not in ("int64", "int32", "string", "bool"):
        raise UsageError(f"the column {label} of hf:{name} does not hold one class per image")
    parts = []
    for split, data in splits.items():
        rows = [row for row, value in enumerate(data[label]) if value not in (None, -1)]
        if missing := len(data) - len(rows):
            notes.append(f"left out: {counted(missing, 'image')} of {split} without a class")
        if rows:
            raw = data.select(rows).select_columns([image, label])
            raw = raw.cast_column(image, datasets.Image(decode=False))
            parts.append(Part(split, len(rows), _images(raw, image, label, class_names)))
    if not parts:
        raise DataError(f"hf:{name} has no image with a class in {label}")
    about = About(about.source, about.licence, about.citation, tuple(notes))
    return parts, about


def _known_splits(found: dict[str, Any], name: str) -> tuple[dict[str, Any], list[str]]:
    """Return the splits that are parts, and what is left out; a single one of another name has no
    parts.
    """
    if len(found) == 1 and not part_of(next(iter(found))):
        return {"": next(iter(found.values()))}, []
    known: dict[str, str] = {}
    for split in found:
        if part_of(split):
            known.setdefault(part_of(split), split)
    if "train" not in known:
        raise DataError(f"hf:{name} has the splits {first_of(list(found), 9)}, and no train")
    others = [split for split in found if split not in known.values()]
    notes = [f"left out: the splits {', '.join(others)}"] if others else []
    return {split: found[split] for split in known.values()}, notes


def _image_column(features: Any, name: str) -> str:
    datasets = _library()
    found = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    if not found:
        raise DataError(f"hf:{name} has no column of images; it has {', '.join(features)}")
    return str(found[0])


def _label_column(features: Any, name: str) -> str:
    datasets = _library()
    classes = [column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    usual = [column for column in _USUAL if column in (classes or features)]
    if len(classes) == 1 or usual:
        return str((usual or classes)[0])
    if classes:
        raise UsageError(
            f"hf:{name} has several classes per image ({', '.join(classes)}): choose one with"
            " --label-column"
        )
    raise UsageError(
        f"hf:{name} does not say which column is the class: choose one of {', '.join(features)}"
        " with --label-column"
    )


def _images(
    rows: Any, image: str, label: str, class_names: Sequence[str] | None
) -> Iterator[SetImage]:
    width = len(str(len(rows)))
    for number, row in enumerate(rows):
        file, value = row[image], row[label]
        stem = Path(file["path"]).stem if file and file["path"] else f"{number:0{width}d}"
        if not file or (file["bytes"] is None and not file["path"]):
            raise DataError(f"row {number} of the set has no image")
        if class_names and not 0 <= value < len(class_names):
            raise DataError(
                f"row {number} of the set has the class {value}, and there are {len(class_names)}"
            )
        content = file["bytes"] if file["bytes"] is not None else read_bytes(file["path"])
        yield SetImage(class_names[value] if class_names else str(value), stem, content)


@contextmanager
def _silenced(*, is_quiet: bool) -> Iterator[None]:
    """Keep the libraries' advice from the terminal, and for local files their bars."""
    datasets = _library()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    has_bars = datasets.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    if is_quiet and has_bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if is_quiet and has_bars:
            datasets.enable_progress_bars()
