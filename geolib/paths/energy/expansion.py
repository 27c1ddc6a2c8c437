"""A function of curves to second order, as Newton's method takes it: gradient, and the Hessian in three parts."""

import bisect
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")


@dataclass
class Expansion:
    """Half the sum of squared segments of a batch of curves to second order, in three parts of the Hessian.

    The Gauss-Newton part is positive semidefinite, needs no second derivative, and measures how fast a field along the
    curve changes. The connection terms hold everything else that first derivatives of a metric determine. The rest
    holds the second derivatives: one symmetric ``d x d`` block for each inner point or segment, which ``spread`` puts
    in place. These local Hessian blocks are left to the caller, who can learn them from ``change``.
    """

    squares: Tensor
    """(B, N), squared segments"""
    gradient: Tensor
    """(B, N - 1, d), in the inner points"""
    gauss_newton: tuple[Tensor, Tensor]
    """diagonal blocks (B, N - 1, d, d) and those to their right (B, N - 2, d, d)"""
    connection: tuple[Tensor, Tensor] | None
    """the same, or None where it is zero"""
    metric: Tensor
    """(B, N - 1, d, d), at the inner points"""
    block_metric: Tensor
    """(B, S, d, d), the metric where the local blocks are"""
    memory: tuple[tuple[Tensor, ...], ...]
    """first derivatives at the local blocks, (b, ...) each; one tuple for each part that was evaluated at once"""
    change: Tensor | None
    """(B, S, d): the local blocks times the step that led here, where the derivatives before it were given"""

    @property
    def total(self) -> Tensor:
        """(B,), the sum of the squared segments: the path energy over N."""
        return self.squares.sum(-1)

    @property
    def scale(self) -> Tensor:
        """(B,), the mean of the diagonal of the Gauss-Newton part."""
        return self.gauss_newton[0].diagonal(dim1=-2, dim2=-1).mean((-2, -1))

    @property
    def finite(self) -> Tensor:
        """(B,), whether energy, gradient and metric are finite."""
        return finite(self.squares, self.gradient, self.gauss_newton[0])

    def held(self) -> "Expansion":
        """The same with its memory in one part, so that rows can be looked up and replaced."""
        return replace(self, memory=(tuple(torch.cat(group) for group in zip(*self.memory, strict=True)),))

    def __getitem__(self, rows: Tensor) -> "Expansion":
        """Those of the curves ``rows``, of an expansion that is ``held``."""

        def part(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(part(x) for x in value)
            return None if value is None else value[rows]

        return Expansion(**{f.name: part(getattr(self, f.name)) for f in fields(self)})

    def put(self, rows: Tensor, other: "Expansion", chosen: Tensor) -> None:
        """Replace the expansions of ``rows (c,)`` by those of ``other`` that are at ``chosen (c,)``, which rise; this
        one must be ``held``."""
        everything = len(chosen) == len(other.squares)
        for name in ("squares", "gradient", "gauss_newton", "connection", "metric", "block_metric"):
            for mine, new in zip(_tensors(getattr(self, name)), _tensors(getattr(other, name)), strict=True):
                mine[rows] = new if everything else new[chosen]
        places, chosen = torch.stack([rows, chosen]).tolist()
        first = last = 0
        for part in other.memory:  # never joined: a copy would cost as much as everything but the derivatives
            n = len(part[0])
            begin, last = last, bisect.bisect_left(chosen, first + n)
            here = compact([k - first for k in chosen[begin:last]], rows)
            target = compact(places[begin:last], rows)
            for mine, new in zip(self.memory[0], part, strict=True):
                mine[target] = new[here]
            first += n


def joined(parts: list[Part]) -> Part:
    """One expansion of all the curves, from parts of one kind. Memory stays in its parts."""
    if len(parts) == 1:
        return parts[0]

    def join(name: str, values: list) -> Any:
        if name == "memory":
            return sum(values, ())
        if isinstance(values[0], tuple):
            return tuple(torch.cat(group) for group in zip(*values, strict=True))
        return None if values[0] is None else torch.cat(values)

    names = [f.name for f in fields(parts[0])]
    return type(parts[0])(**{name: join(name, [getattr(part, name) for part in parts]) for name in names})


def compact(rows: list[int], like: Tensor) -> Tensor | slice:
    """The same rows as a slice where they follow one another: slices are looked at, index tensors copied."""
    if not rows or rows == list(range(rows[0], rows[0] + len(rows))):
        return slice(*((rows[0], rows[-1] + 1) if rows else (0,)))
    return torch.tensor(rows, device=like.device)


def _tensors(value: Tensor | tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    return () if value is None else (value,) if isinstance(value, Tensor) else value


def finite(*parts: Tensor) -> Tensor:
    """Which rows of all parts ``(B, ...)`` are finite: ``(B,)``."""
    return torch.stack([torch.isfinite(x.flatten(1).sum(-1)) for x in parts]).all(0)
