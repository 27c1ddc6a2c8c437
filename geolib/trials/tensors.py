"""A metric z -> M that is given as a callable, tried at a few points."""

import functools

import torch
from torch import Tensor

from geolib import checks
from geolib.trials import probe
from geolib.trials.probe import Function


def checked(function: Function, z: Tensor) -> Tensor:
    """The tensors ``(..., d, d)`` at ``z (..., d)``, their shape, kind and finiteness checked."""
    M = _of_shape(function, z)
    checks.finite("metric", M.reshape(-1, *M.shape[-2:]), at=z.reshape(-1, z.shape[-1]))
    return M


def _of_shape(function: Function, z: Tensor) -> Tensor:
    """The tensors ``(..., d, d)`` at ``z (..., d)``, their shape and kind checked."""
    try:
        M = function(z)
    except torch.linalg.LinAlgError as error:
        raise checks.NotFiniteError(
            f"metric: failed on {z.shape[:-1].numel()} points: {error}; a metric may be NaN where it has no value"
        ) from error
    expected = (*z.shape, z.shape[-1])
    if not isinstance(M, Tensor) or M.shape != expected:
        got = tuple(M.shape) if isinstance(M, Tensor) else type(M).__name__
        raise ValueError(f"metric: returned {got} for points {tuple(z.shape)}, expected {expected}")
    checks.same_kind("metric's value", M, "z", z)
    return M


@torch.no_grad()
def try_tensors(function: Function, z: Tensor) -> None:
    """Try what would go wrong later, at those of ``z (n, d)`` where the function is finite and beside the first one.

    Raises:
        ValueError: where the function fails, is finite at none of z, not symmetric or not positive semidefinite there,
            is random, mixes the rows of a batch, or passes a gradient that is not that of its values.
        TypeError: where it returns another dtype or device.
    """
    M = checks.nan_where_not_finite(functools.partial(_of_shape, function), (z.shape[-1],) * 2, z)
    finite = torch.isfinite(M).flatten(1).all(-1)
    if not bool(finite.any()):
        _of_shape(function, z)
        checks.finite("metric", M, at=z)
    z, M = z[finite], M[finite]
    refuse_indefinite(M, z)
    several, *others = probe.batches(z[:1])
    values, alone = function(several), function(z[:1])
    mixed = probe.mixes_rows(values, *(function(batch) for batch in others))
    if mixed and probe.differ(values, function(several)):
        raise ValueError("metric: two calls with the same z differ; a fixed metric is expected (dropout? sampling?)")
    if mixed or probe.depends_on_place(function, several, values, alone):
        raise ValueError("metric: a point's value depends on the rest of its batch; independent rows are expected")
    weight = probe.weights(values)

    def weighed(x: Tensor) -> Tensor:
        return (weight * function(x)).flatten(1).sum(-1, keepdim=True)

    def slopes(x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        return _derivatives(weighed, x, direction), torch.zeros_like(x[:, 0])

    claimed = slopes(several, probe.directions(several))[0]
    suspect = probe.derivative_disagrees(weighed, several, claimed, weighed(several))
    if suspect and probe.slopes_are_wrong(weighed, slopes, several):
        raise ValueError(
            "metric: its value changes with z, but its gradient is not that of its values; is a part of it detached, "
            "under no_grad, or in NumPy? Write it with torch operations throughout, or tabulate() it"
        )


def refuse_indefinite(M: Tensor, z: Tensor) -> None:
    """Stop where one of the tensors ``(n, d, d)`` at ``z (n, d)`` is not symmetric or not positive semidefinite."""
    kind = torch.finfo(M.dtype)
    size = M.abs().flatten(1).amax(-1)
    apart = (M - M.mT).abs().flatten(1).amax(-1)
    crooked = apart > kind.eps**0.5 * size  # as far as rounding takes an inverse whose condition number is as large
    if bool(crooked.any()):
        largest = float((apart / size).amax())
        raise ValueError(
            f"metric: not symmetric at {int(crooked.sum())} of {len(z)} points, by up to {largest:.2g} of its largest "
            f"entry, {_first(crooked, z)}; if rounding does that, float64 or (M + M.mT) / 2 helps"
        )
    eigenvalues = torch.linalg.eigvalsh(M)
    negative = eigenvalues[:, 0] < -(kind.eps**0.5) * eigenvalues[:, -1].abs()
    if bool(negative.any()):
        smallest = float(eigenvalues[negative, 0][0])
        raise ValueError(
            f"metric: has a negative eigenvalue at {int(negative.sum())} of {len(z)} points, {smallest:.3g} "
            f"{_first(negative, z)}; positive (semi)definite is expected"
        )


def _first(rows: Tensor, z: Tensor) -> str:
    first = z[int(rows.nonzero()[0])].tolist()
    return f"first at z = [{', '.join(f'{c:.6g}' for c in first)}]"


def _derivatives(function: Function, z: Tensor, direction: Tensor) -> Tensor:
    """Those ``(n, 1)`` of a function ``(n, d) -> (n, 1)`` at ``z (n, d)`` along directions, in reverse mode."""
    with torch.enable_grad():
        at = z.clone().requires_grad_()
        try:
            recorded = function(at.clone())
            if not recorded.requires_grad:
                return torch.zeros_like(z[:, :1])
            (gradient,) = torch.autograd.grad(recorded.sum(), at, allow_unused=True)
        except RuntimeError as error:
            raise ValueError(
                f"metric: failed on points that ask for a gradient: {error} Write it with torch operations throughout, "
                f"or tabulate() it"
            ) from error
    return torch.zeros_like(z[:, :1]) if gradient is None else (gradient * direction).sum(-1, keepdim=True)
