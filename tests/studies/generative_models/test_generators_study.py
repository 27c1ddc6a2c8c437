"""Notebook 11's study: Jacobians that are known, what is off the data, and what decides each claim."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from geolib.companion.models.generators import MeanGenerator
from geolib.companion.models.grid import LatentGrid
from geolib.companion.studies.evidence import Verdict
from geolib.companion.studies.generative_models import generators as study
from geolib.companion.studies.generative_models.generators import DAE, GAN, MODELS, VAES, Generators, Landscape, Spread
from geolib.companion.studies.generative_models.support import TwoSampleTest

pytestmark = pytest.mark.smoke


def linear(J):
    """A decoder with this Jacobian everywhere."""
    layer = nn.Linear(2, len(J), bias=False)
    layer.weight = nn.Parameter(torch.tensor(J).float(), requires_grad=False)
    return SimpleNamespace(mean=layer, encode=lambda x: x[:, :2], parameters=layer.parameters)


def test_a_jacobian_that_is_known(generator):
    latents = torch.randn(50, 2, generator=generator)
    # singular values 6 and 2, in turned coordinates of the output
    J = [[0.0, 2.0], [6 * math.cos(0.3), 0.0], [6 * math.sin(0.3), 0.0]]
    images = torch.randn(50, 3, generator=generator)
    data = SimpleNamespace(train_images=images, test_images=images)
    g = MeanGenerator(data, linear(J), latents, latents, 7, 2)
    found = study.landscape("linear", g, resolution=9)
    assert (found.label, found.n_classes, found.n_collapsed) == ("linear", 7, 2)
    for log_det, kappa in ((found.log_det, found.kappa), (found.log_det_at_data, found.kappa_at_data)):
        torch.testing.assert_close(log_det, torch.full_like(log_det, math.log(144)), rtol=1e-6, atol=0)
        torch.testing.assert_close(kappa, torch.full_like(kappa, 3.0), rtol=1e-6, atol=0)
    assert found.log_det.shape == found.off.shape == (9, 9)
    assert found.error_ratio > 1
    assert 0.5 < found.check.share <= 1


def test_percentiles_of_values_of_which_some_are_infinite():
    values = torch.cat([torch.arange(1.0, 100.0), torch.tensor([math.inf])])
    assert Spread.of(values.reshape(10, 10)) == Spread(6.0, 51.0, 95.0)
    assert Spread.of(torch.full((10,), math.inf)).low == math.inf


def landscapes(**kappas):
    """Landscapes of constant log det 0 at the data and -1 off it, with these medians of the condition number."""
    grid = LatentGrid(torch.arange(10.0), torch.arange(10.0))
    off = torch.zeros(10, 10, dtype=torch.bool)
    off[:5] = True
    out = {}
    for name in MODELS:
        kappa = torch.full((10, 10), kappas.get(name, 2.0))
        kappa[0] = kappas.get(f"{name}_high", float(kappa[1, 1]))
        log_det = torch.where(off, -1.0, 0.0)
        log_det[0] -= kappas.get(f"{name}_span", 0.0)
        out[name] = [
            Landscape(
                name,
                torch.zeros(3, 2),
                grid,
                off,
                log_det,
                kappa,
                torch.zeros(9),
                torch.full((9,), 1.5),
                0,
                8,
                0.9,
                TwoSampleTest(0.7, 0.001, 1000),
            )
        ]
    return out


def generators(shares=(0.1, 0.3, 0.1), **kappas):
    parts = dict(zip(("line", "without", "with_sigma"), (torch.tensor([s]) for s in shares), strict=True))
    curves = SimpleNamespace(**parts, off=SimpleNamespace(shares=lambda share: share))
    return Generators(landscapes(**kappas), curves, [])


def verdicts(found):
    """By the beginning of the claim."""
    return {claim["claim"][:12]: claim["verdict"] for claim in found.claims}


CLAIMS = {
    "the Jacobian": {f"{VAES[1]}_high": 11.0},
    "the architec": {VAES[0]: 1.0, VAES[2]: 2.1},
    "the denoisin": {DAE: 1.9},
    "of all five,": {f"{DAE}_high": 300.0},
}


def test_claims_hold_where_they_should():
    found = generators(**{DAE: 3.0, f"{GAN}_high": 200.0, f"{GAN}_span": 5.0})
    assert set(verdicts(found).values()) == {str(Verdict.SUPPORTED)}
    assert len(found.claims) == 6


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_fails_alone(claim):
    good = {DAE: 3.0, f"{GAN}_high": 200.0, f"{GAN}_span": 5.0}
    told = verdicts(generators(**{**good, **CLAIMS[claim]}))
    assert told[claim] == str(Verdict.CONTRADICTED)


def test_geodesics_that_stay_contradict_and_the_text_says_so():
    found = generators(shares=(0.1, 0.14, 0.1))
    assert verdicts(found)["a metric tha"] == str(Verdict.CONTRADICTED)
    assert found.percent("without sigma") == "14.0 %"
    assert "less of a difference" in found.leaving
    assert "they do leave" in generators(shares=(0.1, 0.16, 0.1)).leaving


def test_a_metric_that_is_high_off_the_data_contradicts():
    found = generators()
    for one in (found.landscapes[name][0] for name in VAES):
        one.log_det.neg_()
    assert verdicts(found)["the metric i"] == str(Verdict.CONTRADICTED)
    assert "0 of the 3" in found.away


def test_every_model_is_compared_with_its_data():
    rows = {row["quantity"]: row["value"] for row in generators().numbers}
    assert sum("principal components" in quantity for quantity in rows) == len(MODELS) - 1  # the GAN has no encoder
    assert [value for quantity, value in rows.items() if "nearest neighbour" in quantity] == [70.0] * len(MODELS)


@pytest.mark.parametrize(
    ("p", "said"), [(0.051, ("passes", "pass", "not told apart")), (0.05, ("fails", "fail", "told"))]
)
def test_the_two_sample_check_of_the_adversarial_network(p, said):
    found = generators()
    first = found.landscapes[GAN][0]
    found.landscapes[GAN][0] = dataclasses.replace(first, check=TwoSampleTest(0.52, p, 1000))
    (row,) = (r for r in found.numbers if r["quantity"] == f"{GAN}: two-sample check at the 5 % level, p-value")
    assert (row["value"], row["note"].partition(":")[0]) == (p, said[0])
    assert "1,000 images of each kind" in row["note"]
    assert f"Its images {said[1]} the two-sample check: they are {said[2]}" in found.check


def test_numbers_are_medians_over_seeds():
    found = generators()
    for factor in (3.0, 5.0):
        first = found.landscapes[GAN][0]
        other = Landscape(**{**vars(first), "kappa": first.kappa * factor, "n_collapsed": 1})
        found.landscapes[GAN].append(other)
    (row,) = (r for r in found.numbers if r["quantity"] == f"{GAN}: median kappa on the map")
    assert row["value"] == pytest.approx(6.0)
    assert "medians of 3 seeds" in row["note"]
    assert (
        found.collapse == "Its first training did not collapse; of what it generates 8 of the 10 classes have a share."
    )


def test_models_that_are_well_conditioned_are_named():
    assert generators(**{DAE: 30.0, GAN: 40.0}).conditioning.endswith(f"for {VAES[0]}, {VAES[1]} and {VAES[2]}.")
    assert generators(**dict.fromkeys(MODELS, 30.0)).conditioning.startswith("No model's")
