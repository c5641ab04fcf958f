"""The lists of a run: the ready ones, and any list completed to what the model gets."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ptkit.core.data.transforms.catalogue import build_transform, is_mix, spec_named, specs_in
from ptkit.core.data.transforms.spec import NORMALISED, UINT8, Spec
from ptkit.core.errors import UsageError
from ptkit.core.parts.calls import Call, Symbol, parse, parse_all
from ptkit.core.sizes import is_small

_BILINEAR = Symbol("InterpolationMode", "BILINEAR")
# The fits that show the whole image.
WHOLE = ("pad", "stretch")
# One number for all channels, or one a channel.
MeanAndStd = tuple[tuple[float, ...], tuple[float, ...]]
# Mean, std, and where they come from.
Statistics = tuple[tuple[float, ...], tuple[float, ...], str]


def training_calls(
    transforms: Sequence[str], augment: str, size: int, fit: str = "auto"
) -> tuple[Call, ...]:
    """Return the list that a run trains with, not yet completed: the user's own or a ready one.

    Raises:
        UsageError: both are asked for, or text that is not a call.
    """
    if transforms and augment not in ("auto", "none"):
        raise UsageError(
            "data.transforms (--transform) replaces the ready list: leave --augment out"
            f" (data.augment is {augment})"
        )
    return parse_all(transforms) or default_transforms(augment, size, fit)


def default_transforms(augment: str, size: int, fit: str = "auto") -> tuple[Call, ...]:
    """Return the ready list of calls `none`, `safe` or `natural` for images of `size` pixels.

    `auto` is `safe` up to 64 pixels, `natural` above. fit: where the image is seen whole, its scale
    stays what evaluation sees.
    """
    name = ("safe" if is_small(size) else "natural") if augment == "auto" else augment
    shift = f"RandomCrop({size}, padding={max(size // 8, 1)})"
    ready: dict[str, tuple[str, ...]] = {
        "none": (),
        # Flips hurt digits and letters; a shift by an eighth never changes what an image shows.
        "safe": (shift,),
        "natural": (
            shift if fit in WHOLE else f"RandomResizedCrop({size})",
            "RandomHorizontalFlip()",
            "ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2)",
        ),
    }
    return parse_all(ready[name])


def own_statistics(
    calls: Sequence[Call], mean: Sequence[float], std: Sequence[float]
) -> Statistics | None:
    """Return mean and std where the list itself decides them; None where it leaves them to the run.

    They are those of its Normalize; with LinearTransformation 0 and 1, which change nothing.
    mean, std: what the settings say beside it, () for nothing.

    Raises:
        UsageError: the settings and the list contradict each other, or are incomplete.
    """
    if len(mean) != len(std) or len(mean) not in (0, 1, 3):
        raise UsageError("mean and std go together, three numbers each, or one for grey images")
    named = {call.name: call for call in calls if not call.prefix}
    if normalize := named.get("Normalize"):
        own = mean_and_std_of(normalize)
        # The config.toml of such a run has both.
        # Nearly: `own` went through float32, which changes the last digits.
        if mean and not np.allclose((mean, std), own):
            raise normalize.error("the statistics are given twice: here and as mean and std")
        return *own, "the transforms' own Normalize"
    if whitening := named.get("LinearTransformation"):
        # Whitened values are normalised already; the config.toml of such a run has a mean of 0.
        if any(mean):
            raise whitening.error("whitened images are not normalised: leave mean and std out")
        return (0.0,), (1.0,), "LinearTransformation instead of statistics"
    return None


def mean_and_std_of(normalize: Call) -> MeanAndStd:
    """Return what a Normalize subtracts and divides by, a number for all channels or for each."""
    built = build_transform(normalize)
    mean, std = torch.broadcast_tensors(
        *(torch.as_tensor(values).flatten() for values in (built.mean, built.std))
    )
    return tuple(map(float, mean)), tuple(map(float, std))


def evaluation_geometry(size: int, fit: str = "auto") -> tuple[Call, ...]:
    """Return the calls that bring an image to size × size.

    fit: `crop` is the central 7/8 of the shorter side, `stretch` squeezes, `pad` adds a border;
    `auto` is `stretch` up to 64 pixels, where a crop would lose what is at the edge, `crop` above.
    """
    if fit == "auto":
        fit = "stretch" if is_small(size) else "crop"
    squeezed = f"Resize(({size}, {size}))"
    ways = {
        # At 224 these are Resize(256) and CenterCrop(224), the usual evaluation on ImageNet.
        "crop": [f"Resize({round(size * 8 / 7)})", f"CenterCrop({size})"],
        # Black, as what a shift lets in. Of frozen features grey and mean colour are no better.
        "pad": ["PadToSquare()", squeezed],
        "stretch": [squeezed],
    }
    return parse_all(ways[fit])


# What the user types, then the setting.
_NAMES = {"transforms": "--transform (data.transforms)", "eval_transforms": "data.eval_transforms"}


def check_fit(fit: str, **lists: Sequence[str]) -> None:
    """Refuse a way to make images square beside a list of the user's that makes them so itself.

    lists: what the setting is called, and its texts.

    Raises:
        UsageError: there is such a list.
    """
    for name, texts in lists.items() if fit != "auto" else ():
        if call := next(filter(_is_of_own_size, parse_all(texts)), None):
            raise call.error(
                f"--fit {fit} (data.fit) has no effect beside {_NAMES.get(name, name)} with its own"
                f" {call.name}: leave one out"
            )


def resizes(*lists: Sequence[str]) -> bool:
    """Say whether one of the user's lists makes images square itself."""
    return any(_is_of_own_size(call) for texts in lists for call in parse_all(texts))


def _is_of_own_size(call: Call) -> bool:
    # A list that names Normalize is used as it is.
    return spec_named(call).resizes or (not call.prefix and call.name == "Normalize")


def fit_of(pipeline: Sequence[str], size: int) -> str:
    """Return the fit with which a pipeline for `size` pixels begins; `auto` where it is the usual
    one, or none.
    """
    calls, usual = parse_all(pipeline), evaluation_geometry(size)
    for fit in ("crop", *WHOLE):
        geometry = evaluation_geometry(size, fit)
        if geometry != usual and calls[: len(geometry)] == geometry:
            return fit
    return "auto"


def own_geometry(pipeline: Sequence[str], size: int) -> tuple[str, ...]:
    """Return the Resize and CenterCrop with which the pipeline of some weights begins; () where it
    begins with anything else, or as evaluation does anyway.
    """
    calls = parse_all(pipeline)
    names = [call.name for call in calls]
    count = names.index("ToTensor") if "ToTensor" in names else 0
    # Bilinear is the default, written out or not.
    found = tuple(
        replace(call, args=call.args[:1]) if call.args[1:] == (_BILINEAR,) else call
        for call in calls[:count]
    )
    is_known = {"Resize", "CenterCrop"}.issuperset(names[:count])
    return tuple(map(str, found)) if is_known and found != evaluation_geometry(size) else ()


def complete(
    calls: Sequence[Call],
    *,
    size: int,
    fit: str = "auto",
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> tuple[Call, ...]:
    """Return `calls` between an automatic Resize and an automatic ToTensor and Normalize.

    fit: see `evaluation_geometry`. mean, std: () while they are not known, for a list that lacks
    only its Normalize.
    A list that names Normalize is returned as it is. A list that resizes by itself gets no Resize;
    one that crops gets the shorter side resized, with room for the crop above 64 pixels. Transforms
    that need float tensors get ToTensor before them, one that whitens no Normalize. MixUp and
    CutMix go to the end.

    Raises:
        UsageError: ToPILImage at the end.
    """
    names = [call.name for call in calls if not call.prefix]
    if calls and not calls[-1].prefix and calls[-1].name == "ToPILImage":
        raise calls[-1].error("ToPILImage at the end: nothing that takes a PIL image follows it")
    if "Normalize" in names:
        return tuple(calls)
    mixes = [call for call in calls if is_mix(call)]
    listed = [call for call in calls if not is_mix(call)]
    is_left_out = "LinearTransformation" in names or not mean
    start = next((k for k, call in enumerate(listed) if _needs_floats(call)), len(listed))
    return (
        *_automatic_geometry([spec_named(call) for call in calls], size, fit),
        *listed[:start],
        *(() if "ToTensor" in names else (Call("ToTensor"),)),
        *listed[start:],
        *(() if is_left_out else (_normalize(mean, std),)),
        *mixes,
    )


def mirrors(calls: Sequence[Call]) -> bool:
    """Say whether a list may mirror images left to right; a user's own transforms may."""
    return any(spec.mirrors for call in calls for spec in specs_in(call))


def _needs_floats(call: Call) -> bool:
    # A Normalize inside a container is refused where the order is checked.
    return any(UINT8 in spec.refuses and spec.gives != NORMALISED for spec in specs_in(call))


def _automatic_geometry(specs: Sequence[Spec], size: int, fit: str) -> tuple[Call, ...]:
    """Return what brings images to their size in front of a list of such transforms."""
    if any(spec.resizes for spec in specs):
        return ()
    geometry = evaluation_geometry(size, fit)
    # A list that crops needs no CenterCrop: its own crop gives the size.
    is_cut = any(spec.is_crop for spec in specs)
    return tuple(call for call in geometry if not (is_cut and call.name == "CenterCrop"))


def _normalize(*mean_and_std: Sequence[float]) -> Call:
    # Six digits are plenty for pixels of eight bits, and calls stay readable.
    mean, std = (", ".join(f"{value:.6g}" for value in values) for values in mean_and_std)
    return parse(f"Normalize(mean=[{mean}], std=[{std}])")
