"""One interface to every kind of metric: what it says is what the caller's own metric says."""

import ast
import inspect

import pytest
import torch
from problems import deviation, half_plane, mlp
from project import ROOT

from geolib import PullbackMetric, riemannian
from geolib.riemannian import ExpectedMetric, ImmersedMetric, RiemannianMetric, as_metric

pytestmark = pytest.mark.smoke

DTYPE = torch.float64
KINDS = {
    "immersion": (PullbackMetric(mlp(), deviation()), ImmersedMetric),
    "features": (PullbackMetric(mlp(), features=mlp(7, 5, 2)), ImmersedMetric),
    "Eq. 4": (PullbackMetric(mlp(), deviation(), mlp(7, 5, 2)), ExpectedMetric),
    "callable": (half_plane().metric, RiemannianMetric),
}
every_kind = pytest.mark.parametrize(("metric", "kind"), KINDS.values(), ids=KINDS)


@every_kind
def test_every_metric_gets_the_interface_of_its_kind(metric, kind, generator):
    z = 1 + torch.rand(5, 2, generator=generator, dtype=DTYPE)
    adapted = as_metric(metric)
    assert type(adapted) is kind
    assert as_metric(adapted) is adapted
    assert torch.equal(adapted(z), metric(z))
    torch.testing.assert_close(adapted.unchecked(z).detach(), metric(z), rtol=1e-12, atol=0)


@every_kind
def test_nested_lengths_are_those_of_the_points_that_are_left(metric, kind, generator):
    points = 1 + torch.rand(3, 13, 2, generator=generator, dtype=DTYPE)
    adapted = as_metric(metric)
    fine, by_two, by_four = adapted.nested_lengths(points)
    torch.testing.assert_close(fine, adapted.segment_lengths(points), rtol=1e-12, atol=0)
    torch.testing.assert_close(by_two, adapted.length(points[:, ::2]), rtol=1e-12, atol=0)
    torch.testing.assert_close(by_four, adapted.length(points[:, ::4]), rtol=1e-12, atol=0)


def test_what_is_no_metric_is_refused():
    with pytest.raises(TypeError, match="metric: got list, expected a PullbackMetric or a callable"):
        as_metric([1.0])


def test_nobody_else_asks_what_kind_of_metric_it_is():
    """The kinds differ by their methods, and by what functions do for a class; no function asks."""
    kinds = {"PullbackMetric"} | {name for name, _ in inspect.getmembers(riemannian, inspect.isclass)}
    for path in sorted((ROOT / "geolib").rglob("*.py")):
        if "companion" in path.parts or path.name == "riemannian.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                assert not {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)} & (kinds - {"Tensor"}), (
                    f"{path}:{node.lineno}"
                )
