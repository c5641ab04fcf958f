"""All transforms that a user can name: their rows, looked up by name or by class; and the
containers of other transforms, which look rows up themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, permutations
from typing import Any

import numpy as np
from torch import Tensor, where
from torchvision.transforms import v2

from ptkit.core.data.transforms import (
    color,
    conversions,
    crops,
    erasing,
    flips,
    foreign,
    geometry,
    mixing,
    padding,
    rotation,
    whitening,
)
from ptkit.core.data.transforms.spec import Draws, Form, Size, Spec
from ptkit.core.device import sent
from ptkit.core.parts.argument_rules import AT_LEAST_0, SHARE, Allowed, list_of
from ptkit.core.parts.calls import Call, parse
from ptkit.core.parts.catalogue import Catalogue

# Images of more bytes go through an inner transform one by one.
_LARGE = 1 << 16
# Of so many transforms there are 120 orders, and of one more 720.
_MANY = 5


def spec_of(transform: Any) -> Spec:
    """Return the row of a transform; what is not in the catalogue is a user's own."""
    # The exact class: a subclass of the user's may draw and compute as it likes.
    return BY_CLASS.get(type(transform), foreign.USERS_OWN)


def spec_named(call: Call) -> Spec:
    """Return the row that a call names; also an unknown name counts as a user's own."""
    # With a prefix the name is one in the user's file, even if we have it too.
    return BY_NAME.get("" if call.prefix else call.name, foreign.USERS_OWN)


def num_draws(transform: Any) -> int:
    """Return how many uniform numbers a transform takes for one image."""
    draws = spec_of(transform).draws
    return draws if isinstance(draws, int) else draws(transform)


def is_foreign(transform: Any) -> bool:
    """Say whether the transform, or one inside it, draws from global generators: it must run in a
    worker process.
    """
    spec = spec_of(transform)
    return spec.is_foreign or (spec.is_container and any(map(is_foreign, transform.transforms)))


def has_form(transform: Any, size: Size | None, form: str) -> bool:
    """Say whether a transform can run on whole batches of images of a size (None: any).

    form: "batch", "device" or "floats", as `Spec` has them.
    """
    spec = spec_of(transform)
    return getattr(spec, form) is not None and spec.can_batch(transform, size, form)


def is_mix(call: Call) -> bool:
    """Say whether a call mixes whole batches: MixUp, CutMix, or RandomChoice of them."""
    if call.prefix or call.name != "RandomChoice":
        return spec_named(call).mixes
    given = call.argument(0, "transforms")
    return (
        isinstance(given, list)
        and bool(given)
        and all(isinstance(inner, Call) and spec_named(inner).mixes for inner in given)
    )


def build_transform(call: Call) -> Any:
    """Return the transform that a call names; files that it names are read.

    Raises:
        UsageError: unknown name or argument, or numbers that would fail on the first image.
        DataError: a file that cannot be read.
    """
    return TRANSFORMS.build(resolved(call, tensors={}, may_read=True))


def resolved(call: Call, *, tensors: dict[str, Tensor], may_read: bool) -> Call:
    """Return a call with the texts in it replaced by what they mean; nothing is imported.

    In the list of a container, text is a call: `RandomApply(["augment.py:Blur(3)"])`. In
    LinearTransformation it is the name of a file, looked up in `tensors`; if it may be read it is,
    and put there.

    Raises:
        UsageError: text that is not a call.
        DataError: a file that cannot be read. CheckpointError: one that may not be read and is not
            in `tensors`.
    """
    is_container = spec_named(call).is_container

    def value_of(key: str | int, value: Any) -> Any:
        if is_container and key in (0, "transforms") and isinstance(value, list | tuple):
            inner = (parse(item) if isinstance(item, str) else item for item in value)
            return type(value)(
                resolved(one, tensors=tensors, may_read=may_read) if isinstance(one, Call) else one
                for one in inner
            )
        is_file = isinstance(value, str) and key in (0, "transformation_matrix")
        if is_file and call.name == "LinearTransformation":
            if may_read and value not in tensors:
                tensors[value] = whitening.read_whitening(value)
            return whitening.held_whitening(tensors, value)
        return value

    # Only the user's own class knows what text in its arguments means.
    if call.prefix:
        return call
    return replace(
        call,
        args=tuple(value_of(place, value) for place, value in enumerate(call.args)),
        kwargs={key: value_of(key, value) for key, value in call.kwargs.items()},
    )


def inner_calls(call: Call) -> Sequence[Call | str]:
    """Return the calls in the list of a container; nothing for other calls."""
    given = call.argument(0, "transforms") if spec_named(call).is_container else ()
    listed = given if isinstance(given, list | tuple) else ()
    return [inner for inner in listed if isinstance(inner, Call | str)]


def specs_in(call: Call) -> Iterator[Spec]:
    """Yield the rows of a call and of those inside it."""
    yield spec_named(call)
    for inner in inner_calls(call):
        # A user's own transform in a container may be text.
        yield from specs_in(parse(inner) if isinstance(inner, str) else inner)


# --------------------------------------------------------------------------------------- containers


def _random_apply(t: v2.RandomApply, image: Any, draws: Draws) -> Any:
    if draws[0] < t.p:
        for inner, own in zip(t.transforms, _shares(t.transforms, draws[1:]), strict=True):
            image = spec_of(inner).apply(inner, image, own)
    return image


def _random_apply_batch(t: v2.RandomApply, images: Any, draws: Any) -> Any:
    for inner, own in zip(t.transforms, _shares(t.transforms, draws[:, 1:]), strict=True):
        images = _on_some(inner, images, draws[:, 0] < t.p, own)
    return images


def _random_choice(t: v2.RandomChoice, image: Tensor, draws: Draws) -> Any:
    k = int(_chosen(t, draws[0]))
    inner = t.transforms[k]
    return spec_of(inner).apply(inner, image, _shares(t.transforms, draws[1:])[k])


def _random_choice_batch(t: v2.RandomChoice, images: Any, draws: Any) -> Any:
    choices, shares = _chosen(t, draws[:, 0]), _shares(t.transforms, draws[:, 1:])
    for k, inner in enumerate(t.transforms):
        images = _on_some(inner, images, choices == k, shares[k])
    return images


def _random_order(t: v2.RandomOrder, image: Tensor, draws: Draws) -> Tensor:
    count = len(t.transforms)
    shares = _shares(t.transforms, draws[count:])
    # Stable, here and for batches: where draws are equal, numpy and torch must agree.
    for k in np.argsort(draws[:count], kind="stable"):
        image = spec_of(t.transforms[k]).apply(t.transforms[k], image, shares[k])
    return image


def _random_order_batch(t: v2.RandomOrder, images: Any, draws: Any) -> Any:
    count = len(t.transforms)
    shares = _shares(t.transforms, draws[:, count:])
    # numpy 1 has no `stable`.
    how: Any = {"stable": True} if isinstance(draws, Tensor) else {"kind": "stable"}
    order = draws[:, :count].argsort(**how)
    # Place by place: each time every image goes through the transform that it has there.
    for place in range(count):
        for k, inner in enumerate(t.transforms):
            images = _on_some(inner, images, order[:, place] == k, shares[k])
    return images


def _chosen(t: v2.RandomChoice, draws: Any) -> Any:
    """Return which transform each draw means, for a number, an array or a tensor: how many limits
    it has passed.
    """
    # Not the last limit: rounded below 1, it would give a draw above it no transform.
    # With a single transform there is no limit, and draws * 0 gives the sum its shape.
    return sum((draws >= limit for limit in np.cumsum(t.p)[:-1].tolist()), draws * 0)


def _shares(transforms: Sequence[Any], draws: Any) -> list[Any]:
    """Return each transform's own columns of the draws, (k,) or (n, k), an array or a tensor."""
    # Fixed columns, applied or not: the draws of one never depend on the turn of another.
    counts = list(map(num_draws, transforms))
    return [draws[..., end - n : end] for n, end in zip(counts, accumulate(counts), strict=True)]


def _on_some(inner: Any, images: Any, is_chosen: Any, draws: Any) -> Any:
    """Apply a transform to some images of a batch: pixels on the CPU, pixels on the device, or
    floats.
    """
    spec = spec_of(inner)
    is_tensor = isinstance(images, Tensor)
    if is_tensor and not images.dtype.is_floating_point:
        assert spec.device is not None
        # All images and a mask: taking some out would wait for the device.
        return where(is_chosen[:, None, None, None], spec.device(inner, images, draws), images)
    form = spec.floats if is_tensor else spec.batch
    assert form is not None
    chosen = np.flatnonzero(is_chosen)
    # All of them: no copy to take them out and put them back.
    if len(chosen) == len(images):
        return form(inner, images, draws)
    # Large images one by one in place: copies of some of them would not stay in a core's
    # cache.
    if not is_tensor and images[0].nbytes > _LARGE:
        for one in (slice(k, k + 1) for k in chosen.tolist()):
            changed = form(inner, images[one], draws[one])
            # Some forms write into what they get, others return new memory.
            if not np.may_share_memory(changed, images):
                images[one] = changed
    elif len(chosen):
        index = sent(chosen, images.device) if is_tensor else chosen
        images[index] = form(inner, images[index], draws[chosen])
    return images


def _can_batch_all(t: Any, size: Size | None, form: str) -> bool:
    # Some images of a batch go through an inner transform and others do not: all must keep their
    # size.
    return all(has_form(i, size, form) and spec_of(i).size(i, size) == size for i in t.transforms)


def _contained_size(t: Any, size: Size | None) -> Size | None:
    """Return the size if no inner transform can change it."""
    sizes = {spec_of(inner).size(inner, size) for inner in t.transforms}
    return size if sizes == {size} else None


def _courses(t: Any, parts: Sequence[Any]) -> Sequence[Sequence[Any]]:
    match t:
        case v2.RandomApply():
            return [*([parts] if t.p > 0 else []), *([()] if t.p < 1 else [])]
        case v2.RandomChoice():
            return [(part,) for part, p in zip(parts, t.p, strict=True) if p > 0]
    if len(parts) > _MANY:
        # Where each alone does nothing, all do nothing in any order.
        return [(), *((part,) for part in parts)]
    return list(permutations(parts))


def _container(
    target: type, summary: str, forms: tuple[Form, Form], p: Allowed = SHARE, **more: Any
) -> Spec:
    """Return a container's row; forms: for one image, and for batches of every sort."""
    apply, apply_to_batch = forms
    return Spec(
        target,
        summary,
        arguments={"transforms": _LIST, "p": p},
        # RandomOrder draws a place for each transform, the others one number for all.
        draws=lambda t: (
            (len(t.transforms) if target is v2.RandomOrder else 1)
            + sum(map(num_draws, t.transforms))
        ),
        apply=apply,
        batch=apply_to_batch,
        device=apply_to_batch,
        floats=apply_to_batch,
        can_batch=_can_batch_all,
        size=_contained_size,
        courses=_courses,
        **more,
    )


_LIST = Allowed(
    "a list of transforms, such as [RandomCrop(32, padding=4)]",
    lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(callable, value)),
)
_CONTAINERS = (
    _container(
        v2.RandomChoice,
        "one of a list of transforms",
        (_random_choice, _random_choice_batch),
        p=list_of(AT_LEAST_0, has_sum=True),
        example="[RandomRotation(10), ColorJitter(0.4)]",
    ),
    _container(
        v2.RandomApply,
        "a list of transforms, with probability p",
        (_random_apply, _random_apply_batch),
        example="[ColorJitter(0.4)], p=0.3",
    ),
    _container(
        v2.RandomOrder,
        "a list of transforms in random order",
        (_random_order, _random_order_batch),
        example="[RandomRotation(10), ColorJitter(0.4)]",
    ),
)
# The order of `ptkit list transforms`.
_MODULES = (crops, geometry, padding, flips, rotation, conversions, whitening, color, erasing)
_SPECS: tuple[Spec, ...] = (
    *(spec for module in _MODULES for spec in module.SPECS),
    *_CONTAINERS,
    *foreign.SPECS,
    *mixing.SPECS,
)
BY_NAME = {spec.name: spec for spec in _SPECS}
BY_CLASS: dict[Any, Spec] = {spec.target: spec for spec in _SPECS}
TRANSFORMS = Catalogue(
    "transform",
    BY_NAME,
    symbols={
        "InterpolationMode": "torchvision.transforms:InterpolationMode",
        "AutoAugmentPolicy": "torchvision.transforms:AutoAugmentPolicy",
    },
)
