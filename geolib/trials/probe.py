"""Rows, repetitions and gradients of a callable at a few points: what both maps and metrics are tried for."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
Slopes = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_APART = 1e-2  # of points beside one, relative to 1 + |z|
_NUMBERS = (0, 1, 2, 8, 10, 12)  # how many times that; the last ones replace the first, and must change what mixes rows
_MOST_APART = 1e3  # times eps: what rounding may do to a value between two calls
# Places in batches of all sizes differ by rounding, which half precision or chaos enlarges, by some times the values'
# roughness at these distances, relative to 1 + |z|.
_ROUGHNESS_AT = (2**-7, 2**-8, 2**-9, 2**-10)
_MOST_ROUGH = 10
_FIRST_STEP = {torch.float32: 5e-3, torch.float64: 6e-6}  # of a difference quotient: eps^(1/3), relative to 1 + |z|
_STEPS = (
    1,
    8,
    1 / 8,
)  # times that: of several, as half precision inside needs longer and a narrow feature shorter ones
_DISAGREEMENT = 0.1  # relative, beyond which a gradient is not that of the values
_BENT = 0.1  # second over first differences, beyond which neither is a derivative
_ROUNDING = 32  # times eps: what rounding may do to a value, relative to the largest
# Where they disagree, segments are sampled: of this length and smaller ones, down to about the square root of eps.
_LONGEST, _SHORTER, _N_SAMPLES = 0.4, 4, 9
_WRONG = 0.03  # relative, beyond what this leaves open
_MODES_APART = 0.01  # and where two ways to find one derivative are compared
_FLAT = 1e3  # times eps: derivatives in one unit of z, relative to the values, that say nothing


def batches(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three batches ``(n, d)`` of different points near ``z (1, d)``: any two share one row, in its place, and nothing
    else. The first ends with z; equal points in one batch would hide a map that mixes its rows."""
    number = torch.tensor(_NUMBERS, dtype=z.dtype, device=z.device).unsqueeze(-1)
    near = z + _APART * (1 + z.abs()) * number * _pattern((len(_NUMBERS), z.shape[-1]), z.dtype, z.device)
    return tuple(near[rows] for rows in ([1, 2, 0], [1, 4, 5], [3, 4, 0]))


def mixes_rows(first: Tensor, second: Tensor, third: Tensor) -> bool:
    """Whether the values ``(n, ...)`` of ``batches`` show that a row changes with what else is in its batch.

    Batches of one size are compared, as their rows are computed alike: rounding does not tell them apart.
    """
    shared = ((first[0], second[0]), (second[1], third[1]), (first[2], third[2]))
    return any(differ(one, other) for one, other in shared)


def depends_on_place(function: Function, z: Tensor, values: Tensor, alone: Tensor) -> bool:
    """Whether the last of ``values (n, ...)`` at ``z (n, d)`` and its value ``alone (1, ...)`` in a batch of one differ
    by more than rounding."""
    if alone.shape != values[-1:].shape:
        return True
    apart = _largest_change(alone, values[-1:])
    if apart <= _MOST_APART * torch.finfo(z.dtype).eps * float(torch.nan_to_num(values, 0.0, 0.0, 0.0).abs().max()):
        return False
    steps = [step * directions(z) for step in _ROUGHNESS_AT]
    ahead, behind = ([function(z + sign * step) for step in steps] for sign in (1, -1))
    # where it is constant beside z, it may enlarge what a place rounds by anything
    constant = all(torch.equal(beside, values) for beside in (*ahead, *behind))
    rough = max(_largest_change(a + b, 2 * values) for a, b in zip(ahead, behind, strict=True))
    return not constant and apart > _MOST_ROUGH * rough


def _largest_change(one: Tensor, other: Tensor) -> float:
    return float(torch.nan_to_num(one - other, 0.0, 0.0, 0.0).abs().max())


def differ(one: Tensor, other: Tensor) -> bool:
    """Whether two results of one call differ by more than rounding, which may depend on the size of a batch and on
    whether gradients are recorded."""
    if one.shape != other.shape:
        return True
    finite = torch.isfinite(one) & torch.isfinite(other)
    one, other = (torch.where(finite, x, 0.0) for x in (one, other))
    tolerance = _MOST_APART * torch.finfo(one.dtype).eps
    return not torch.allclose(one, other, rtol=tolerance, atol=tolerance * float(one.abs().max()))


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


def slopes_are_wrong(function: Function, slopes: Slopes, z: Tensor) -> bool:
    """Whether derivatives are beyond doubt not those of the values, for most rows ``z (n, d)``.

    On segments of several lengths the mean derivative must be the difference quotient of the ends. Kinks and chaos show
    in how much the derivatives vary, low precision and rounding in how rough the values are; both are allowed for.

    Args:
        function: a callable ``(n, d) -> (n, m)`` whose rows are independent.
        slopes: its derivatives ``(n, m)`` at points ``(n, d)`` along directions ``(n, d)``, and by how much they differ
            ``(n,)`` from those found in another way, in which a part may be missing.
        z: ``(n, d)``.
    """
    n, direction = len(z), directions(z)
    eps, smallest = torch.finfo(z.dtype).eps, math.sqrt(torch.finfo(z.dtype).tiny)
    samples = torch.linspace(-1, 1, _N_SAMPLES, dtype=z.dtype, device=z.device)
    n_wrong = torch.zeros(n, device=z.device)
    for n_shorter in range(math.floor(math.log(_LONGEST / math.sqrt(eps), _SHORTER))):
        half = _LONGEST / _SHORTER**n_shorter
        at = (z + half * samples[:, None, None] * direction).flatten(0, 1)
        try:
            values, (claimed, apart) = function(at.clone()), slopes(at, direction.repeat(_N_SAMPLES, 1))
        except (RuntimeError, ValueError, IndexError):  # beyond the map's domain
            continue
        # one scale per row, so that squares neither overflow nor underflow
        values, claimed, apart = (x.unflatten(0, (_N_SAMPLES, n)) for x in (values, claimed, apart))
        scale = torch.maximum(*(x.abs().amax((0, 2), keepdim=True) for x in (values, claimed))).clamp_min(smallest)
        changes = values.ne(values[0]).any(0)  # a value that underflows, saturates or is rounded away says nothing
        values, claimed, apart = values / scale, changes * claimed / scale, apart / scale[..., 0]
        found, mean = (values[-1] - values[0]) / (2 * half), _simpson(claimed)
        rough = _noise(values, order=4) + 0.5 * eps * values.norm(dim=-1).amax(0)
        error = 4 * (rough / half + _noise(claimed, order=2) / math.sqrt(_N_SAMPLES))
        size = found.norm(dim=-1).maximum(mean.norm(dim=-1))
        flat = _FLAT * eps * values.norm(dim=-1).amax(0)
        tells = torch.isfinite(size + error) & (4 * error < size) & (size > flat) & changes.any(-1)
        wrong = (found - mean).norm(dim=-1) > error + _WRONG * size
        wrong |= apart.square().mean(0).sqrt() > error + _MODES_APART * size
        n_wrong += tells * torch.where(wrong, 1, -1)
    return most(n_wrong >= 2)


def _noise(samples: Tensor, *, order: int) -> Tensor:
    """The size ``(n,)`` of what is not smooth in ``samples (N, n, m)`` at equal distances, from their differences."""
    differences = samples.diff(n=order, dim=0)
    return (differences.square().sum(-1).mean(0) / math.comb(2 * order, order)).sqrt()


def _simpson(samples: Tensor) -> Tensor:
    """The mean over the first dimension of an odd number of samples at equal distances, by Simpson's rule."""
    weight = torch.full((len(samples),), 2.0, dtype=samples.dtype, device=samples.device)
    weight[1::2], weight[0], weight[-1] = 4.0, 1.0, 1.0
    return torch.tensordot(weight / weight.sum(), samples, dims=1)


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
