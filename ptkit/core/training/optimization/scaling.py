"""Steps under fp16, whose range is so small that gradients are lost at its ends."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ptkit.core.device import choose_dtype
from ptkit.core.errors import DivergedError, UsageError
from ptkit.core.parts.calls import Call
from ptkit.core.training.optimization.optimizers import is_lbfgs

# After so many overflows the loss is not too large: its gradients are NaN or infinite.
_SMALLEST_SCALE = 2.0**-10


class LossScaler:
    """torch's GradScaler around a run's optimizer, of whatever kind that is.

    The loss is multiplied before backward and its gradients are divided before they are used; a
    step whose gradients overflowed is left out, and the next scale is half as large (Micikevicius
    et al. 2018, section 3.2). Not enabled, it does nothing.

    model: on its device. The gradients of its parameters are scaled, not those of the copies that
    an optimizer may step.
    """

    def __init__(self, optimizer: Any, model: nn.Module, *, is_enabled: bool) -> None:
        self._optimizer, self._model = optimizer, model
        parameters = list(model.parameters())
        self._scaler = torch.amp.GradScaler(parameters[0].device.type, enabled=is_enabled)
        self._stepped = _Stepped(optimizer, parameters)

    def renewed(self) -> "LossScaler":
        """Return one that is at the beginning of a step, as this one may not be after an error."""
        return LossScaler(self._optimizer, self._model, is_enabled=self._scaler.is_enabled())

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss to call `backward` of."""
        return self._scaler.scale(loss)

    def unscale(self) -> None:
        """Divide the gradients, once all of a step are there; nothing waits for the device."""
        self._scaler.unscale_(self._stepped)  # type: ignore[arg-type]

    def step(self) -> None:
        """Step the optimizer, unless a gradient overflowed, and choose the next scale.

        Only fused optimizers leave that decision to the device; for others each step waits for it.
        """
        self._scaler.step(self._stepped)  # type: ignore[arg-type]
        self._scaler.update()

    def check(self) -> None:
        """Look whether the scale still helps, which waits for the device.

        Raises:
            DivergedError: the gradients are NaN or infinite, however small the loss.
        """
        if self._scaler.get_scale() < _SMALLEST_SCALE:
            raise DivergedError(
                "the gradients are NaN or infinite in fp16, however small the loss is scaled: try"
                " --precision fp32, or a lower --lr"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers; nothing where it is not enabled."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state; one of a run without scaling is ignored."""
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)


class _Stepped:
    """What GradScaler asks of an optimizer: the parameters with the gradients, and a step."""

    # Set by GradScaler while it calls `step` of an optimizer that supports scaling: a tensor, 1
    # where a gradient overflowed.
    found_inf: Tensor | None

    def __init__(self, optimizer: Any, parameters: Sequence[nn.Parameter]) -> None:
        self.param_groups = [{"params": parameters}]
        self._optimizer = optimizer
        self._num_begun = 0

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether the device decides if the step is left out; otherwise GradScaler waits for it."""
        # Fused kernels can. But torch's SGD keeps uninitialised memory as the momentum of a group
        # whose first step is left out that way (up to 2.15), so first steps are decided here.
        has_begun = self._num_begun == len(self._optimizer.param_groups)
        return has_begun and getattr(self._optimizer, "_step_supports_amp_scaling", False)

    def step(self) -> None:
        found = getattr(self, "found_inf", None)
        if found is None:
            self._optimizer.step()
        else:
            self._optimizer.found_inf = found
            self._optimizer.step()
            del self._optimizer.found_inf
        self._num_begun = len(self._optimizer.param_groups)


def dtype_for(call: Call, precision: str, device: torch.device) -> torch.dtype | None:
    """Return autocast's dtype for a run with the optimizer that a call names.

    Raises:
        UsageError: fp16 with LBFGS.
    """
    dtype = choose_dtype(precision, device)
    if dtype is not torch.float16 or not is_lbfgs(call):
        return dtype
    if precision == "auto":
        return None
    # A scaler cannot leave out the half of such a step.
    raise UsageError(
        "LBFGS computes the loss several times a step, which the scaling that fp16 needs does not"
        " allow: use --precision fp32 or bf16"
    )
