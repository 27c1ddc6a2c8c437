"""Rows, repetitions and gradients of a callable at a few points: what both maps and metrics are tried for."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]

_N_POINTS = 3
_APART = 1e-2  # of these points, relative to 1 + |z|
# Sizes of batches that must give what the whole batch gives: rows alone, and the last ones together. A map that takes
# its batch for a sequence, or its mean, gives something else.
_PARTS = (slice(0, 1), slice(2, 3), slice(1, 3))
_FIRST_STEP = {torch.float32: 5e-3, torch.float64: 6e-6}  # of a difference quotient: eps^(1/3), relative to 1 + |z|
_STEPS = (
    1,
    8,
    1 / 8,
)  # times that: of several, as half precision inside needs longer and a narrow feature shorter ones
_DISAGREEMENT = 0.1  # relative, beyond which a gradient is not that of the values
_BENT = 0.1  # second over first differences, beyond which neither is a derivative
_ROUNDING = 32  # times eps: what rounding may do to a value, relative to the largest


def neighbours(z: Tensor) -> Tensor:
    """A few different points ``(n, d)``, of which the first is ``z (1, d)`` and the others are near it."""
    number = torch.arange(_N_POINTS, dtype=z.dtype, device=z.device).unsqueeze(-1)
    return z + _APART * (1 + z.abs()) * number * _pattern((_N_POINTS, z.shape[-1]), z.dtype, z.device)


def differ(one: Tensor, other: Tensor) -> bool:
    """Whether two results of one call differ by more than rounding, which may depend on the size of a batch and on
    whether gradients are recorded."""
    if one.shape != other.shape:
        return True
    finite = torch.isfinite(one) & torch.isfinite(other)
    one, other = (torch.where(finite, x, 0.0) for x in (one, other))
    tolerance = 1e3 * torch.finfo(one.dtype).eps
    return not torch.allclose(one, other, rtol=tolerance, atol=tolerance * float(one.abs().max()))


def depends_on_batch(function: Function, z: Tensor, values: Tensor, alone: Tensor) -> bool:
    """Whether the rows of ``values (n, ...)`` at ``z (n, d)`` change with what else is in the batch. ``alone`` is the
    value ``(1, ...)`` of the first."""
    return any(differ(alone if part.start == 0 else function(z[part]), values[part]) for part in _PARTS)


def derivative_disagrees(function: Function, z: Tensor, claimed: Tensor, values: Tensor) -> bool:
    r"""Whether derivatives are not those of the values: most rows disagree with difference quotients of every step.

    A kink near a point makes one row disagree, and a feature narrower than a step one step.

    Args:
        function: a callable ``(n, d) -> (n, m)`` whose rows are independent.
        z: ``(n, d)``.
        claimed: its derivatives along ``directions(z)``, ``(n, m)``.
        values: its values at z, ``(n, m)``.
    """
    direction = directions(z)
    scale, size = values.norm(dim=-1), claimed.norm(dim=-1)
    known, right = torch.zeros(2, len(z), dtype=torch.bool, device=z.device)
    for times in _STEPS:
        step = times * _FIRST_STEP[z.dtype]
        ahead, behind = function(torch.cat([z + step * direction, z - step * direction])).chunk(2)
        found = (ahead - behind) / (2 * step)
        largest = found.norm(dim=-1).maximum(size)
        rounding = _ROUNDING * torch.finfo(z.dtype).eps * scale / step
        # a step over a kink, one that a wave does not fit in, or values rounded to less than z's precision tell nothing
        even = (ahead + behind - 2 * values).norm(dim=-1) < _BENT * (ahead - behind).norm(dim=-1)
        usable = torch.isfinite(largest) & even & (rounding < largest / 4) & (step * size < scale)
        known |= usable
        right |= usable & ((found - claimed).norm(dim=-1) <= rounding + _DISAGREEMENT * largest)
        if most(right):
            return False
    return most(known & ~right)


def most(rows: Tensor) -> bool:
    """Whether more than half of them are true."""
    return 2 * int(rows.sum()) > len(rows)


def directions(z: Tensor) -> Tensor:
    """One direction per point ``z (n, d)``, ``(n, d)``, in which every coordinate changes."""
    return _pattern(tuple(z.shape), z.dtype, z.device) * (1 + z.abs())


def weights(values: Tensor) -> Tensor:
    """Positive weights of the shape of one value of ``values (n, ...)``, all of about the same size."""
    number = torch.arange(values[0].numel(), dtype=values.dtype, device=values.device)
    return (1 + 0.5 * torch.cos(2.4 * number + 0.3)).reshape(values.shape[1:])


@functools.cache
def _pattern(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers of that shape ``(n, d)`` of about the same size and either sign, without symmetry."""
    n, d = shape
    wave = torch.cos(torch.arange(n).unsqueeze(-1) * math.sqrt(2) + torch.arange(d) * math.sqrt(3) + 0.5)
    return (wave + torch.where(wave < 0, -0.5, 0.5)).to(dtype).to(device)
