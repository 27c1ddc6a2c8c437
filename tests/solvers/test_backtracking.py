"""The line search that the batched descents share."""

import pytest
import torch
from torch import Tensor

from geolib.solvers.backtracking import backtrack


def search(f, x: list[float], slopes: list[float], *, share: float = 1.0, **options):
    """Search along unit steps from ``x``, with the values of ``f`` and their arguments as the state."""
    start = torch.tensor(x, dtype=torch.float64)

    def evaluate(trial: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(rows.tolist())
        return f(trial), trial**2

    calls: list[list[int]] = []
    slope = torch.tensor(slopes, dtype=torch.float64)
    first = torch.full_like(start, share)
    return backtrack(evaluate, start, (f(start), start**2), torch.ones_like(start), slope, first, **options), calls


def test_a_share_that_lowers_the_value_enough_is_taken_as_it_is():
    found, calls = search(lambda x: (x - 1) ** 2, [0.0], [-2.0])
    assert found.accepted.all() and found.share.item() == 1 and found.unknowns.item() == 1
    assert found.state[0].item() == 0 and found.state[1].item() == 1
    assert calls == [[0]]


def test_a_share_that_is_too_large_is_cut_to_the_minimum_of_the_parabola():
    found, calls = search(lambda x: (x - 1) ** 2, [0.0], [-2.0], share=4.0)
    assert found.share.item() == pytest.approx(1, abs=1e-12)
    assert len(calls) == 2


def test_a_cut_keeps_within_its_bounds():
    def well(x: Tensor) -> Tensor:
        return (x - 1) ** 2

    # the parabola's minimum is at 1
    _, calls = search(well, [0.0], [-2.0], share=100.0)
    assert len(calls) == 3  # 100, 10 and 1, not 100 and 1
    found, _ = search(well, [0.0], [-2.0], share=2.5, cuts=(0.1, 0.2))
    assert found.share.item() == 0.5


def test_equal_bounds_are_a_fixed_factor():
    found, calls = search(lambda x: (x - 1) ** 2, [0.0], [-2.0], share=7.0, cuts=(0.25, 0.25))
    assert found.share.item() == 7 / 4
    assert len(calls) == 2


@pytest.mark.parametrize(("value", "cut"), [(torch.inf, 0.1), (torch.nan, 0.5)])
def test_values_that_are_not_finite_are_never_accepted(value, cut):
    found, _ = search(lambda x: torch.where(x > 0.6, value, -x), [0.0], [-1.0])
    assert found.accepted.all() and found.share.item() == cut


def test_problems_are_searched_independently_and_only_while_they_wait():
    found, calls = search(lambda x: (x - 1) ** 2, [0.0, -1.0, -0.5], [-2.0, -4.0, -3.0], share=2.0, cuts=(0.5, 0.5))
    assert calls == [[0, 1, 2], [0]]
    assert found.share.tolist() == [1, 2, 2]
    assert found.unknowns.tolist() == [1, 1, 1.5]


def test_no_step_is_taken_uphill_or_where_nothing_falls():
    found, calls = search(lambda x: x**2, [0.0, 1.0, 1.0], [0.0, 2.0, torch.nan])
    assert not found.accepted.any() and not calls
    found, calls = search(lambda x: (x != 1).double(), [1.0], [-1.0], cuts=(0.5, 0.5))
    assert not found.accepted.any() and len(calls) == 30
    assert found.unknowns.item() == 1 and found.state[0].item() == 0


def test_a_ceiling_allows_a_value_to_rise():
    ceiling = torch.tensor([5.0], dtype=torch.float64)
    rising, _ = search(lambda x: x**2 - x, [0.0], [-1.0], share=2.0, ceiling=ceiling)
    falling, _ = search(lambda x: x**2 - x, [0.0], [-1.0], share=2.0)
    assert rising.state[0].item() == 2 and rising.share.item() == 2
    assert falling.state[0].item() < 0


def test_the_arguments_are_not_changed():
    x, value = torch.tensor([0.0]), torch.tensor([1.0])
    share = torch.tensor([4.0])
    backtrack(lambda z, _: ((z - 1) ** 2,), x, (value,), torch.ones(1), torch.tensor([-2.0]), share)
    assert x.item() == 0 and value.item() == 1 and share.item() == 4
