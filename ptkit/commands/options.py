"""Options that several commands share, declared once."""

from pathlib import Path
from typing import Annotated

import typer

Checkpoint = Annotated[
    Path, typer.Argument(metavar="CKPT", help="A checkpoint, a run folder, or bare weights.")
]
ListFile = Annotated[
    Path, typer.Argument(metavar="LIST", help="A list file, one `PATH LABEL` a line.")
]
Images = Annotated[list[str] | None, typer.Argument(metavar="IMAGE...", help="Image files.")]

Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object and nothing else.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.", min=0)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Workers = Annotated[int, typer.Option(help="Decoding threads; 0 chooses.", min=0)]
Out = Annotated[Path | None, typer.Option(help="Folder for what is written.")]

Layers = Annotated[list[str] | None, typer.Option(help="Layer names or globs; may be repeated.")]
NumImages = Annotated[int, typer.Option(help="How many images are drawn.", min=1)]
Scale = Annotated[
    str, typer.Option(help="One scale per 'layer', or per 'kernel' (stretches dead ones).")
]

# What a checkpoint would have said about bare weights.
Model = Annotated[
    str | None, typer.Option(help="Model of bare weights, such as 'resnet18(num_classes=10)'.")
]
Mean = Annotated[
    str | None, typer.Option(help="Mean of bare weights' training data, R,G,B in 0..1.")
]
Std = Annotated[str | None, typer.Option(help="Standard deviation, R,G,B in 0..1.")]
Size = Annotated[int | None, typer.Option(help="Input size in pixels.", min=1)]
Classes = Annotated[Path | None, typer.Option(help="File with one class name a line.")]


# Of train and finetune, beside the settings, whose flags come from core/config.py.
Config = Annotated[
    Path | None, typer.Option(help="TOML file with settings; flags take precedence.")
]
Recipe = Annotated[
    str | None, typer.Option(help="Ready settings by name (`ptkit list recipes`), or a TOML file.")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="A setting: section.key=value. May be repeated.")
]
RunName = Annotated[
    str | None, typer.Option("--name", help="Name of the run folder; by default the next number.")
]
Resume = Annotated[Path | None, typer.Option(help="Continue this run after its last saved epoch.")]
