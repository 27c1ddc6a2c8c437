"""A backtracking line search for a batch of problems, each with its own step length."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# At unknowns (k, ...) of the problems with these indices (k,): the values (k,), finite or not, and anything else that
# the caller needs at the accepted points.
Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, ...]]

_SUFFICIENT = 1e-4  # Armijo's constant
_MAX_TRIALS = 30


@dataclass(frozen=True)
class Search:
    """The result of a line search for each problem of a batch."""

    accepted: Tensor
    """(b,), whether a step was found that lowers the value enough"""
    share: Tensor
    """(b,), the accepted share of the step; where none was accepted, the next one to try"""
    unknowns: Tensor
    """(b, ...), the new unknowns; the old ones where no step was accepted"""
    state: tuple[Tensor, ...]
    """what the evaluation returned at these unknowns, ``(b, ...)`` each"""


def backtrack(
    evaluate: Evaluate,
    unknowns: Tensor,
    state: tuple[Tensor, ...],
    step: Tensor,
    slope: Tensor,
    share: Tensor,
    *,
    ceiling: Tensor | None = None,
    cuts: tuple[float, float] = (0.1, 0.5),
) -> Search:
    r"""Shorten each problem's step p until its value f falls enough: :math:`f(x + a p) \le c + 10^{-4} a\, p^T f'(x)`.

    A share a that fails is reduced to the minimum of the parabola through :math:`f(x)`, :math:`p^T f'(x)` and
    :math:`f(x + a p)`, within the bounds ``cuts``. No step is accepted where the slope is not negative.

    Args:
        evaluate: values at trial points.
        unknowns: x ``(b, ...)``.
        state: what ``evaluate`` returns at x, the values first.
        step: p, shaped like x.
        slope: :math:`p^T f'(x)` ``(b,)``.
        share: the first a to try, ``(b,)``.
        ceiling: c, the level from which the value must fall, ``(b,)``; by default f(x).
        cuts: the smallest and the largest factor between a share and the next; the same twice for a fixed factor.

    Source:
        Armijo 1966; Nocedal & Wright 2006, Sec. 3.5 (the parabola).
    """
    value = state[0]
    ceiling = value if ceiling is None else ceiling
    unknowns, share, state = unknowns.clone(), share.clone(), tuple(x.clone() for x in state)
    accepted = torch.zeros_like(slope, dtype=torch.bool)
    waiting = (slope < 0).nonzero()[:, 0]
    for _ in range(_MAX_TRIALS):
        if not len(waiting):
            break
        a = share[waiting]
        trial = unknowns[waiting] + a.reshape(-1, *[1] * (step.ndim - 1)) * step[waiting]
        found = evaluate(trial, waiting)
        enough = found[0] <= ceiling[waiting] + _SUFFICIENT * a * slope[waiting]
        done, failed = waiting[enough], waiting[~enough]
        accepted[done], unknowns[done] = True, trial[enough]
        for new, x in zip(state, found, strict=True):
            new[done] = x[enough]
        fall = a * slope[waiting]
        over = found[0] - value[waiting] - fall
        # an infinite value gets the smallest factor, as its parabola has its minimum at zero; NaN gets the largest
        cut = torch.where(over > 0, -fall / (2 * over), cuts[1]).clamp(*cuts)
        share[failed] *= cut[~enough]
        waiting = failed
    return Search(accepted, share, unknowns, state)
