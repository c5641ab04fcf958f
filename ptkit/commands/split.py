"""`ptkit split`: class folders, a table or a list in; training, validation and test lists out."""

from pathlib import Path
from typing import Annotated, Unpack

import typer

from ptkit.api import splitting
from ptkit.commands import options
from ptkit.commands.output import Printer
from ptkit.commands.split_screen import split_lines, split_result


class Choices(options.SourceFlags, total=False):
    """How images are split."""

    ratio: Annotated[
        str | None,
        typer.Option(
            help="train:valid or train:valid:test, any positive numbers; by default 8:1:1, with"
            " --extend as before."
        ),
    ]
    copy: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Also copy the images to DIR/train/CLASS/... and list the copies."
        ),
    ]
    link: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The same with symbolic links, which take no space."),
    ]
    kfold: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Make folders fold1 to foldK for cross-validation: each image is in the validation"
            " list of one. No test part, unless --ratio names one: the third of its shares is held"
            " out first, as test.txt.",
        ),
    ]
    extend: Annotated[
        bool,
        typer.Option(
            "--extend", help="Add new images to the lists that are there; every line of them stays."
        ),
    ]
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Keep images on one side whose paths have the same match (its first group).",
        ),
    ]
    near_duplicates: Annotated[
        bool,
        typer.Option(
            "--near-duplicates",
            help="Keep images on one side that look alike, too: re-encoded, resized, turned or"
            " mirrored copies. Each image is decoded.",
        ),
    ]
    root: options.Root
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Accept classes with fewer images than parts or folds, and given parts without a"
            " class.",
        ),
    ]
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace lists that no earlier split wrote.")
    ]


@options.with_flags(Choices.__annotations__, before="seed")
def split(
    printer: Printer,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Folder with one folder of images per class, also within train, val and test; or a"
            " table (.csv, .tsv, .jsonl), or a list.",
        ),
    ],
    seed: options.Seed = 0,
    out: options.Out = None,
    **choices: Unpack[Choices],
) -> None:
    """Split images into training, validation and test lists, class by class; exact duplicates stay
    together.

    Parts that are there (train, val, test) are kept, and only those that are missing are made. A
    table that lies beside the images is found. What was taken for what is printed.

    Writes train.txt, valid.txt, test.txt, classes.txt and split.json here or into --out.

    Example: ptkit split data/ --ratio 8:1:1
    """
    outcome = splitting.split(folder, seed=seed, out=out, **choices).outcome
    printer.say("\n".join(split_lines(outcome)))
    printer.result(split_result(outcome))
