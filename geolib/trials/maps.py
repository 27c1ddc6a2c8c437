"""A map z -> x, tried beside one point."""

import functools

import torch
from torch import Tensor

from geolib import checks, jacobian
from geolib.jacobian import Map
from geolib.trials import probe

_MODES_APART = 0.03  # relative difference of forward and reverse mode, beyond which one of them lacks a part
# What has no second derivatives, by a word of torch's error.
_REMEDIES = {
    "attention": "call it under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)",
    "cdist": "write (a[:, None] - b).square().sum(-1) instead of squares of torch.cdist(a, b)",
}
_ANY_REMEDY = "use operations that torch can differentiate twice"


@torch.no_grad()
def try_map(name: str, function: Map, z: Tensor) -> tuple[Tensor, bool, bool]:
    """Try what would go wrong later, at one point ``z (1, d)`` and beside it.

    Returns:
        ``function(z)``, whether torch's forward mode has a rule for everything in it, and whether what it finds can be
        differentiated.

    Raises:
        ValueError: where the function fails, is not finite at z, is random, mixes the rows of a batch, does not depend
            on z, or passes a gradient that is not that of its values.
        TypeError: where it returns another dtype or device.
    """
    points = f"points of shape {tuple(z.shape)}, {z.dtype}, {z.device}"
    several, *others = probe.batches(z)
    direction = probe.directions(several)
    try:
        at, recorded = _recorded(function, several)
        beside = [_recorded(function, batch)[1] for batch in others]
        alone = function(z.clone())
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(f"{name}: failed on {points}: {error}") from error
    for out, of in ((recorded, several), *zip(beside, others, strict=True), (alone, z)):
        jacobian.check_values(name, out, of)
    values = recorded.detach()
    if values.dtype != z.dtype or values.device != z.device:
        raise TypeError(f"{name}: returned {values.dtype} on {values.device} for {points}; expected the same kind")
    # only z is the caller's: the points beside it may be off the map's domain
    checks.finite(name, alone, at=z)
    mixed = probe.mixes_rows(values, *(x.detach() for x in beside))
    if mixed and probe.differ(values, _recorded(function, several)[1].detach()):
        raise ValueError(f"{name}: two calls with the same z differ; a fixed map is expected (dropout? sampling?)")
    if mixed or probe.depends_on_place(function, several, values, alone):
        raise ValueError(f"{name}: a point's value depends on the rest of its batch; independent rows are expected")
    if not recorded.requires_grad:
        raise ValueError(f"{name}: does not depend on z as far as torch sees; is it detached, or under no_grad?")
    try:
        forward, tangent = _pushed(function, several, direction)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{name}: failed on {points}: {error}") from error
    backwards = _weighed_backwards(recorded, probe.weights(values), at, direction)
    forwards = probe.weights(values) * tangent
    # a map that overwrites what reverse mode needs still has a metric
    lacks = backwards is not None and probe.most(
        (backwards - forwards.sum(-1)).abs() > _MODES_APART * forwards.norm(dim=-1)
    )
    suspect = lacks or probe.derivative_disagrees(function, several, tangent, values)
    if suspect and probe.slopes_are_wrong(function, functools.partial(_slopes, function), several):
        raise ValueError(
            f"{name}: its gradient in z is not that of its values; is a part of it detached, under no_grad or in NumPy?"
        )
    return alone, forward, not jacobian.forward_mode_is_final(recorded)


def _slopes(function: Map, z: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives ``(n, D)`` at ``z (n, d)`` along a direction in forward mode, and about by how much their norm
    ``(n,)`` differs in reverse mode."""
    tangent = _pushed(function, z, direction)[1]
    at, recorded = _recorded(function, z)
    # the mean square of a vector's products with random signs is its norm's
    signs = 2.0 * torch.randint(2, tangent.shape, generator=torch.Generator().manual_seed(0)) - 1
    signs = signs.to(tangent)
    backwards = _weighed_backwards(recorded, signs, at, direction)
    return tangent, torch.zeros_like(tangent[:, 0]) if backwards is None else backwards - (signs * tangent).sum(-1)


def _recorded(function: Map, z: Tensor) -> tuple[Tensor, Tensor]:
    """Points ``(n, d)`` that ask for a gradient, and the function's values there."""
    with torch.enable_grad():
        at = z.clone().requires_grad_()
        return at, function(at.clone())  # the function may work in place


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
        remedy = next((remedy for part, remedy in _REMEDIES.items() if part in str(error)), _ANY_REMEDY)
        sentence = str(error).partition("\n")[0]
        raise ValueError(f"torch has no rule for its second derivatives ({sentence}); {remedy}") from error


def _weighed_backwards(recorded: Tensor, weights: Tensor, at: Tensor, direction: Tensor) -> Tensor | None:
    """The derivatives ``(n,)`` of the weighed values along the direction in reverse mode; None where that fails."""
    try:
        (gradient,) = torch.autograd.grad(recorded, at, weights.expand_as(recorded), allow_unused=True)
    except RuntimeError:
        return None
    return torch.zeros_like(at[:, 0]) if gradient is None else (gradient * direction).sum(-1)
