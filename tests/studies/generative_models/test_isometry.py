"""Notebook 17's study: what a stronger regulariser is said to do."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from project import small_generator

from geolib.companion.figures.generative_models import isometry as panels
from geolib.companion.figures.print_check import complaints
from geolib.companion.studies.generative_models import isometry as study

pytestmark = pytest.mark.smoke


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    one = study.measure({0.0: small_generator(tmp_path_factory)}, n_samples=3, resolution=9, seed=0)
    return study.Isometry(dict.fromkeys(study.STRENGTHS, one.trained[0.0]))


def improved(found, **means):
    """With these mean improvements without a variance, by strength, and errors that grow by a tenth."""
    trained = {}
    for k, (strength, one) in enumerate(found.trained.items()):
        mean = means.get(f"at_{strength:g}", 0.02)
        without = SimpleNamespace(mean=mean, half_width=0.001, improvement=torch.zeros(5))
        trained[strength] = dataclasses.replace(one, without=without, error_ratio=0.5 * (1 + k / 10))
    return study.Isometry(trained)


def test_the_smallest_strength_that_halves_is_named(found):
    assert improved(found).answer == "No strength here halves the mean improvement of 2.00 %."
    told = improved(found, at_100=0.009, at_1000=0.002).answer
    assert told == (
        "A strength of 100 is the smallest here that halves the mean improvement, from 2.00 to 0.90 %, at +30.0 % "
        "squared error."
    )


def test_every_strength_has_its_numbers(found):
    rows = found.numbers
    assert len(rows) == 5 * len(study.STRENGTHS)
    assert {row["id"] for row in rows} == {"B-5"}
    one = found.trained[0.0]
    assert one.kappa.shape == (9, 9)
    assert float(one.kappa.min()) >= 1
    assert "median condition number" in found.conditions
    assert "RBF variance" in found.with_variance


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize("panel", ["maps", "strengths"])
def test_panels_are_fit_for_print(found, panel):
    figure = getattr(panels, panel)(found)
    figure.canvas.draw()
    assert complaints(figure) == []
