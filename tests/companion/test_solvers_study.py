"""The contest of solvers: what is counted, what a budget does, and what is made of the results."""

import json
from dataclasses import replace

import pytest
import torch
from problems import mlp
from torch import nn

from geolib import METHODS, PullbackMetric, geodesic
from geolib.companion.cache import measurements
from geolib.companion.figures.shortest_curves import solvers as contest_panels
from geolib.companion.studies.shortest_curves import problems as contest_problems
from geolib.companion.studies.shortest_curves import solvers as contest
from geolib.companion.studies.shortest_curves.solvers import Counted, OutOfTime, Row
from geolib.paths.equation import acceleration
from geolib.riemannian import as_metric

pytestmark = pytest.mark.smoke

DTYPE = torch.float64


@pytest.fixture(scope="module")
def rows():
    problem = contest_problems.sphere(3, seed=0)
    return contest.compete(problem, budget=20.0)


# Counting


def test_points_tangents_and_cotangents_are_counted(generator):
    z = torch.randn(5, 2, generator=generator, dtype=DTYPE)
    counted = Counted(mlp())
    counted(z)
    assert counted.evaluations == 5
    metric = PullbackMetric(counted)
    metric(z[:1])  # tried once
    counted.restart(float("inf"))
    metric(z)
    assert counted.evaluations == 5 * (1 + 2)
    counted.restart(float("inf"))
    x = z.clone().requires_grad_()
    metric.immersion(x).sum().backward()
    assert counted.evaluations == 5 + 5


def test_counting_changes_nothing(generator):
    net = mlp()
    z, v = torch.randn(2, 4, 2, generator=generator, dtype=DTYPE)
    plain, counted = PullbackMetric(net), PullbackMetric(Counted(net))
    assert torch.equal(plain(z), counted(z))
    by_plain, by_counted = (acceleration(as_metric(metric), z, v) for metric in (plain, counted))
    torch.testing.assert_close(by_plain, by_counted, rtol=1e-12, atol=1e-12)
    a, b = (geodesic(m, z, v) for m in (plain, counted))
    torch.testing.assert_close(a.length, b.length, rtol=1e-12, atol=0)
    assert counted.mean.evaluations > 100


def test_a_decoder_stops_when_its_time_is_up(generator):
    counted = Counted(mlp())
    z = torch.randn(4, 2, generator=generator, dtype=DTYPE)
    counted.restart(-1.0)
    with pytest.raises(OutOfTime):
        counted(z)
    counted.restart(60.0)
    counted(z)


# Competing


def test_every_method_runs_every_setting_on_the_sphere(rows):
    assert [(row.method, row.setting) for row in rows] == [
        (m, k) for m in METHODS for k in range(len(contest.SWEEPS[m]))
    ]
    assert all(row.in_time and row.seconds > 0 and row.evaluations > 0 for row in rows)
    assert set(contest.SWEEPS) == set(contest.STANDARD) == set(METHODS)


def test_errors_are_against_the_shortest(rows):
    best = contest.shortest(rows)
    problem = contest_problems.sphere(3, seed=0)
    ends = problem.exact.immersion(torch.stack([problem.start, problem.end], dim=1))
    exact = 2 * torch.asin(ends.diff(dim=1).norm(dim=-1)[:, 0] / 2)
    torch.testing.assert_close(best, exact, rtol=1e-5, atol=0)
    for method in ("newton", "spline", "georce", "bvp", "fixed_point"):
        found = contest.success(rows, "sphere", method)
        assert (found.solved, found.claimed, found.claimed_and_longer) == (1, 1, 0)
    accurate = [row for row in rows if row.method == "newton"][-1]
    assert (torch.tensor(accurate.lengths, dtype=DTYPE) / best - 1).max() < 1e-6


def test_what_is_out_of_time_has_no_result_and_is_not_tried_finer():
    problem = contest_problems.sphere(3, seed=0)
    slow = contest.compete(problem, budget=1e-4)
    assert [row.method for row in slow] == list(METHODS)
    assert not any(row.in_time for row in slow)
    # the decoder is as it was
    geodesic(problem.metric, problem.start, problem.end)


def test_successes_by_hand():
    row = Row("p", "newton", contest.STANDARD["newton"], 2.0, 10, [1.0, 2.0, 3.1, 4.0], [True, False, True, True])
    other = Row("p", "spline", contest.STANDARD["spline"], 1.0, 10, [1.0005, 2.0, 3.0, 4.5], [True] * 4)
    found = contest.success([row, other], "p", "newton")
    assert (found.solved, found.claimed, found.claimed_and_longer, found.seconds) == (0.75, 0.75, 0.25, 0.5)
    assert contest.success([row, other], "p", "spline").solved == 0.75
    assert contest.success([row, replace(other, lengths=[])], "p", "spline") is None
    assert contest.success([row], "p", "bvp") is None
    values = {n["quantity"]: n["value"] for n in contest.numbers([row, other])}
    assert values["p: pairs solved by newton"] == 75
    assert values["p: pairs solved by bvp"] == "out of time"


def test_rows_go_through_json(rows):
    assert contest.from_json(json.loads(json.dumps(contest.as_json(rows)))) == rows


# Problems


def test_convolutional_problem(monkeypatch, tmp_path, generator):
    from geolib.companion.data.datasets import ImageData

    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path))
    train, test = torch.rand(64, 784, generator=generator), torch.rand(10, 784, generator=generator)
    labels = torch.zeros(64, dtype=torch.long)
    data = ImageData("noise", train, labels, test, labels[:10], (0,), "local", True, {"noise": "1"}, "")
    problem = contest_problems.convolutional(data, 2, epochs=1, seed=0, device=torch.device("cpu"))
    assert problem.start.shape == problem.end.shape == (2, 16)
    torch.testing.assert_close(problem.latents.std(0), torch.ones(16), rtol=2e-2, atol=0)
    assert problem.metric(problem.start).shape == (2, 16, 16)
    torch.testing.assert_close(
        problem.exact(problem.start.double()), problem.metric(problem.start).double(), rtol=1e-3, atol=1e-5
    )
    (weights,) = tmp_path.glob("conv-decoder-*.safetensors")
    stamp = weights.stat().st_mtime_ns
    again = contest_problems.convolutional(data, 2, epochs=1, seed=0, device=torch.device("cpu"))
    assert weights.stat().st_mtime_ns == stamp
    assert torch.equal(again.start, problem.start)


# Keeping what was measured


def test_a_measurement_is_made_once(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path))
    calls = []

    def measure():
        calls.append(1)
        return {"seconds": [0.1, 0.2 + len(calls)]}

    first = measurements.kept("test", {"a": 1}, measure)
    assert measurements.kept("test", {"a": 1}, measure) == first
    assert len(calls) == 1
    assert measurements.kept("test", {"a": 2}, measure) != first
    monkeypatch.setattr(measurements, "code", lambda: "another")
    measurements.kept("test", {"a": 1}, measure)
    assert len(calls) == 3
    for path in tmp_path.glob("test-*.json"):
        path.write_text("{broken")
    measurements.kept("test", {"a": 1}, measure)
    assert len(calls) == 4


def test_the_codes_fingerprint_is_of_every_file():
    assert len(measurements.code()) == 12
    assert measurements.code() == measurements.code()


# Pictures


def test_panels_draw_what_there_is(style, rows):
    cut = [row if row.method != "bvp" else replace(row, lengths=[], converged=[]) for row in rows]
    figure = contest_panels.work_precision(cut)
    assert len(figure.axes) == 2
    drawn = {line.get_label(): line.get_xdata() for line in figure.axes[0].lines}
    assert set(drawn) == set(METHODS)
    assert len(drawn["bvp"]) == 0
    assert len(drawn["newton"]) == 5
    table = contest_panels.successes(cut)
    words = [text.get_text() for text in table.axes[0].texts]
    assert len(words) == len(METHODS)
    assert words.count("out of time") == 1
    assert any(word.startswith("100 %  (100 %)") for word in words)


def test_counted_needs_no_sequential(generator):
    """A decoder that is no nn.Sequential goes through torch's own forward mode, and is counted all the same."""

    class Own(nn.Module):
        def forward(self, z):
            return torch.cat([z.sin(), z.square()], dim=-1)

    z = torch.randn(3, 2, generator=generator, dtype=DTYPE)
    plain, counted = PullbackMetric(Own()), PullbackMetric(Counted(Own()))
    torch.testing.assert_close(plain(z), counted(z))
    g = geodesic(counted, z[:1], z[1:2], method="spline")
    assert g.converged.all()
    assert counted.mean.evaluations > 0
