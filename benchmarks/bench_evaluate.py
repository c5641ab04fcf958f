"""Evaluation and prediction against the model alone, in one process.

    python benchmarks/bench_evaluate.py IMAGES [PHOTOS] [--device cpu]

Evaluation is what training does after an epoch, on images kept decoded; prediction is what `ptkit
predict` does, from the files. "Model alone": forward passes on batches in memory, of the same size,
channels last, without gradients. "Batches, then model": the batches of the files made and thrown
away, and the model alone after that; on a CPU both need the same cores.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from common import arguments, at_least, begin, image_paths, in_turns, report, write_lists

from ptkit.core.machine import prepare_environment

MEAN, STD = "0.49,0.48,0.45", "0.25,0.24,0.26"


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("images", type=Path)
    parser.add_argument("photos", type=Path, nargs="?")
    options = parser.parse_args()
    prepare_environment()
    from ptkit.core.device import choose_device, prepare_device

    prepare_device(choose_device(options.device), deterministic=False)
    begin("evaluate", note=options.device)
    small = image_paths(options.images, limit=20_000)
    for network, count in (("lenet", 20_000), ("resnet18", 1_280)):
        measure(network, small[:count], size=32, rounds=options.rounds, device=options.device)
    if options.photos:
        photos = image_paths(options.photos, limit=64)
        measure("resnet18", photos, size=224, rounds=options.rounds, device=options.device)


def measure(network: str, paths: Sequence[Path], *, size: int, rounds: int, device: str) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-evaluate-") as name:
        file = write_lists(paths, Path(name))
        runs = {
            "evaluation": evaluation(network, file, size=size, device=device),
            "prediction": prediction(network, file, size=size, device=device),
        }
        for kind, (ours, *others) in runs.items():
            names = ("ours", "model alone", "batches, then model")
            seconds = in_turns(
                {
                    name: lambda _, run=run: run()
                    for name, run in zip(names, (ours, *others), strict=False)
                },
                rounds=rounds,
            )
            rates = {
                who: [len(paths) / value for value in values] for who, values in seconds.items()
            }
            what = f"{kind}, `{network}` at {size}, {len(paths):,} images"
            for name in list(rates)[1:]:
                report(
                    what,
                    rates["ours"],
                    rates[name],
                    against=name,
                    goal=at_least(0.9),
                    unit="images/s",
                )


Run = Callable[[], object]


def evaluation(network: str, file: Path, *, size: int, device: str) -> tuple[Run, Run]:
    """Return what evaluates a list after an epoch, and what runs the model alone."""
    from ptkit.core.config.layers import resolve
    from ptkit.core.training.evaluating import evaluate
    from ptkit.core.training.observers import Unwatched
    from ptkit.core.training.setup import prepare

    data = {"train": str(file), "valid": str(file), "allow_leak": True, "size": size}
    model = {"call": call_of(network)}
    settings = resolve(
        {
            "data": data,
            "model": model,
            "train": {"device": device, "batch_size": min(128, len(file.read_text().splitlines()))},
        }
    )
    training = prepare(settings, Unwatched(), is_resumed=False).training

    def ours() -> None:
        evaluate(training)

    return ours, alone(training.model, training.valid, device=device, dtype=training.dtype)


def prediction(network: str, file: Path, *, size: int, device: str) -> tuple[Run, Run, Run]:
    """Return what `ptkit predict` does to the images of a list, what runs the model alone, and what
    makes the batches first.
    """
    import torch

    from ptkit.core.data.keyed import Sampling
    from ptkit.core.data.loading.batches import Batches
    from ptkit.core.models.zoo import build_model
    from ptkit.core.sizes import evaluation_batch_size
    from ptkit.looking.image_sources import find_images
    from ptkit.looking.subject import load_subject

    classes, weights = file.parent / "classes.txt", file.parent / "weights.pt"
    num_classes = len(classes.read_text().split())
    torch.save(
        build_model(call_of(network), num_classes=num_classes, size=size, seed=0)[0].state_dict(),
        weights,
    )
    subject = load_subject(
        weights, model=call_of(network), mean=MEAN, std=STD, size=size, classes=classes
    )
    images = find_images([str(file)], subject.class_names)
    batches = Batches(
        images, subject.parse_pipeline(), Sampling(evaluation_batch_size(size)), device=device
    )
    model = alone(subject.model.to(device), batches, device=device, dtype=None)

    def one_after_the_other() -> None:
        for _ in batches.epoch():
            pass
        model()

    def ours() -> None:
        for _ in subject.predict_parts(images, device=device, workers=0):
            pass

    return ours, model, one_after_the_other


def alone(model, batches, *, device: str, dtype) -> Run:  # type: ignore[no-untyped-def]
    """Return a function that runs the model over the batches of a list, held in memory."""
    import torch

    model = model.eval().to(memory_format=torch.channels_last)
    ready = [batch.images for batch in batches.epoch()]

    def run() -> None:
        model.eval()
        with torch.inference_mode(), torch.autocast(device, dtype, enabled=dtype is not None):
            for images in ready:
                outputs = model(images)
        outputs.cpu()

    return run


def call_of(network: str) -> str:
    """Return the call of a network; ResNet-18 has torchvision's stem at every size."""
    return "resnet18(stem='standard')" if network == "resnet18" else f"{network}()"


if __name__ == "__main__":
    main()
