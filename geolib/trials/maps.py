"""A map z -> x, tried beside one point."""

import math

import torch
from torch import Tensor

from geolib import checks, jacobian
from geolib.jacobian import Map
from geolib.trials import probe

_MODES_APART = 0.03  # relative difference of forward and reverse mode, beyond which one of them lacks a part
_FLAT = 1e3  # times eps: derivatives in one unit of z, relative to the values, that say nothing


@torch.no_grad()
def try_map(name: str, function: Map, z: Tensor) -> tuple[Tensor, bool]:
    """Try what would go wrong later, at one point ``z (1, d)`` and beside it.

    Returns:
        ``function(z)``, and whether torch's forward mode has a rule for everything in it.

    Raises:
        ValueError: where the function fails, is not finite at z, is random, mixes the rows of a batch, does not depend
            on z, or passes a gradient that is not that of its values.
        TypeError: where it returns another dtype or device.
    """
    points = f"points of shape {tuple(z.shape)}, {z.dtype}, {z.device}"
    several = probe.neighbours(z)  # equal points would hide a map that mixes its rows
    direction = probe.directions(several)
    try:
        with torch.enable_grad():
            at = several.clone().requires_grad_()
            recorded = function(at.clone())  # the function may work in place
        again, alone = function(several), function(z)
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(f"{name}: failed on {points}: {error}") from error
    for out, of in ((recorded, several), (again, several), (alone, z)):
        jacobian.check_values(name, out, of)
    values = recorded.detach()
    if values.dtype != z.dtype or values.device != z.device:
        raise TypeError(f"{name}: returned {values.dtype} on {values.device} for {points}; expected the same kind")
    # only z is the caller's: the points beside it may be off the map's domain
    checks.finite(name, alone, at=z)
    if probe.differ(values, again):
        raise ValueError(f"{name}: two calls with the same z differ; a fixed map is expected (dropout? sampling?)")
    if probe.depends_on_batch(function, several, values, alone):
        raise ValueError(f"{name}: a point's value depends on the rest of its batch; independent rows are expected")
    if not recorded.requires_grad:
        raise ValueError(f"{name}: does not depend on z as far as torch sees; is it detached, or under no_grad?")
    try:
        forward, tangent = _pushed(function, several, direction)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{name}: failed on {points}: {error}") from error
    backwards = _weighed_backwards(recorded, at, direction)
    forwards = probe.weights(values) * tangent
    # a map that overwrites what reverse mode needs still has a metric
    # where a map is all but flat, as saturated probabilities are, its derivatives are rounding errors, and far from all
    # centres a variance falls so low that squares underflow
    kind = torch.finfo(z.dtype)
    size = forwards.norm(dim=-1).maximum(_FLAT * kind.eps * values.norm(dim=-1)).clamp_min(math.sqrt(kind.tiny))
    lacks = backwards is not None and probe.most((backwards - forwards.sum(-1)).abs() > _MODES_APART * size)
    if lacks or probe.derivative_disagrees(function, several, tangent, values):
        raise ValueError(
            f"{name}: its gradient in z is not that of its values; is a part of it detached, under no_grad or in NumPy?"
        )
    return alone, forward


def _pushed(function: Map, z: Tensor, direction: Tensor) -> tuple[bool, Tensor]:
    """Whether forward mode works, and the derivative ``(n, D)`` along the direction ``(n, d)``, by reverse mode where
    it does not."""
    try:
        return True, jacobian.push_forward(function, z.clone(), direction.unsqueeze(0))[1][0]
    except RuntimeError:  # no rule, or none under vmap
        pass
    try:
        return False, jacobian.ReverseMode(function).push_forward(z, direction.unsqueeze(0))[1][0]
    except RuntimeError as error:
        remedy = (
            "call it under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
            if "attention" in str(error)
            else ("use operations that torch can differentiate twice")
        )
        sentence = str(error).partition("\n")[0]
        raise ValueError(f"torch has no rule for its second derivatives ({sentence}); {remedy}") from error


def _weighed_backwards(recorded: Tensor, at: Tensor, direction: Tensor) -> Tensor | None:
    """The derivatives ``(n,)`` of the weighed values along the direction in reverse mode; None where that fails."""
    try:
        with torch.enable_grad():
            value = (probe.weights(recorded) * recorded).sum()
            (gradient,) = torch.autograd.grad(value, at, allow_unused=True)
    except RuntimeError:
        return None
    return torch.zeros_like(at[:, 0]) if gradient is None else (gradient * direction).sum(-1)
