"""`ptkit split`: class folders in, lists of training, validation and test images out."""

from pathlib import Path
from typing import Annotated

import typer

from ptkit import api
from ptkit.commands.options import Json, Out, Quiet, Seed
from ptkit.commands.output import Printer
from ptkit.commands.split_screen import split_lines, split_result

Folder = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="Folder with one folder of images per class, or a list."),
]
Ratio = Annotated[
    str | None,
    typer.Option(
        help=(
            "train:valid or train:valid:test, any positive numbers; by default 8:1:1, with --extend"
            " as before."
        )
    ),
]
Copy = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Also copy the images to DIR/train/CLASS/... and list the copies."
    ),
]
Link = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The same with symbolic links, which take no space."),
]
Kfold = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        help=(
            "Make folders fold1 to foldK for cross-validation: each image is in the validation list"
            " of one. No test part, unless --ratio names one: the third of its shares is held out"
            " first, as test.txt."
        ),
    ),
]
Extend = Annotated[
    bool,
    typer.Option(
        "--extend", help="Add new images to the lists that are there; every line of them stays."
    ),
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Keep images on one side whose paths have the same match (its first group).",
    ),
]
AllowMissing = Annotated[
    bool,
    typer.Option("--allow-missing", help="Accept classes with fewer images than parts or folds."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace lists that no earlier split wrote.")
]


def split(
    folder: Folder,
    ratio: Ratio = None,
    copy: Copy = None,
    link: Link = None,
    kfold: Kfold = None,
    extend: Extend = False,
    group_by: GroupBy = None,
    allow_missing: AllowMissing = False,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Split images into training, validation and test lists, class by class; exact duplicates stay
    together.

    Writes train.txt, valid.txt, test.txt, classes.txt and split.json here or into --out.

    Example: ptkit split data/ --ratio 8:1:1
    """
    printer = Printer(as_json=as_json, quiet=quiet)
    outcome = api.split(
        folder,
        ratio=ratio,
        copy=copy,
        link=link,
        kfold=kfold,
        extend=extend,
        group_by=group_by,
        allow_missing=allow_missing,
        overwrite=overwrite,
        seed=seed,
        out=out,
    ).outcome
    printer.say("\n".join(split_lines(outcome)))
    printer.result(split_result(outcome))
