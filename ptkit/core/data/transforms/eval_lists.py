"""What evaluation makes of a training list: what is not random stays, what is random goes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptkit.core.data.images import Pixels
from ptkit.core.data.transforms.catalogue import (
    build_transform,
    inner_calls,
    is_mix,
    spec_named,
    specs_in,
)
from ptkit.core.data.transforms.foreign import code_of, seed_for
from ptkit.core.data.transforms.generators import all_kept, next_draws
from ptkit.core.data.transforms.pipeline import apply_steps
from ptkit.core.data.transforms.plan import Step, channels_of, sizes_of, steps_of
from ptkit.core.parts.calls import Call, parse

# A step that changes one image in ten keeps one as it is in 64 states once in a thousand times.
_NUM_STATES = 64
# Of a step that draws from no generator that is known. It may draw from the machine: one that
# changes every other image gives the same eight times once in 128 times.
_NUM_STATES_UNSEEN = 8


def evaluation_of(calls: Sequence[Call], images: Sequence[Pixels] = ()) -> tuple[Call, ...]:
    """Return the list for evaluation that goes with a training list, both complete.

    Steps that are not random stay in their places. Random ones go; in the place of a crop is what
    its row says. A container stays as what it does in any case.
    images: decoded, uint8 (H, W, 3); a user's own steps are tried on them. A list without such
        steps needs none.

    Raises:
        UsageError: a user's step that cannot be applied to the images.
    """
    return without_randomness(calls, images)[0]


def without_randomness(
    calls: Sequence[Call], images: Sequence[Pixels]
) -> tuple[tuple[Call, ...], bool]:
    """Return what `evaluation_of` does, and whether anything in the list is random."""
    return _after((), calls, images)


def has_own_code(calls: Sequence[Call]) -> bool:
    """Say whether a list names steps of the user's own, which must be tried."""
    return any(spec.is_own for call in calls for spec in specs_in(call))


# The calls in the place of others, and whether those are random.
_Found = tuple[tuple[Call, ...], bool]


def _after(before: tuple[Call, ...], calls: Sequence[Call], images: Sequence[Pixels]) -> _Found:
    """Return what evaluation makes of a list after those calls."""
    done, is_random = before, False
    for call in calls:
        found, is_random_step = _in_place_of(call, done, images)
        done, is_random = done + found, is_random or is_random_step
    return done[len(before) :], is_random


def _in_place_of(call: Call, before: tuple[Call, ...], images: Sequence[Pixels]) -> _Found:
    spec = spec_named(call)
    if is_mix(call):
        return (), True
    if spec.draws == 0:
        return (call,), False
    transform = build_transform(call)
    if spec.courses is not None:
        inner = [parse(one) if isinstance(one, str) else one for one in inner_calls(call)]
        found = [_after(before, course, images) for course in spec.courses(transform, inner)]
        courses = [course for course, _ in found]
        if all(course == courses[0] for course in courses):
            return courses[0], any(is_random for _, is_random in found)
        # Of crops to one size any will do: training saw images of that size alone.
        return courses[0] if _resize_alike(before, courses) else (), True
    *earlier, step = steps_of([*before, call])
    if spec.is_certain(transform) or (spec.is_own and _is_always_alike(step, earlier, images)):
        return (call,), False
    size = sizes_of(earlier, channels_of(earlier))[-1]
    return spec.in_evaluation(transform, size), not spec.changes_nothing(transform, size)


def _resize_alike(before: tuple[Call, ...], courses: Sequence[tuple[Call, ...]]) -> bool:
    """Say whether all courses change the size of images, to the same one."""
    size, *after = (_size_after((*before, *course)) for course in [(), *courses])
    return size not in after and None not in after and len(set(after)) == 1


def _size_after(calls: Sequence[Call]) -> Any:
    steps = steps_of(calls)
    return sizes_of(steps, channels_of(steps))[-1]


def _is_always_alike(step: Step, earlier: Sequence[Step], images: Sequence[Pixels]) -> bool:
    """Say whether a step gives of one image the same pixels in any state of all generators."""
    assert images, f"no image to try {step.call.name} on"
    # Nobody's own draws may change because a step was tried.
    with all_kept([code_of(one.transform) for one in (*earlier, step)]):
        # Other states for each image: a step that changes few images would pass one set by luck.
        return all(
            _is_alike_on(pixels, step, earlier, before=number * _NUM_STATES)
            for number, pixels in enumerate(images)
        )


def _is_alike_on(pixels: Pixels, step: Step, earlier: Sequence[Step], *, before: int) -> bool:
    """Say whether a step gives the same of one image in several states after so many others."""
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    image = apply_steps(earlier, image, np.zeros(step.columns.stop))
    first, has_drawn = _tried(step, image, before)
    count = _NUM_STATES if has_drawn else _NUM_STATES_UNSEEN
    states = range(before + 1, before + count)
    return all(_are_alike(_tried(step, image, state)[0], first) for state in states)


def _tried(step: Step, image: Any, state: int) -> tuple[Any, bool]:
    """Return what a step makes of an image in a state of the generators, and whether it drew."""
    code, draws = code_of(step.transform), np.zeros(step.columns.stop)
    # Multiples of the golden ratio: numbers that share no bits, as the draws of images.
    draws[-1] = state * 0.6180339887498949 % 1
    # A copy: the step may write into its image.
    copy = image.clone() if isinstance(image, Tensor) else image.copy()
    result = apply_steps([step], copy, draws)
    drawn = next_draws(code)
    seed_for(step.transform, draws[-1:])
    return result, next_draws(code) != drawn


def _are_alike(one: Any, other: Any) -> bool:
    # A PIL image is an array too.
    a, b = np.asarray(one), np.asarray(other)
    return type(one) is type(other) and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
