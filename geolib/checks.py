"""Checks of arguments, with error messages that name the argument, what came and what is allowed."""

import math
from collections.abc import Callable
from numbers import Integral, Real

import torch
from torch import Tensor


class NotFiniteError(ValueError):
    """Something holds NaN or inf."""


# what is raised where a metric is not finite; LAPACK says so of matrices, its own or those that a callable factorises
NOT_FINITE = (NotFiniteError, torch.linalg.LinAlgError)


def nan_where_not_finite(function: Callable[..., Tensor], shape: tuple[int, ...], *rows: Tensor) -> Tensor:
    """``function(*rows)`` for tensors ``(n, ...)``: ``(n, *shape)``, NaN for those rows for which it raises that
    something is not finite."""
    try:
        return function(*rows)
    except NOT_FINITE:
        if len(rows[0]) == 1:
            return rows[0].new_full((1, *shape), math.nan)
        halves = zip(*(x.tensor_split(2) for x in rows), strict=True)
        return torch.cat([nan_where_not_finite(function, shape, *half) for half in halves])


def latent_points(name: str, z: Tensor, *, min_points: int | None = None) -> None:
    """Check for a finite floating-point tensor ``(..., d)``, or ``(..., n, d)`` with ``n >= min_points``."""
    if not isinstance(z, Tensor):
        raise TypeError(f"{name}: got {type(z).__name__}, expected a torch.Tensor")
    if z.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: got dtype {z.dtype}, expected float32 or float64")
    shape = "(..., d)" if min_points is None else f"(..., n, d) with n >= {min_points}"
    needed = 1 if min_points is None else 2
    if z.ndim < needed or z.shape[-1] == 0 or (min_points is not None and z.shape[-2] < min_points):
        raise ValueError(f"{name}: got shape {tuple(z.shape)}, expected {shape}")
    finite(name, z)


def finite(name: str, x: Tensor, *, at: Tensor | None = None) -> None:
    """Raise NotFiniteError where ``x`` holds NaN or inf; the message says how many entries and where the first is.

    Args:
        name: what ``x`` is.
        x: any tensor; with ``at``, its first dimension counts the points of ``at``.
        at: latent points ``(n, d)`` whose images ``x`` holds, named in the message.
    """
    # This runs on every evaluation of a decoder, so it takes one sum instead of a mask. A sum that is not finite may
    # also have overflowed: then the mask decides.
    if bool(torch.isfinite(x.sum())):
        return
    bad = ~torch.isfinite(x)
    if not bool(bad.any()):
        return
    if at is None:
        where = f"first at index {tuple(bad.nonzero()[0].tolist())}"
        raise NotFiniteError(
            f"{name}: {int(bad.sum())} of {x.numel()} entries are not finite, {where}; finite is expected"
        )
    rows = bad.reshape(bad.shape[0], -1).any(dim=1)
    first = at[int(rows.nonzero()[0])].tolist()
    raise NotFiniteError(
        f"{name}: not finite at {int(rows.sum())} of {len(rows)} points, first at z = "
        f"[{', '.join(f'{c:.6g}' for c in first)}]; finite is expected"
    )


def same_kind(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Check that two tensors agree in dtype and device."""
    if x.dtype != other.dtype:
        raise TypeError(f"{name}: got dtype {x.dtype}, expected {other.dtype} like {other_name}")
    if x.device != other.device:
        raise ValueError(f"{name}: got device {x.device}, expected {other.device} like {other_name}")


def parameters(t: Tensor, points: Tensor) -> Tensor:
    """Check for parameters ``(T,)`` in [0, 1] of curves with these points. Returns them in the points' dtype."""
    if not isinstance(t, Tensor) or t.ndim != 1:
        got = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
        raise ValueError(f"t: got {got}, expected a tensor (T,)")
    t = t.to(points)
    if not bool(((t >= 0) & (t <= 1)).all()):  # written so that NaN fails too
        raise ValueError(f"t: got values from {float(t.min()):g} to {float(t.max()):g}, expected 0 to 1")
    return t


def parameters_of_each(t: Tensor, points: Tensor) -> Tensor:
    """Check for parameters ``(B, T)`` in [0, 1] of B curves with points ``(B, n, d)``, and return them likewise."""
    if t.ndim != 2 or points.ndim != 3 or len(t) != len(points):
        batch = tuple(points.shape[:-2])
        raise ValueError(f"t: got shape {tuple(t.shape)} for curves of batch shape {batch}, expected (B, T) and (B,)")
    return parameters(t.reshape(-1), points).reshape(t.shape)


def pairs(
    start: Tensor, end: Tensor, *, names: tuple[str, str] = ("start", "end")
) -> tuple[Tensor, Tensor, torch.Size]:
    """Check two arguments: points (or vectors) of one dtype, device and dimension whose batches broadcast.

    Returns both, broadcast and flattened to ``(B, d)``, and the batch shape.
    """
    latent_points(names[0], start)
    latent_points(names[1], end)
    same_kind(names[1], end, names[0], start)
    try:
        shape = torch.broadcast_shapes(start.shape, end.shape)
    except RuntimeError:
        shape = torch.Size()
    if len(shape) == 0 or start.shape[-1] != end.shape[-1]:
        shapes = f"{tuple(start.shape)} and {tuple(end.shape)}"
        raise ValueError(f"{', '.join(names)}: got shapes {shapes}, expected (..., d) each")
    if 0 in shape:
        raise ValueError(f"{', '.join(names)}: got zero pairs (shape {tuple(shape)}), expected at least one")
    start, end = (x.detach().expand(shape).reshape(-1, shape[-1]).contiguous() for x in (start, end))
    return start, end, shape[:-1]


def integer(name: str, value: int, *, at_least: int) -> int:
    """Check that ``value`` is an integer of at least ``at_least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):  # NumPy's integers are such too
        raise TypeError(f"{name}: got {value!r}, expected an integer of at least {at_least}")
    if value < at_least:
        raise ValueError(f"{name}: got {value}, expected at least {at_least}")
    return int(value)


def seed(value: int) -> int:
    """Check that ``value`` is a seed that torch and NumPy take."""
    if integer("seed", value, at_least=0) >= 2**32:
        raise ValueError(f"seed: got {value}, expected at most {2**32 - 1}")
    return int(value)


def positive(name: str, value: float) -> float:
    """Check that ``value`` is a positive finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {value!r}, expected a positive number")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: got {value}, expected a positive finite number")
    return float(value)


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """Check that ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(repr(a) for a in allowed)}")
    return value
