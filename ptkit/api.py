"""ptkit in Python: what each command does, as a function that returns a record and prints nothing.

The commands call these functions too. Settings are keywords with the names that the settings have
in docs/training.md: `lr`, `batch_size`, and `model`, `loss`, `optimizer`, `scheduler` for the
calls. Every error that the user can fix is a `PtkitError`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from ptkit.core.errors import UsageError
from ptkit.core.wording import check_choice

if TYPE_CHECKING:
    from ptkit.core.config import Settings
    from ptkit.core.data.splits.jobs import Outcome, SplitJob
    from ptkit.core.data.statistics import ChannelStatistics
    from ptkit.core.data.transforms.covariance import Whitening
    from ptkit.core.training.observers import Watcher
    from ptkit.core.training.run_folder import Run
    from ptkit.core.training.session import RunResult

StrPath = str | os.PathLike[str]
# Called with what is counted and how many there are; gives the function that counts.
Counting = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class FinetuneSettings(TypedDict, total=False):
    """All settings of core/config.py by their keywords, but the weights to start from."""

    train: StrPath
    valid: StrPath
    classes: StrPath | None
    size: int | None
    augment: str
    transforms: Sequence[str]
    eval_transforms: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    cache: str
    reduced_decode: bool
    on_bad: str
    allow_leak: bool
    sampler: str
    shuffle: bool
    drop_last: bool
    workers: int
    model: str | None
    init: Sequence[str]
    loss: str | None
    pairs: bool
    threshold: float | None
    embedding: int | None
    optimizer: str | None
    lr: float | None
    groups: Sequence[str]
    decay_all: bool
    layer_decay: float | None
    head_lr: float
    scheduler: str
    per: str
    warmup: float
    scheduler_metric: str
    epochs: int
    batch_size: int | None
    seed: int
    device: str
    precision: str
    accumulate: int
    clip_grad: float | None
    patience: int | None
    metric: str
    ema: float | None
    save_every: int
    channels_last: bool
    deterministic: bool
    compile: bool
    profile: bool
    tensorboard: bool
    histograms: bool
    graph: bool
    pictures: bool
    log_folder: StrPath | None
    comment: str
    filename_suffix: str
    wandb: bool


class TrainSettings(FinetuneSettings, total=False):
    """All settings of core/config.py by their keywords."""

    weights: StrPath | None


@dataclass(frozen=True)
class SplitResult:
    """Where the images of a split went.

    counts: images of each part (train, valid, test, or fold1, fold2, ...) by its name.
    files: the lists and records that were written. outcome: all that is known, image by image.
    """

    counts: Mapping[str, int]
    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    outcome: "Outcome"


@dataclass(frozen=True)
class NormstatsResult:
    """Statistics of images for Normalize, and the files that hold them.

    whitening: the matrix for LinearTransformation, where one was asked for.
    """

    statistics: "ChannelStatistics"
    file: Path
    whitening: "Whitening | None" = None
    whitening_file: Path | None = None

    @property
    def mean(self) -> tuple[float, float, float]:
        """RGB, in 0..1."""
        return self.statistics.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """RGB, in 0..1."""
        return self.statistics.std


def split(
    folder: StrPath,
    *,
    ratio: str | None = None,
    copy: StrPath | None = None,
    link: StrPath | None = None,
    kfold: int | None = None,
    extend: bool = False,
    group_by: str | None = None,
    allow_missing: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    out: StrPath | None = None,
) -> SplitResult:
    """Split class folders (or a list) into training, validation and test lists, written to `out`.

    out: a folder, the working directory by default. The rest is explained by `ptkit split --help`.

    >>> found = ptkit.split("data", ratio="8:1:1")
    >>> list(found.counts)
    ['train', 'valid', 'test']

    Raises:
        UsageError: settings that do not go together, or files in the way.
        DataError: images that cannot be split.
        StorageError: the disk refused.
    """
    from ptkit.core.data.splits.jobs import SplitJob, run_split
    from ptkit.core.data.splits.trees import Tree
    from ptkit.core.machine import without_garbage_collection

    if copy is not None and link is not None:
        raise UsageError(
            "--copy and --link cannot be combined: the lists name either copies or links"
        )
    tree = None
    if copy is not None:
        tree = Tree(Path(copy), "copy")
    elif link is not None:
        tree = Tree(Path(link), "link")
    job = SplitJob(
        source=Path(folder),
        command="",
        out=Path(out or ""),
        ratio=ratio,
        tree=tree,
        kfold=kfold,
        extend=extend,
        group_by=group_by,
        allow_missing=allow_missing,
        overwrite=overwrite,
        seed=seed,
    )
    with without_garbage_collection():
        outcome = run_split(replace(job, command=_command(job)))
    found = outcome.split
    counts = dict(zip(found.part_names, found.totals, strict=True))
    return SplitResult(counts, outcome.scan.class_names, outcome.written.files, outcome)


def normstats(
    list_file: StrPath,
    *,
    num: int | None = None,
    size: int | None = None,
    whiten: str | None = None,
    seed: int = 0,
    workers: int = 0,
    out: StrPath | None = None,
    counting: Counting = lambda _what, _total: nullcontext(lambda _count: None),
) -> NormstatsResult:
    """Measure mean and standard deviation per channel, and save them where `train` finds them.

    num: take a random sample of this many images. size: resize them to size × size first.
    whiten: zca or pca for a whitening matrix too. out: a folder, that of the list by default.
    counting: for a progress bar.

    >>> found = ptkit.normstats("train.txt")
    >>> all(0 < value < 1 for value in found.mean)
    True

    Raises:
        DataError: no images, or some cannot be read.
        UsageError: whitening of images that differ in size, or that are too large.
        StorageError: the disk refused.
    """
    from ptkit.core.data import statistics
    from ptkit.core.data.lists import read_list
    from ptkit.core.machine import num_cores

    for name, value in {"num": num, "size": size}.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, found {value}")
    images = read_list(Path(list_file))
    target = (Path(list_file).parent if out is None else Path(out)) / Path(list_file).name
    total, threads = min(num or len(images), len(images)), workers or num_cores()
    whitening = whitening_file = None
    # First, since it may refuse before anything is decoded.
    if whiten is not None:
        from ptkit.core.data.transforms import covariance

        check_choice("--whiten", whiten, covariance.KINDS)
        chosen = statistics.sample(images, num=num, seed=seed)
        with counting("whitening", total) as advance:
            whitening = covariance.measure_whitening(
                images, chosen, kind=whiten, size=size, workers=threads, on_images=advance
            )
    with counting("measuring", total) as advance:
        found = statistics.measure(
            images, num=num, size=size, seed=seed, workers=threads, on_images=advance
        )
    file = statistics.save(found, target)
    if whitening is not None:
        whitening_file = covariance.save(whitening, target)
    return NormstatsResult(found, file, whitening, whitening_file)


def train(
    *,
    config: StrPath | None = None,
    recipe: str | None = None,
    name: str | None = None,
    runs: StrPath | None = None,
    resume: StrPath | None = None,
    link: StrPath | None = "ckpt.pkl",
    watch: "Watcher | None" = None,
    **settings: Unpack[TrainSettings],
) -> "RunResult":
    """Train a classifier on train.txt and valid.txt, as `split` leaves them, into a run folder.

    Settings take precedence over the TOML file `config`, that over the `recipe`.
    runs: the parent of the run folder, `runs` by default. resume: a run folder to continue.
    link: where a link to the best checkpoint is put, or None. watch: is called with what happens.

    >>> result = ptkit.train(epochs=2, lr=0.05, optimizer="SGD(momentum=0.9)")
    >>> str(result.checkpoint)
    'runs/1/ckpt.pkl'
    >>> sorted(result.best)
    ['accuracy', 'epoch', 'loss']

    Raises:
        PtkitError: any of its children; core/errors.py says what each means.
    """
    from ptkit.core.config_layers import gather

    given = {"name": name, "out": runs, "recipe": recipe}
    refused = [flag for flag, value in given.items() if value is not None]
    if resume is not None and refused:
        raise UsageError(
            f"--resume continues with the run's own settings and folder: leave out --{refused[0]}"
        )
    found = gather(
        settings, recipe=recipe, resume=_path_or_none(resume), config=_path_or_none(config)
    )
    return _run(found, name=name, runs=runs, resume=resume, link=link, watch=watch)


def finetune(
    weights: StrPath,
    *,
    config: StrPath | None = None,
    recipe: str | None = None,
    name: str | None = None,
    runs: StrPath | None = None,
    link: StrPath | None = "ckpt.pkl",
    watch: "Watcher | None" = None,
    **settings: Unpack[FinetuneSettings],
) -> "RunResult":
    """Train from old weights, the head ten times as fast as the rest.

    weights: a checkpoint, a run folder, bare weights, or the name of a torchvision model.
    The rest: see `train`; a finetuned run is resumed by `train(resume=...)`.

    >>> result = ptkit.finetune("ckpt.pkl", epochs=1, groups=["conv1: frozen"], name="tuned")
    >>> str(result.run)
    'runs/tuned'

    Raises:
        PtkitError: any of its children; core/errors.py says what each means.
    """
    from ptkit.core.config_layers import gather

    found = gather(
        {**settings, "weights": weights},
        base={"optimizer": {"head_lr": 10.0}},
        recipe=recipe,
        config=_path_or_none(config),
    )
    return _run(found, name=name, runs=runs, resume=None, link=link, watch=watch)


def _command(job: "SplitJob") -> str:
    """Return the command line that repeats a split, for its record."""
    import shlex

    from ptkit.core.data.splits.jobs import DEFAULT_RATIO

    is_plain = not job.extend and job.kfold is None
    values = {
        "--ratio": job.ratio or (DEFAULT_RATIO if is_plain else None),
        "--seed": job.seed,
        "--copy": job.tree.folder if job.tree and job.tree.kind == "copy" else None,
        "--link": job.tree.folder if job.tree and job.tree.kind == "link" else None,
        "--kfold": job.kfold,
        "--group-by": job.group_by,
        "--out": None if job.out == Path() else job.out,
    }
    switches = {"--extend": job.extend, "--allow-missing": job.allow_missing}
    words = ["ptkit", "split", str(job.source)]
    words += [text for k, v in values.items() if v is not None for text in (k, str(v))]
    return shlex.join([*words, *(flag for flag, is_on in switches.items() if is_on)])


def _run(
    settings: "Settings",
    *,
    name: str | None,
    runs: StrPath | None,
    resume: StrPath | None,
    link: StrPath | None,
    watch: "Watcher | None",
) -> "RunResult":
    from ptkit.core.training import session
    from ptkit.core.training.observers import Watcher

    return session.run(
        settings,
        watch=watch or Watcher(),
        runs=Path(runs or "runs"),
        name=name,
        link=_path_or_none(link),
        resume=_path_or_none(resume),
        at_end=_draw_summaries,
    )


def _draw_summaries(run: "Run") -> tuple[Path, ...]:
    """Draw the pictures of a finished run; matplotlib is loaded here, when it is needed."""
    from ptkit.looking.end_of_run import write_summaries

    return write_summaries(run)


def _path_or_none(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)
