"""why_ten_percent: the authors' rule and solver, written anew; the ladder's numbers, verdicts and panel."""

import dataclasses
import math

import pytest
import torch
from project import bundled
from scipy import optimize

from geolib import PullbackMetric, RBFPrecision, curve_length
from geolib.companion.figures.linear_interpolation import why_ten_percent as panels
from geolib.companion.figures.print_check import complaints
from geolib.companion.models import michelis_becker
from geolib.companion.models.recipes import recipe
from geolib.companion.studies.linear_interpolation import authors_solver as solver
from geolib.companion.studies.linear_interpolation import why_ten_percent as study
from geolib.spline import CubicBSpline

# --- their rule and their solver


@pytest.mark.smoke
def test_the_rule_counts_both_ends_in_full():
    t = torch.linspace(0, 1, 16, dtype=torch.float64)
    assert float(solver.rule_of_length(torch.ones(16))) == pytest.approx(16 / 15)
    assert float(solver.rule_at_constant_speed(torch.ones(()))) == pytest.approx(16 / 15)
    # the trapezoidal rule, which is exact for a speed that grows linearly, and half of both ends
    assert float(solver.rule_of_length(2 * t)) == pytest.approx(1 + 1 / 15)
    # slow at its ends, a curve of length 1 seems shorter than one of constant speed
    assert float(solver.rule_of_length(6 * t * (1 - t))) < 1


@pytest.mark.smoke
@pytest.mark.parametrize(("ratio", "percent"), [(0.0, 1.7), (4.0, 9.1), (5.0, 11.7)])
def test_in_one_dimension_the_rule_reports_what_is_not_there(ratio, percent):
    assert 100 * solver.exact_minimiser(ratio) == pytest.approx(percent, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.0, 3.0, 5.0])
def test_the_exact_minimiser_is_one(ratio):
    """Another minimiser, begun elsewhere, finds no curve of less energy, and the same report."""
    t = torch.linspace(0, 1, 16, dtype=torch.float64)

    def speeds(free):
        p = torch.tensor([0.0, *free, 1.0], dtype=torch.float64)
        curve = (1 - t) ** 3 * p[0] + 3 * (1 - t) ** 2 * t * p[1] + 3 * (1 - t) * t**2 * p[2] + t**3 * p[3]
        slope = 3 * ((1 - t) ** 2 * (p[1] - p[0]) + 2 * (1 - t) * t * (p[2] - p[1]) + t**2 * (p[3] - p[2]))
        return torch.exp(ratio * curve) * slope

    found = optimize.minimize(
        lambda free: float(speeds(free).square().sum()),
        [0.6, 0.7],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-14},
    )
    line = torch.exp(ratio * t)
    assert solver.exact_minimiser(ratio) == pytest.approx(1 - float(speeds(found.x).sum() / line.sum()), abs=1e-5)


@pytest.mark.smoke
def test_squared_speeds_are_those_of_the_metric(float64):
    mean = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Tanh(), torch.nn.Linear(5, 7))
    rbf = RBFPrecision(torch.randn(3, 2), torch.rand(3), torch.rand(3, 7), 0.1)
    z, velocity = torch.randn(6, 2), torch.randn(6, 2)
    for metric in (PullbackMetric(mean), PullbackMetric(mean, rbf)):
        expected = (velocity[:, None] @ metric(z) @ velocity[..., None]).squeeze()
        torch.testing.assert_close(solver.squared_speed(metric)(z, velocity), expected)


def bump(z, velocity):
    """A hill in the way: the direct line is long, and a curve around it is shorter."""
    return (1 + 8 * torch.exp(-4 * z.square().sum(-1))).square() * velocity.square().sum(-1)


def hill(z):
    """The same metric as ``bump``, as a tensor."""
    return (1 + 8 * torch.exp(-4 * z.square().sum(-1)))[..., None, None].square() * torch.eye(2).to(z)


def length(control):
    return curve_length(hill, CubicBSpline(control)(torch.linspace(0, 1, 2001, dtype=control.dtype)))


@pytest.mark.slow
def test_their_solver_finds_a_way_around(float64):
    start, end = torch.tensor([[-1.0, 0.1]]), torch.tensor([[1.0, 0.1]])
    found = solver.solve(bump, start, end)
    straight = length(torch.stack([start + t * (end - start) for t in torch.linspace(0, 1, 4)], dim=-2)[0])
    assert float(length(found.control_points[0])) < 0.9 * float(straight)
    assert float(found.improvement) > 0.1
    assert torch.equal(found.control_points[:, 0], start)
    torch.testing.assert_close(found.control_points[:, -1], end)
    # the rule of the line is the sum that the paper's length stands for
    t = torch.linspace(0, 1, 16)[:, None]
    speeds = bump(start + t * (end - start), (end - start).expand(16, -1)).sqrt()
    assert float(found.line) == pytest.approx(float(speeds.sum()) / 15)


@pytest.mark.slow
def test_pairs_are_solved_by_themselves(float64, monkeypatch):
    """Steps, restarts and the best curve are a pair's own."""
    start = torch.tensor([[-1.0, 0.1], [-1.0, 0.6], [2.0, 2.0]])
    end = torch.tensor([[1.0, 0.1], [1.0, 0.5], [2.5, 2.0]])
    monkeypatch.setattr(solver, "JITTER", 0.0)
    together = solver.solve(bump, start, end)
    alone = [solver.solve(bump, a[None], b[None]) for a, b in zip(start, end, strict=True)]
    torch.testing.assert_close(together.best, torch.cat([one.best for one in alone]))
    torch.testing.assert_close(together.control_points, torch.cat([one.control_points for one in alone]))


@pytest.mark.smoke
def test_a_pair_never_gets_longer_and_its_steps_shrink():
    tried = []

    def speed(z, velocity):
        tried.append(z.detach())
        # nothing is better than the line: away from it the speed is larger
        return velocity.square().sum(-1) * (1 + 100 * z[:, 1].square()) + 1e-3 * z[:, 1]

    start, end = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    found = solver.solve(speed, start, end)
    assert float(found.best) <= float(found.line)
    # the line; then rounds of four steps and a validation
    assert len(tried) == 1 + 20
    reach = [max(float(z[:, 1].abs().max()) for z in tried[1 + k : 6 + k]) for k in range(0, 20, 5)]
    assert reach[-1] < 0.1 * reach[0]


# --- the ladder


def measured(rung, solver_values, *, true=(1.0, 1.2), n=1):
    run = {"true": list(true), "rule": list(true), "solver": list(solver_values), "converged": 1.0}
    return study.Measured(rung, [run] * n if n == 1 else [{**run, "solver": [v] * 2} for v in solver_values])


def ladder(printed, *, missing=""):
    """Every rung prints 2 % but those named; each is measured on narrow samples."""
    rungs = [rung for rung in study.RUNGS if not missing or rung.key != "published"]
    return study.Ladder(
        [measured(rung, [printed.get(rung.key, 2.0) + shift for shift in (-0.1, 0.0, 0.1)]) for rung in rungs], missing
    )


@pytest.mark.smoke
def test_every_rung_differs_in_one_thing_from_an_earlier_one():
    seen = {}
    for rung in study.RUNGS:
        settings = {"recipe": rung.recipe, "step_size": rung.step_size}
        if rung.recipe:
            chosen = dataclasses.replace(recipe(rung.recipe), **rung.changes)
            settings |= {name: getattr(chosen, name) for name in ("n_centers", "curvature", "zeta", "fit")}
        if rung.since:
            before = seen[rung.since]
            changed = {name for name in settings if settings[name] != before.get(name)}
            # their fit comes with its bandwidths
            assert len(changed - {"curvature"}) <= 1 or rung.since == "ours", rung.key
            assert changed, rung.key
        seen[rung.key] = settings
    assert [rung.since for rung in study.RUNGS].count("") == 1
    assert set(study.REPEATED) <= set(seen)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("printed", "verdict", "decided"),
    [
        ({}, "not reproduced", ["not reproduced", "not reproduced"]),
        ({"published": 10.2}, "explained", ["supported", "supported"]),
        ({"code-8": 9.0}, "partly explained", ["not reproduced", "supported"]),
        ({"sixteen": 14.0}, "partly explained", ["not reproduced", "supported"]),
        # a larger step, or a part of their settings, is not what their code does
        ({"alpha-3": 10.2, "their-fit-64": 10.2}, "not reproduced", ["not reproduced", "not reproduced"]),
    ],
)
def test_the_verdict_follows_the_numbers(printed, verdict, decided):
    found = ladder(printed)
    assert found.verdict == verdict
    assert [claim["verdict"] for claim in found.claims] == decided


@pytest.mark.smoke
def test_a_wide_interval_explains_nothing():
    wide = study.Ladder(
        [measured(rung, [8.0, 10.0, 12.6] if rung.key == "code-64" else [2.0, 2.1]) for rung in study.RUNGS], ""
    )
    interval = wide["code-64"].solver
    assert interval.low < 10.2 < interval.high
    assert wide.explained == []
    assert wide.verdict == "partly explained"


@pytest.mark.smoke
def test_means_and_intervals_over_pairs_and_over_models():
    (first, *_) = study.RUNGS
    over_pairs = measured(first, [1.0, 2.0, 3.0]).solver
    assert over_pairs.value == pytest.approx(2.0)
    assert over_pairs.half == pytest.approx(4.302653 / math.sqrt(3))  # Student's t with two degrees of freedom
    over_models = measured(first, [1.0, 2.0, 3.0], n=3)
    assert (over_models.solver.value, over_models.solver.half) == pytest.approx((over_pairs.value, over_pairs.half))
    assert over_models.sample == "3 trained models, 2 pairs each"
    alone = study.mean_of([1.5])
    assert (str(alone), math.isnan(alone.half)) == ("1.50 %", True)


@pytest.mark.smoke
def test_the_largest_step_is_told():
    found = ladder({})
    k64 = dataclasses.replace(found["their-fit-64"], runs=[{**found["their-fit-64"].runs[0], "true": [6.0, 6.4]}])
    changed = study.Ladder([k64 if m.rung.key == "their-fit-64" else m for m in found.measured], "")
    # it is no further from the first rung than the next ones are from it
    assert changed.largest_step == "from “our model” to “their variance fit, $K$ = 64”, 1.10 to 6.20 % (+5.10)"


@pytest.mark.smoke
def test_the_step_that_the_paper_does_not_give_is_told():
    found = ladder({"alpha-3": 9.0, "code-64": 5.0})
    assert found.about_the_step == (
        "The paper does not say how long its step is. Their default is 1; with 3 instead, and 64 centres, their code "
        f"prints {found['alpha-3'].solver}, and {found['alpha-3'].true} is true."
    )
    assert str(found["alpha-3"].solver).startswith("9.00 % (")


@pytest.mark.smoke
def test_missing_weights_are_said_and_decide_nothing():
    found = ladder({}, missing="they are nowhere")
    assert found.about_the_published == "The published weights are missing here: they are nowhere"
    (row,) = [row for row in found.numbers if row["value"] == "missing"]
    assert row["note"] == "they are nowhere"
    assert len(found.measured) == len(study.RUNGS) - 1


@pytest.mark.smoke
def test_every_rung_is_a_row_of_its_own():
    found = ladder({"code-8": 3.0})
    rows = {row["quantity"]: row["value"] for row in found.numbers}
    assert len(rows) == len(found.numbers) == 2 * len(study.RUNGS) + 3
    assert rows["ladder 11, their decoder, K = 8: printed by their solver and rule"] == pytest.approx(3.0)
    assert rows["their rule in one dimension, speed changing by e^0"] == pytest.approx(1.7, abs=0.05)


@pytest.fixture
def short(monkeypatch, tmp_path, tmp_path_factory):
    """A ladder of three rungs on a few images, whose trainings take a second."""
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path))
    data = bundled(tmp_path_factory, (2, 4))
    few = dataclasses.replace(data, train_images=data.train_images[:96], train_labels=data.train_labels[:96])
    monkeypatch.setattr(study, "RUNGS", [rung for rung in study.RUNGS if rung.key in ("ours", "code-8", "published")])

    def made(name):
        chosen = recipe(name, "quick")
        return dataclasses.replace(chosen, load=lambda: few, training=dataclasses.replace(chosen.training, epochs=1))

    return made


@pytest.mark.slow
def test_rungs_are_measured_once(monkeypatch, short):
    def absent():
        raise FileNotFoundError("they are nowhere")

    monkeypatch.setattr(michelis_becker, "published_metric", absent)
    found = study.measure(short, n_pairs=2, n_seeds=2, seed=0)
    assert [len(m.runs) for m in found.measured] == [2, 2]
    assert [len(m.runs[0]["true"]) for m in found.measured] == [8, 2]
    assert found.missing == "they are nowhere"
    first, second = found["code-8"].runs
    assert first["true"] != second["true"], "both seeds are one model"
    for run in (first, second):
        assert min(run["true"]) >= 0
        assert min(run["solver"]) >= 0

    def never(*_, **__):
        raise AssertionError("measured twice")

    monkeypatch.setattr(study, "_improvements", never)
    assert study.measure(short, n_pairs=2, n_seeds=2, seed=0) == found


@pytest.mark.slow
def test_broken_weights_stop_before_anything_is_trained(monkeypatch, short, tmp_path):
    def broken():
        raise ValueError("is not the published file")

    monkeypatch.setattr(michelis_becker, "published_metric", broken)
    with pytest.raises(ValueError, match="is not the published file"):
        study.measure(short, n_pairs=2, n_seeds=1, seed=0)
    assert list(tmp_path.glob("vae-*")) == []


# --- the panel


@pytest.mark.slow
@pytest.mark.usefixtures("style")
@pytest.mark.parametrize("missing", ["", "they are nowhere"])
@pytest.mark.parametrize("printed", [{}, {"published": 10.2}, {"alpha-3": 31.0, "code-8": 10.0}])
def test_the_staircase_can_be_read(printed, missing):
    found = ladder(printed, missing=missing)
    figure = panels.staircase(found)
    figure.draw_without_rendering()
    assert complaints(figure) == []
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [m.rung.label for m in found.measured]
    assert axes.get_xlim()[1] > max(10.2, *(m.solver.high for m in found.measured))
    top, bottom = axes.get_ylim()[1], axes.get_ylim()[0]
    assert top < bottom, "the first rung stands at the top"
    assert len(axes.patches) == sum(m.rung.theirs for m in found.measured)


@pytest.mark.slow
@pytest.mark.usefixtures("style")
def test_dots_stand_at_the_means():
    found = ladder({"code-8": 7.0})
    axes = panels.staircase(found).axes[0]
    row = [m.rung.key for m in found.measured].index("code-8")
    diamonds = [line for line in axes.lines if line.get_marker() == "D" and len(line.get_xdata())]
    assert float(diamonds[row].get_xdata()[0]) == pytest.approx(7.0)
    assert float(diamonds[row].get_ydata()[0]) == pytest.approx(row, abs=0.3)
