"""Options that several commands share, declared once."""

from pathlib import Path
from typing import Annotated

import typer

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


# Flags of train and finetune; `training_flags.py` says which setting each one is.
TrainList = Annotated[Path | None, typer.Option("--train", help="List of the training images.")]
ValidList = Annotated[Path | None, typer.Option("--valid", help="List of the validation images.")]
Config = Annotated[Path | None, typer.Option(help="TOML file with settings; flags win over it.")]
Recipe = Annotated[
    str | None, typer.Option(help="Ready settings by name (`ptkit list recipes`), or a TOML file.")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="A setting: section.key=value; may be repeated.")
]
TrainModel = Annotated[
    str | None,
    typer.Option("--model", help="Such as resnet8, 'resnet18(stem=\"small\")', net.py:Net."),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images.")]
BatchSize = Annotated[int | None, typer.Option(help="Images per step.")]
Rate = Annotated[
    float | None, typer.Option("--lr", help="Learning rate; by default the optimizer's usual one.")
]
LossCall = Annotated[
    str | None, typer.Option("--loss", help="Such as 'CrossEntropyLoss(label_smoothing=0.1)'.")
]
OptimizerCall = Annotated[
    str | None, typer.Option("--optimizer", help="Such as 'Adam(betas=(0.9, 0.99))'.")
]
SchedulerCall = Annotated[
    str | None, typer.Option("--scheduler", help="Such as 'StepLR(step_size=5)', or none.")
]
Augment = Annotated[
    str | None, typer.Option(help="Ready list of transforms: auto, none, safe or natural.")
]
Transforms = Annotated[
    list[str] | None, typer.Option("--transform", help="A transform; repeat for a list.")
]
Inits = Annotated[
    list[str] | None,
    typer.Option("--init", help="SELECTOR=method(...), or tutorial; may be repeated."),
]
Groups = Annotated[
    list[str] | None,
    typer.Option(
        "--group", help="SELECTOR: lr=10x, weight_decay=0, unfreeze=5, or frozen, or excluded."
    ),
]
Precision = Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")]
RunName = Annotated[
    str | None, typer.Option("--name", help="Name of the run folder; by default the next number.")
]
Resume = Annotated[
    Path | None, typer.Option(help="Go on with this run after its last saved epoch.")
]
SaveEvery = Annotated[
    int | None, typer.Option(help="Epochs between two states that can be resumed.")
]
InputSize = Annotated[
    int | None, typer.Option("--size", help="Input size in pixels; by default from the images.")
]
TrainDevice = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")]
TrainWorkers = Annotated[int | None, typer.Option("--workers", help="Decoding threads; 0 chooses.")]
TrainSeed = Annotated[int | None, typer.Option("--seed", help="Same seed, same result.")]
