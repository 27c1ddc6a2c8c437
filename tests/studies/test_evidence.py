"""evidence and summaries: verdicts on claims, rows of the numbers table, single numbers of a map."""

import json
import math

import pytest
import torch

from geolib.companion.studies import evidence, spread, summaries
from geolib.companion.studies.evidence import Claim, Verdict

pytestmark = pytest.mark.smoke

ORDER = Claim("RA-1", "a is above b", "a is at least twice b", lambda a, b: a >= 2 * b)
VALUE = Claim("MB-2", "10 %", "within 1", lambda mean: abs(mean - 10) <= 1, "10 %", Verdict.NOT_REPRODUCED)


# --- claims


@pytest.mark.parametrize(
    ("claim", "values", "verdict"),
    [
        (ORDER, {"a": 4.0, "b": 2.0}, "supported"),
        (ORDER, {"a": 3.9, "b": 2.0}, "contradicted"),
        (VALUE, {"mean": 9.5}, "supported"),
        (VALUE, {"mean": 8.5}, "not reproduced"),
    ],
)
def test_the_criterion_decides(claim, values, verdict):
    assert claim.decide("ours", **values) == {
        "id": claim.key,
        "claim": claim.text,
        "criterion": claim.criterion,
        "paper": claim.paper,
        "ours": "ours",
        "verdict": verdict,
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_decides_nothing(value):
    asked = []
    claim = Claim("A", "it", "always", lambda **values: asked.append(values) or True)
    assert claim.decide("–", a=1.0, b=value)["verdict"] == "not testable here"
    assert asked == []
    assert claim.decide("–", a=1.0, b=2.0)["verdict"] == "supported"


def test_a_criterion_may_answer_with_a_tensor():
    assert ORDER.decide("–", a=torch.tensor(3.0), b=torch.tensor(2.0))["verdict"] == "contradicted"
    assert ORDER.decide("–", a=torch.tensor(4.0), b=torch.tensor(2.0))["verdict"] == "supported"


def test_a_verdict_is_json():
    assert json.loads(json.dumps(VALUE.decide("9 %", mean=9.0)))["verdict"] == "supported"
    assert [str(verdict) for verdict in Verdict] == ["supported", "contradicted", "not reproduced", "not testable here"]


# --- numbers


def test_a_number_is_a_row_of_the_table():
    assert evidence.number("MB-2", "mean", 1.0) == {
        "id": "MB-2",
        "quantity": "mean",
        "value": 1.0,
        "unit": "",
        "paper": None,
        "note": "",
    }
    full = evidence.number("MB-2", "mean", 7.5, unit="%", paper=10.0, note="weights differ")
    assert (full["unit"], full["paper"], full["note"]) == ("%", 10.0, "weights differ")


def test_json_has_no_number_for_what_is_not_finite():
    for value in (math.inf, math.nan):
        assert evidence.number("A", "it", value)["value"] is None


# --- summaries


def test_decades():
    values = 10 ** torch.linspace(-2, 4, 101, dtype=torch.float64)
    assert summaries.decades(values) == pytest.approx(0.98 * 6)
    with_holes = torch.cat([values, torch.tensor([math.inf, math.nan], dtype=torch.float64)])
    assert summaries.decades(with_holes) == pytest.approx(0.98 * 6)
    assert summaries.decades(values[:100].reshape(4, 25)) == pytest.approx(0.98 * 5.94)
    assert summaries.decades(torch.full((3, 3), 7.0)) == 0


def test_alignment():
    def directions(*degrees):
        angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
        return torch.stack([angle.cos(), angle.sin()], dim=-1)

    assert summaries.alignment(directions(30, 30, 210)) == pytest.approx(1)  # 210 is 30 with the other sign
    assert summaries.alignment(directions(0, 90)) == pytest.approx(0)
    assert summaries.alignment(directions(10, 70, 130)) == pytest.approx(0)
    assert summaries.alignment(directions(0, 60)) == pytest.approx(0.5)
    assert summaries.alignment(directions(0, 60, 0, 60).reshape(2, 2, 2)) == pytest.approx(0.5)


def test_mean_median_share():
    assert summaries.mean(torch.tensor([1, 2, 6])) == 3
    assert summaries.mean(torch.full((100_000,), 0.1)) == float(torch.tensor(0.1))
    assert summaries.median(torch.tensor([9.0, 1.0, 4.0])) == 4
    assert summaries.median(torch.tensor([10.0, 1.0, 2.0, 3.0])) == 2.5
    assert summaries.share(torch.tensor([True, False, False, True, True])) == 0.6


# --- spread over retrained models


def test_spread_tells_training_from_draws(generator):
    """Forty models whose means have standard deviation 2, each known from 50 draws of standard deviation 5."""
    means = 2 * torch.randn(40, generator=generator, dtype=torch.float64)
    found = spread.of_means([m + 5 * torch.randn(50, generator=generator, dtype=torch.float64) for m in means])
    assert found.within == pytest.approx(5 / math.sqrt(50), rel=0.1)
    assert found.between == pytest.approx(2, rel=0.25)
    same = spread.of_means([5 * torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(40)])
    assert same.between < 0.5


def test_a_spread_is_the_variance_beyond_the_errors():
    found = spread.Spread([1.0, 3.0], [1.0, 1.0])
    assert (found.within, found.between) == (1, 1)  # variance 2, of which 1 is of the draws
    assert spread.Spread([1.0, 1.1], [1.0, 1.0]).between == 0
    rows = found.rows("length", unit="%")
    assert [row["value"] for row in rows] == [1, 1]
    assert rows[0]["quantity"] == "length: standard deviation between models"
    assert rows[0]["note"] == "2 seeds of training, 1 to 3"


def test_one_model_has_no_spread_between():
    found = spread.of_means([torch.tensor([1.0, 2.0])])
    assert math.isnan(found.between)
    assert found.rows("length") == []


def test_the_error_of_a_statistic_is_that_of_resampling(generator):
    sample = torch.randn(400, generator=generator, dtype=torch.float64)
    found = spread.of_statistic([sample], summaries.mean)
    assert found.estimates == [float(sample.mean())]
    assert found.within == pytest.approx(float(sample.std()) / 20, rel=0.2)
