"""Where in an image a network looked when it decided: any model, by hooks.

Grad-CAM: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via
Gradient-based Localization".
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptkit.core.errors import UsageError
from ptkit.core.models.hooks import evaluating, hooked, trace_layers

# So many of the last layers are tried for one whose gradient is not zero everywhere.
_NUM_CANDIDATES = 40


def gradcam(
    model: nn.Module,
    images: Tensor,
    classes: Sequence[int],
    layer: str | None = None,
    *,
    sign: float = 1.0,
) -> npt.NDArray[np.float32]:
    """Return for each image where a layer's maps speak for a class: float32 (n, H, W), 0..1.

    images: (n, C, H, W). classes: the column of the outputs to explain, one an image. layer: a
    module's name; by default that of `explained_layer`. sign: -1 where low outputs win.
    The maps are weighted by the mean of their gradients and added, what is negative is cut off
    (section 3, equations 1 and 2), and the sum is enlarged to the image and divided by its largest
    value; without any it stays 0.
    The model runs in evaluation mode; its modes and gradients are as before afterwards.

    Raises:
        UsageError: no such layer, or none whose output is a map.
    """
    _, maps, slopes = _explained(model, images, classes, layer=layer, sign=sign)
    weighted = slopes.mean(dim=(2, 3), keepdim=True) * maps
    heat = weighted.sum(dim=1, keepdim=True).relu().nan_to_num()
    heat = F.interpolate(heat, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    largest = heat.amax(dim=(1, 2), keepdim=True)
    return (heat / torch.where(largest > 0, largest, 1)).cpu().numpy()


def explained_layer(
    model: nn.Module, images: Tensor, classes: Sequence[int], *, sign: float = 1.0
) -> str:
    """Return the last layer that gives maps on which the outputs depend.

    Not always the last with maps: of a transformer's last block only the class token is read, its
    patches do not matter.

    Raises:
        UsageError: no layer gives maps.
    """
    return _explained(model, images, classes, layer=None, sign=sign)[0]


def top_region(heat: np.ndarray, *, fraction: float = 0.5) -> tuple[int, int, int, int] | None:
    """Return the box (x1, y1, x2, y2), ends exclusive, of the largest region above a share of the
    highest heat.

    heat: (H, W), 0..1. The region is connected, corners included; None where the heat is 0
    everywhere.
    """
    import cv2

    if not heat.max() > 0:
        return None
    hot = (heat >= fraction * heat.max()).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(hot, connectivity=8)
    # The first component is what is not hot.
    x, y, width, height, _ = stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))].tolist()
    return x, y, x + width, y + height


def _explained(
    model: nn.Module, images: Tensor, classes: Sequence[int], *, layer: str | None, sign: float
) -> tuple[str, Tensor, Tensor]:
    """Return the layer, its maps (n, C, h, w) and the gradient of the classes' outputs on them."""
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        raise UsageError(
            f"{type(model).__name__} has no layer {layer}; `ptkit viz-featuremaps --list` shows all"
        )
    layouts = {traced.name: traced.layout for traced in trace_layers(model, images)}
    kept: dict[str, Tensor] = {}

    # The hook of every watched module.
    def keep(name: str, _inputs: object, output: object) -> Tensor | None:
        # Of a module that runs several times the last output counts, in that place.
        kept.pop(name, None)
        if not isinstance(output, Tensor) or name not in layouts:
            return None
        kept[name] = output
        # The model continues with a copy: an in-place ReLU would overwrite what was kept, and its
        # gradient.
        return output.clone()

    names = [layer] if layer is not None else [name for name in modules if name]
    with (
        hooked(model, names, keep),
        evaluating(model, keeps_random_state=True),
        _with_gradients(model),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        # The input asks for gradients, so that a model frozen as a whole has them too; a copy of it
        # may be changed in place.
        outputs = model(images.detach().clone().requires_grad_().clone())
        found = [
            name
            for name, output in kept.items()
            if output.requires_grad
            and len(output) == len(images)
            and _is_map(layouts[name].maps(output))
        ]
        if not found:
            raise UsageError(_no_map(model, layer))
        found = found[-_NUM_CANDIDATES:]
        columns = torch.as_tensor(list(classes), device=outputs.device)
        score = sign * outputs.flatten(1).gather(1, columns[:, None]).sum()
        gradients = torch.autograd.grad(
            score, [kept[name] for name in found], allow_unused=True, materialize_grads=True
        )
    slopes = dict(zip(found, gradients, strict=True))
    # Where nothing at all matters, as with a head of zeros, the last one is as good as any.
    # Of tokens only those on the grid count: a class token has no place.
    chosen = next((n for n in reversed(found) if layouts[n].maps(slopes[n]).any()), found[-1])
    maps = layouts[chosen].maps
    return chosen, maps(kept[chosen]).detach().float(), maps(slopes[chosen]).float()


def _with_gradients(model: nn.Module) -> AbstractContextManager[None]:
    """Return the context in which a model in evaluation mode has gradients."""
    # cuDNN refuses those of recurrent layers outside training.
    is_recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    return torch.backends.cudnn.flags(enabled=False) if is_recurrent else nullcontext()


def _is_map(maps: Tensor) -> bool:
    return maps.ndim == 4 and maps.shape[2] * maps.shape[3] > 1


def _no_map(model: nn.Module, layer: str | None) -> str:
    if layer is not None:
        return (
            f"{layer} gives no maps, or the outputs do not depend on it: Grad-CAM needs a layer"
            " with height and width"
        )
    return (
        f"{type(model).__name__} has no layer with maps on which its outputs depend, so there is no"
        " Grad-CAM of it"
    )
