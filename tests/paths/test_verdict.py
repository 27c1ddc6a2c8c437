"""The table of what is reported of a curve."""

import ast
import itertools

import pytest
import torch
from project import ROOT

from geolib import PullbackMetric, Status, geodesic
from geolib.paths.problem import Solution
from geolib.paths.verdict import RULES, Finding, may_refine, reported
from geolib.solvers import SOLVERS

pytestmark = pytest.mark.smoke

ATTEMPT = (Finding.CERTIFIED, Finding.UNCERTIFIED, Finding.HIDDEN)
BEST = (Finding.BEST_CERTIFIED, Finding.BEST_UNCERTIFIED, Finding.BEST_UNMEASURED)


def said():
    """Every status that the file of a method names."""
    for path in (ROOT / "geolib" / "solvers").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Status":
                yield Status[node.attr]


def chain(status, *findings):
    status = torch.tensor([status])
    for finding in findings:
        status = reported(status, torch.tensor([finding]))
    return Status(int(status))


def test_every_status_that_a_method_can_say_has_a_row():
    assert len(set(said())) >= 6
    assert set(said()) <= set(RULES)
    # and every row is one that a method says or that another row leads to
    led_to = {status for rule in RULES.values() for status in rule.becomes.values()}
    assert set(RULES) <= set(said()) | led_to


@pytest.mark.parametrize("status", RULES)
def test_only_a_certified_curve_is_reported_as_converged(status):
    for attempt, longer in itertools.product(ATTEMPT, ((), (Finding.LONGER,))):
        for best in (Finding.BEST_UNCERTIFIED, Finding.BEST_UNMEASURED):
            assert chain(status, attempt, *longer, best) != Status.CONVERGED


def test_what_is_reported_of_a_method_that_says_it_converged():
    c = Status.CONVERGED
    assert chain(c, Finding.CERTIFIED, Finding.BEST_CERTIFIED) == Status.CONVERGED
    assert chain(c, Finding.UNCERTIFIED, Finding.BEST_UNCERTIFIED) == Status.NOT_GEODESIC
    assert chain(c, Finding.HIDDEN, Finding.BEST_CERTIFIED) == Status.UNRESOLVED
    assert chain(c, Finding.CERTIFIED, Finding.BEST_UNMEASURED) == Status.UNRESOLVED
    assert chain(c, Finding.CERTIFIED, Finding.LONGER, Finding.BEST_UNCERTIFIED) == Status.START_KEPT
    assert chain(c, Finding.CERTIFIED, Finding.LONGER, Finding.BEST_CERTIFIED) == Status.CONVERGED


@pytest.mark.parametrize("status", [Status.BEST_OF_ITS_KIND, Status.DIVERGED, Status.MAX_NODES])
def test_a_certified_curve_overrules_what_a_method_says_of_itself(status):
    assert chain(status, Finding.CERTIFIED, Finding.BEST_CERTIFIED) == Status.CONVERGED
    assert chain(status, Finding.UNCERTIFIED, Finding.BEST_UNCERTIFIED) == status


@pytest.mark.parametrize("status", [Status.SAME_POINT, Status.SINGULAR, Status.MAX_STEPS])
def test_what_was_never_tried_or_ran_out_of_steps_stays(status):
    for finding in (*ATTEMPT, Finding.LONGER, *BEST):
        assert chain(status, finding) == status
        assert not may_refine(torch.tensor([status]), torch.tensor([finding]))


def test_a_certified_curve_is_refined_only_where_the_method_needed_more_segments():
    for status in RULES:
        unresolved = status == Status.UNRESOLVED
        assert bool(may_refine(torch.tensor([status]), torch.tensor([Finding.CERTIFIED]))) == unresolved
    assert may_refine(torch.tensor([Status.CONVERGED] * 2), torch.tensor([Finding.UNCERTIFIED, Finding.HIDDEN])).all()


def test_a_method_that_needs_more_segments_goes_on_with_them_from_all_points_it_has(monkeypatch):
    """On the plane, where its line is certified on any number of points."""
    asked = []

    def coarse(problem):
        asked.append((problem.n_segments, None if problem.init is None else problem.init.shape[1] - 1))
        points = problem.points()
        status = Status.UNRESOLVED if problem.n_segments < 64 else Status.CONVERGED
        every = torch.ones(len(points), dtype=torch.long)
        return Solution.through(problem, points, status * every, every)

    monkeypatch.setitem(SOLVERS, "quadratic", coarse)
    start, end = torch.tensor([[0.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    g = geodesic(PullbackMetric(lambda z: z * 1.0), start, end, method="quadratic", n_segments=16)
    assert asked == [(16, None), (32, 32), (64, 64)]
    assert g.converged
    assert g.n_steps == 3
