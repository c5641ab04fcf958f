"""What a run says of its data."""

from collections import Counter

from ptkit.core.config.settings import DataSettings
from ptkit.core.data.labels import REGRESSION, SINGLE
from ptkit.core.data.loading.keeping import LoadedList, where_note
from ptkit.core.data.oddities import odd_note
from ptkit.core.data.transforms.pipeline import Pipeline
from ptkit.core.sizes import Sides


def odd_of(*lists: LoadedList) -> Counter[str]:
    """Return how many images of some lists are of each unusual kind."""
    return sum((Counter(loaded.odd) for loaded in lists), Counter())


def data_note(
    train: LoadedList, valid: LoadedList, pipeline: Pipeline, *, data: DataSettings, sides: Sides
) -> str:
    """Say how many images there are, of what, where they are kept, and what becomes of them."""
    images, count = train.images, train.images.num_classes
    if images.label_kind == REGRESSION:
        labels = "one number per image" if count == 1 else f"{count} numbers per image"
    elif images.label_kind == SINGLE:
        labels = f"{count} classes"
    else:
        labels = f"{images.labels.sum(axis=1).mean():.1f} of {count} classes per image"
    note = (
        f"data: {len(images):,} training and {len(valid.images):,} validation images, {labels},"
        f" {'×'.join(map(str, sides))}, {where_note(train, valid)}"
    )
    if pipeline.size not in (None, sides):
        note += f"; training images become {'×'.join(map(str, pipeline.size or ()))}"
    if repeated := images.num_repeated + valid.images.num_repeated:
        note += f"; lines that repeat another: {repeated:,}"
    if relabelled := images.num_relabelled + valid.images.num_relabelled:
        note += f"; with another class by {data.relabel}: {relabelled:,}"
    if odd := odd_note(odd_of(train, valid)):
        note += f"; {odd}"
    if data.reduced_decode:
        note += "; training JPEGs are decoded smaller where the crop allows it"
    if pipeline.alpha == "white":
        note += "; transparent images are put on white"
    return note
