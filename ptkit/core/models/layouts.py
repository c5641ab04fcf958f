"""Where a layer's output has its channels, its height and its width.

The modules say it, and the data that flows between them: numbers alone cannot, as channels, height
and width may be alike.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torchvision.ops import Permute

# (height, width)
Grid = tuple[int, int]

# Every module of these takes and gives (n, C, ...).
_CHANNELS_FIRST = {
    f"torch.nn.modules.{name}"
    for name in [
        "conv",
        "pooling",
        "batchnorm",
        "instancenorm",
        "padding",
        "upsampling",
        "pixelshuffle",
    ]
}


@dataclass(frozen=True)
class Layout:
    """How an output (n, ...) becomes maps.

    axis: of the channels. grid: the places of tokens, (n, T, C) or (n, C, T); None where
    there are none. num_skipped: tokens before those, such as a class token.
    """

    axis: int = 1
    grid: Grid | None = None
    num_skipped: int = 0

    def maps(self, output: Tensor) -> Tensor:
        """Return maps, and tokens on a grid, as (n, C, H, W); anything else as it is."""
        if output.ndim == 4:
            return output.movedim(self.axis, 1)
        if output.ndim == 3 and self.grid is not None:
            tokens = output.movedim(self.axis, 1)
            maps: Tensor = tokens[:, :, self.num_skipped :].unflatten(2, self.grid)
            return maps
        return output

    def drawn(self, output: Tensor) -> Tensor:
        """Return (n, C, H, W) of any output; tokens without a grid are a strip, vectors one
        pixel.
        """
        maps = self.maps(output)
        if maps.ndim == 3:
            return maps.movedim(self.axis, 1).unsqueeze(2)
        return maps if maps.ndim == 4 else maps.reshape(len(maps), -1, 1, 1)


@dataclass
class _Seen:
    """An output on its way: its shape without n, the axis of its channels, counted with n, whether
    a module stated that, and the tensor while it lives.
    """

    shape: tuple[int, ...]
    axis: int
    is_stated: bool
    tensor: "weakref.ref[Tensor] | None" = None

    @property
    def num_channels(self) -> int:
        return self.shape[self.axis - 1]

    @property
    def grid(self) -> Grid | None:
        places = [side for k, side in enumerate(self.shape, 1) if k != self.axis]
        return (places[0], places[1]) if len(places) == 2 else None


@dataclass
class Flow:
    """A pass through a model, followed from output to output.

    image: channels, height and width of the input.
    """

    image: tuple[int, int, int]
    _seen: list[_Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._seen.append(_Seen(self.image, 1, is_stated=True))

    def note(self, module: nn.Module, inputs: Sequence[object], output: Tensor) -> int:
        """Take the output (n, ...) of a module that ended; return its number, for `layout`."""
        shape, stated = tuple(output.shape[1:]), _stated_axis(module, output.ndim)
        given = inputs[0] if inputs else None
        if stated is not None and isinstance(given, Tensor):
            self._hear(given, _stated_axis(module, given.ndim))
        if isinstance(module, Permute) and len(module.dims) == output.ndim:
            stated = list(module.dims).index(self._latest(output.ndim).axis)
        axis = self._followed(shape) if stated is None else stated
        self._seen.append(_Seen(shape, axis, stated is not None, weakref.ref(output)))
        return len(self._seen) - 1

    def layout(self, number: int) -> Layout:
        """Return the layout of an output, once the pass has ended."""
        seen = self._seen[number]
        if len(seen.shape) != 2:
            return Layout(seen.axis)
        num_tokens = seen.shape[2 - seen.axis]
        for grid in (
            *(before.grid for before in self._seen[number::-1]),
            self._patches(num_tokens),
        ):
            for num_skipped in (0, 1):
                if grid and 1 < grid[0] * grid[1] == num_tokens - num_skipped:
                    return Layout(seen.axis, grid, num_skipped)
        return Layout(seen.axis)

    def _hear(self, given: Tensor, axis: int | None) -> None:
        """Let a module say how it reads what it got, where the one that made it could not."""
        for seen in self._seen:
            if not seen.is_stated and seen.tensor is not None and seen.tensor() is given:
                seen.axis = axis if axis is not None else seen.axis

    def _latest(self, ndim: int) -> _Seen:
        """Return the output before, with so many dimensions where there is one."""
        same = (seen for seen in reversed(self._seen) if len(seen.shape) == ndim - 1)
        return next(same, self._seen[-1])

    def _followed(self, shape: tuple[int, ...]) -> int:
        """Return the axis of a module that does not say it: an activation, a whole block, a user's
        own.
        """
        if len(shape) < 2:
            return 1
        for seen in reversed(self._seen):
            if seen.shape == shape:
                return seen.axis
        before, last = self._seen[-1], len(shape)
        turned = (*before.shape[1:], before.shape[0])
        if before.axis == 1 and shape == turned:
            return last
        # Tokens have their channels last, unless the number says otherwise.
        usual = before.axis if len(before.shape) == len(shape) > 2 else last
        axes = (usual, 1, last)
        return next((a for a in axes if shape[a - 1] == before.num_channels), usual)

    def _patches(self, num_tokens: int) -> Grid | None:
        """Return the grid of square patches, where images are cut into patches by no module."""
        _, height, width = self.image
        for count in (num_tokens, num_tokens - 1):
            side = round((height * width / max(count, 1)) ** 0.5)
            if side and height // side * (width // side) == count:
                return height // side, width // side
        return None


def _stated_axis(module: nn.Module, ndim: int) -> int | None:
    """Return the axis of the channels that the kind of a module tells; None where it tells none."""
    if ndim < 3:
        return None
    if isinstance(module, nn.GroupNorm | nn.LocalResponseNorm) or any(
        cls.__module__ in _CHANNELS_FIRST for cls in type(module).__mro__
    ):
        return 1
    # Not subclasses: a LayerNorm2d of torchvision or timm turns its maps before and after.
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and type(module).__module__.startswith(
        "torch."
    ):
        return ndim - 1 if len(module.normalized_shape) == 1 else None
    return ndim - 1 if isinstance(module, nn.Linear | nn.MultiheadAttention) else None
