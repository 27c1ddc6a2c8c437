"""The contest of solvers: what is counted, what a budget does, and what is made of the results."""

import inspect
import json
import shutil
from dataclasses import replace

import pytest
import torch
from problems import mlp
from torch import nn

from geolib import METHODS, PullbackMetric, geodesic
from geolib.companion.cache import measurements
from geolib.companion.data.datasets import ImageData
from geolib.companion.figures.shortest_curves import solvers as panels
from geolib.companion.models import convolutional, recipes
from geolib.companion.studies import summaries
from geolib.companion.studies.shortest_curves import problems
from geolib.companion.studies.shortest_curves import solvers as study
from geolib.companion.studies.shortest_curves.solvers import Contest, Counted, OverBudget, Row
from geolib.paths.equation import acceleration
from geolib.riemannian import as_metric

pytestmark = pytest.mark.slow

DTYPE = torch.float64


@pytest.fixture(scope="module")
def rows():
    problem = problems.sphere(3, seed=0)
    return study.compete(problem, budget=20_000)


# Counting


def test_points_tangents_and_cotangents_are_counted(generator):
    z = torch.randn(5, 2, generator=generator, dtype=DTYPE)
    counted = Counted(mlp())
    counted(z)
    assert counted.evaluations == 5
    metric = PullbackMetric(counted)
    metric(z[:1])  # tried once
    counted.restart()
    metric(z)
    assert counted.evaluations == 5 * (1 + 2)
    counted.restart()
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


def test_a_decoder_stops_before_its_budget_is_exceeded(generator):
    counted = Counted(mlp())
    z = torch.randn(4, 2, generator=generator, dtype=DTYPE)
    counted.restart(11)
    counted(z)
    counted(z)
    with pytest.raises(OverBudget):
        counted(z)
    assert counted.evaluations == 8
    counted(z[:3])
    counted.restart(7)
    out = counted(z.requires_grad_())
    with pytest.raises(OverBudget):
        out.sum().backward()
    counted.restart()
    counted(z)


def test_a_count_is_the_same_in_every_run():
    """Whoever wins within a budget of evaluations wins on a loaded machine as well."""
    problem = problems.sphere(2, seed=0)
    geodesic(problem.metric, problem.start, problem.end, max_steps=2)  # what is done once per metric
    for method in METHODS:
        first, again = (study._run(problem, method, 0, 20_000) for _ in range(2))
        assert (first.evaluations, first.lengths) == (again.evaluations, again.lengths)


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_ends_every_method(method):
    """Its own bookkeeping is in proportion to its evaluations: a tolerance that nobody reaches ends all the same."""
    problem = problems.sphere(2, seed=0)
    counted = problem.metric.mean
    counted.restart(3_000)
    options = {"rtol": 1e-13, "max_steps": 10**6, "latents": problem.latents}
    with pytest.raises(OverBudget):
        geodesic(problem.metric, problem.start, problem.end, method=method, **options)
    assert 0 < counted.evaluations <= 3_000


# Competing


def test_every_method_runs_every_setting_on_the_sphere(rows):
    assert [(row.method, row.setting) for row in rows] == [(m, k) for m in METHODS for k in range(len(study.SWEEPS[m]))]
    assert all(row.ended and row.seconds > 0 and row.evaluations > 0 for row in rows)
    assert set(study.SWEEPS) == set(study.STANDARD) == set(METHODS)
    # the standard setting is geodesic()'s own
    defaults = {name: p.default for name, p in inspect.signature(geodesic).parameters.items()}
    for method, setting in study.STANDARD.items():
        for name, value in study.SWEEPS[method][setting].items():
            assert value == defaults.get(name, value) or (method, name) == ("discrete", "max_steps")


def test_errors_are_against_the_shortest(rows):
    found = Contest(rows, {"sphere": 3}, 20_000)
    best = found.shortest("sphere")
    problem = problems.sphere(3, seed=0)
    ends = problem.exact.immersion(torch.stack([problem.start, problem.end], dim=1))
    exact = 2 * torch.asin(ends.diff(dim=1).norm(dim=-1)[:, 0] / 2)
    torch.testing.assert_close(best, exact, rtol=1e-5, atol=0)
    for method in ("newton", "spline", "georce", "bvp", "fixed_point"):
        success = found.success("sphere", method)
        assert (success.solved, success.converged, success.converged_and_longer) == (3, 3, 0)
    accurate = [row for row in rows if row.method == "newton"][-1]
    assert found.excess(accurate).max() < 1e-6


def test_what_is_over_budget_has_no_result_and_is_not_tried_finer():
    problem = problems.sphere(3, seed=0)
    short = study.compete(problem, budget=50)
    assert [row.method for row in short] == list(METHODS)
    assert not any(row.ended for row in short)
    assert all(row.evaluations <= 3 * 50 for row in short), "a budget is of all pairs together"
    # the decoder is as it was
    geodesic(problem.metric, problem.start, problem.end)


def two_rows():
    row = Row("p", "newton", study.STANDARD["newton"], 2.0, 10, [1.0, 2.0, 3.1, 4.0], [True, False, True, True])
    return row, Row("p", "spline", study.STANDARD["spline"], 1.0, 10, [1.0005, 2.0, 3.0, 4.5], [True] * 4)


def test_successes_by_hand():
    row, other = two_rows()
    found = Contest([row, other], {"p": 4}, 2_000)
    success = found.success("p", "newton")
    counts = (success.solved, success.converged, success.converged_and_longer, success.seconds)
    assert counts == (3, 3, 1, 0.5)
    assert found.success("p", "spline").solved == 3
    assert Contest([row, replace(other, lengths=[])], {"p": 4}, 2_000).success("p", "spline") is None
    assert Contest([row], {"p": 4}, 2_000).success("p", "bvp") is None
    assert success.interval == summaries.share_interval(3, 4)
    values = {n["quantity"]: (n["value"], n["unit"], n["note"]) for n in found.numbers}
    note = "95 % interval 30 to 95 %; reported as converged: 3; of these not solved: 1"
    assert values["p: pairs solved by newton"] == (3, "of 4", note)
    assert values["p: pairs solved by bvp"] == ("over budget", "", "")
    assert "| `newton` | 3 | 30 to 95 % | 1 | p | – |" in found.table
    assert "| `bvp` | 0 | 0 to 49 % | 0 | – | p |" in found.table
    assert "Of 4 pairs, `newton` and `spline` solve the most: 3 (30 to 95 %)." in found.seen_in_success
    assert "2 curves were reported as converged without being within a thousandth" in found.seen_in_success
    assert (
        "is largest on *p*: of the 3 curves that it reports as converged there, 1 is a geodesic, but not the shortest "
        "known." in found.seen_in_success
    )
    assert "7 of 9 runs exceeded the budget of 2,000 evaluations per pair." in found.seen_in_success


def test_what_is_said_of_converged_curves_that_are_longer():
    row, other = two_rows()
    exact = replace(row, lengths=[1.0, 2.0, 3.0, 4.0])
    assert "None of them is from `newton`." in Contest([exact, other], {"p": 4}, 2_000).seen_in_success
    words = Contest([exact], {"p": 4}, 2_000).seen_in_success
    assert "No curve was reported as converged without" in words
    assert "`newton`," not in words and "None of them" not in words
    # the problem with the largest share, not the first one
    one = Contest(
        [row, other, replace(row, problem="q"), *(replace(r, problem="r") for r in (exact, other))],
        {"p": 4, "q": 4, "r": 4},
        2_000,
    )
    assert "largest on *p*" in one.seen_in_success
    two = [replace(row, problem="q", lengths=[1.1, 2.0, 3.1, 4.0]), replace(exact, problem="q", method="spline")]
    seen = Contest([row, other, *two], {"p": 4, "q": 4}, 2_000).seen_in_success
    assert "largest on *q*: of the 3 curves that it reports as converged there, 2 are geodesics" in seen


def test_intervals_of_shares():
    """Wilson's formula, written out."""
    z = 1.959963984540054
    for k, n in ((0, 10), (3, 4), (50, 50), (31, 50)):
        p = k / n
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
        assert summaries.share_interval(k, n) == pytest.approx((middle - half, middle + half), abs=1e-9)


def test_who_is_first_by_hand():
    row, other = two_rows()
    exact = replace(row, lengths=[1.0, 2.0, 3.0, 4.0])
    quick = replace(other, lengths=exact.lengths, evaluations=30)
    found = Contest([exact, quick, replace(exact, problem="q")], {"p": 4, "q": 4}, 2_000)
    assert (found.first("p", "seconds"), found.first("p", "evaluations")) == ("spline", "newton")
    assert (
        "Fastest to a median excess of 0.0001: `spline` on *p*; `newton` on *q*. "
        "Fewest decoder evaluations: `newton` on *p* and *q*." in found.seen_in_precision
    )
    assert set(found.coarse) == set(METHODS) - {"newton", "spline"}
    late = Contest([replace(exact, lengths=[], converged=[])], {"p": 4}, 2_000)
    assert late.first("p", "seconds") is None
    assert "no method gets there on *p*. Fewest decoder evaluations: the same." in late.seen_in_precision


def test_the_verdict_on_boundary_value_problems_by_hand():
    rows = [
        Row(p, method, study.STANDARD[method], 1.0, 10, [1.0], [True])
        for p in ("p", "q")
        for method in ("newton", "spline", "bvp")
    ]
    slow = [replace(row, seconds=10.0) if row.method == "bvp" else row for row in rows]
    none = [row for row in rows if row.method != "bvp"]
    for of, verdict in ((rows, "contradicted"), (slow, "supported"), (none, "supported")):
        (claim,) = Contest(of, {"p": 1, "q": 1}, 12_000).claims
        assert claim["verdict"] == verdict
    (claim,) = Contest([*slow[:3], *rows[3:]], {"p": 1, "q": 1}, 12_000).claims
    assert (claim["ours"], claim["verdict"]) == ("1 of 2 problems", "contradicted")


def test_a_contest_is_measured_once_per_setting(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path))
    standard = study.STANDARD["newton"]
    monkeypatch.setattr(
        study, "compete", lambda problem, budget: [Row(problem.name, "newton", standard, 1.0, 1, [1.0], [True])]
    )
    problem = problems.sphere(1, seed=0)
    for settings in ({"seed": 0}, {"seed": 0}, {"seed": 1}):
        found = study.measure([problem], budget=100, settings=settings)
        assert found.problems == ["sphere"]
        assert found.success("sphere", "newton").solved == 1
    assert len(list(tmp_path.glob("contest-*.json"))) == 2


def test_rows_go_through_json(rows):
    assert study.from_json(json.loads(json.dumps(study.as_json(rows)))) == rows


# Problems


def test_convolutional_problem(monkeypatch, tmp_path, generator):
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path))
    train, test = torch.rand(64, 784, generator=generator), torch.rand(10, 784, generator=generator)
    labels = torch.zeros(64, dtype=torch.long)
    data = ImageData("noise", train, labels, test, labels[:10], (0,), "local", True, {"noise": "1"}, "")
    training = convolutional.ConvolutionalTraining(epochs=1)
    problem = problems.convolutional(convolutional.trained_decoder(data, training), 2, seed=0)
    assert problem.start.shape == problem.end.shape == (2, 16)
    torch.testing.assert_close(problem.latents.std(0), torch.ones(16), rtol=2e-2, atol=0)
    assert problem.metric(problem.start).shape == (2, 16, 16)
    torch.testing.assert_close(
        problem.exact(problem.start.double()), problem.metric(problem.start).double(), rtol=1e-3, atol=1e-5
    )
    (weights,) = tmp_path.glob("conv-decoder-*.safetensors")
    stamp = weights.stat().st_mtime_ns
    again = convolutional.trained_decoder(data, training)
    assert weights.stat().st_mtime_ns == stamp
    assert torch.equal(problems.convolutional(again, 2, seed=0).start, problem.start)
    # one of another seed under its name is not taken for it
    contents = weights.read_bytes()
    convolutional.trained_decoder(data, convolutional.ConvolutionalTraining(epochs=1, seed=1))
    (other,) = set(tmp_path.glob("conv-decoder-*.safetensors")) - {weights}
    shutil.copy(other, weights)
    convolutional.trained_decoder(data, training)
    assert weights.read_bytes() == contents


def test_the_recipe_of_the_convolutional_decoder_by_profile():
    quick, paper, full = (recipes.recipe("convolutional", profile, seed=3) for profile in ("quick", "paper", "full"))
    assert [r.training.epochs for r in (quick, paper, full)] == [1, 5, 5]
    assert paper.as_dict()["training"]["seed"] == 3


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
    found = Contest(cut, {"sphere": 3}, 20.0)
    figure = panels.work_precision(found)
    figure.draw_without_rendering()
    assert len(figure.axes) == 2
    drawn = {line.get_label(): line.get_xdata() for line in figure.axes[0].lines}
    assert set(drawn) == set(METHODS)
    assert len(drawn["bvp"]) == 0
    assert len(drawn["newton"]) == 3
    looks = {(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in figure.axes[0].lines}
    assert len(looks) == len(METHODS)
    table = panels.successes(found)
    words = [text.get_text() for text in table.axes[0].texts]
    assert len(words) == len(METHODS)
    assert words.count("over budget") == 1
    assert any(word.startswith("3 of 3 (3)\n44 to 100 %\n") for word in words)


def test_panels_draw_a_problem_that_nothing_ended_within_the_budget(style):
    late = Contest([Row("p", "newton", 0, 2.0, 10, [], [])], {"p": 3}, 1_000)
    figure = panels.work_precision(late)
    figure.draw_without_rendering()
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["all over budget"] * 2
    assert {text.get_text() for text in panels.successes(late).axes[0].texts} == {"over budget"}


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
