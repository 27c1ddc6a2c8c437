"""Notebook 12's study: what decides each claim, on a small generator over real digits."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from project import bundled

from geolib.companion.figures.generative_models import fashion as panels
from geolib.companion.figures.print_check import complaints
from geolib.companion.models import generators
from geolib.companion.models.networks.autoencoder import Autoencoder, AutoencoderConfig
from geolib.companion.models.networks.learned_variance import LearnedVarianceConfig, LearnedVarianceVAE
from geolib.companion.studies.evidence import Verdict
from geolib.companion.studies.generative_models import fashion as study
from geolib.companion.studies.generative_models import fashion_curves, fashion_walks, variance_sweep
from geolib.companion.studies.generative_models.fashion_curves import MANY, WIDE
from geolib.companion.studies.generative_models.support import reconstruction_over_principal_components
from geolib.companion.studies.generative_models.variance_sweep import CENTERS, CHOSEN, CURVATURES, SETTINGS

pytestmark = pytest.mark.slow

ZETA = 0.05  # walls that a solver passes in no time


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    data = bundled(tmp_path_factory, (0, 1, 7))
    data = dataclasses.replace(data, train_images=data.train_images[:300], train_labels=data.train_labels[:300])
    config = LearnedVarianceConfig(widths=(16, 8))
    vae = LearnedVarianceVAE(config, generator=torch.Generator().manual_seed(1)).eval().requires_grad_(False)
    settings = {"zeta": ZETA, "target": "network"}
    return {(a, k): generators.generator(data, vae, curvature=a, n_centers=k, **settings) for a, k in SETTINGS}


@pytest.fixture(scope="module")
def found(models):
    return study.measure(models, n_pairs=3, n_steps=30, n_samples=2, resolution=11, seed=0, max_steps=5)


def test_settings_are_those_of_the_figure():
    assert len(SETTINGS) == 10
    assert {a for a, k in SETTINGS if k == 64} == set(CURVATURES)
    assert {k for a, k in SETTINGS if a == 1.25} == set(CENTERS)
    assert {CHOSEN, WIDE, MANY} <= set(SETTINGS)


def test_the_variance_is_fitted_to_the_networks(models):
    g = models[CHOSEN]
    off = (g.rbf(g.train_latents) / g.vae.std(g.train_latents)).log().abs()
    assert float(off.median()) < 0.1
    errors = generators.generator(g.data, g.vae, zeta=ZETA)
    assert float((errors.rbf(g.train_latents) / g.vae.std(g.train_latents)).log().abs().median()) > 0.5
    with pytest.raises(ValueError, match="target: got 'pixels', expected one of 'errors', 'network'"):
        generators.generator(g.data, g.vae, target="pixels")


# --- the sweep


def test_where_the_rbf_is_sure(models, found):
    g = models[CHOSEN]
    far = math.log(784) - 0.5 * math.log(ZETA)
    at_data = float(g.rbf(g.train_latents).sum(-1).log().double().median())
    on_map = g.rbf(found.grid.points).sum(-1).log()
    fitted = found.sweep.fitted[CHOSEN]
    torch.testing.assert_close(fitted.log_sigma, on_map)
    assert fitted.sure == pytest.approx(float((on_map < (at_data + far) / 2).double().mean()), abs=0.01)
    assert found.sweep.fitted[0.25, 64].sure < fitted.sure < found.sweep.fitted[3.0, 64].sure


def swept(sure, gaps, ratios=(1.0, 100.0)):
    fitted = {(a, 64): variance_sweep.Fitted(None, s, 0.0) for a, s in zip(CURVATURES, sure, strict=True)}
    for k, gap in zip(CENTERS, gaps, strict=True):
        fitted[1.25, k] = dataclasses.replace(fitted.get((1.25, k), variance_sweep.Fitted(None, 0.0, 0.0)), gap=gap)
    return variance_sweep.Sweep(torch.zeros(2, 2), fitted, ratios)


GROWING, GAPS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.0, 0.0, 0.1, 0.1, 0.2]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "ssss"),
        ({"sure": [0.1, 0.2, 0.3, 0.4, 0.4, 0.6]}, "sscs"),
        ({"gaps": [0.0, 0.0, 0.2, 0.1, 0.1]}, "sssc"),
        ({"gaps": [0.0, 0.0, -0.2, -0.1, -0.1]}, "sssc"),
        ({"ratios": (11.0, 100.0)}, "csss"),
        ({"ratios": (1.0, 9.0)}, "scss"),
    ],
)
def test_what_decides_the_claims_about_variances(changes, expected):
    sweep = swept(**{"sure": GROWING, "gaps": GAPS, **changes})
    assert "".join(claim["verdict"][0] for claim in sweep.claims) == expected
    assert len(sweep.numbers) == 2 + len(CURVATURES) + len(CENTERS)


# --- curves


def test_the_drawn_pair_comes_first_and_the_others_are_of_different_classes(models, found):
    g = models[CHOSEN]
    first, second = generators.class_pair(g, 7, 0)
    line = found.curves.line
    torch.testing.assert_close(line[0, [0, -1]], torch.stack([first, second]))
    assert len(line) == 4
    nearest = [torch.cdist(line[:, k], g.test_latents).argmin(-1) for k in (0, -1)]
    assert bool((g.test_labels[nearest[0]] != g.test_labels[nearest[1]]).all())
    for points in found.curves.curves.values():
        assert points.shape == line.shape
        steps = points.diff(dim=1).norm(dim=-1)
        assert bool((steps <= 1.1 * steps.mean(-1, keepdim=True) + 1e-6).all())  # shorter at a polygon's corners


def test_roughness_of_curves_that_are_known():
    class Identity:
        mean = staticmethod(lambda z: z)

    curves = fashion_curves.FashionCurves(SimpleNamespace(vae=Identity), None, None, {}, None, None, {})
    t = torch.linspace(0, 1, 257)
    even = torch.stack([t, torch.zeros_like(t)], dim=-1)[None]
    assert float(curves.roughness(even)) == pytest.approx(1, abs=0.1)  # 12 of 257 points are not quite even
    jump = torch.where(t < 0.5, 0.01 * t, 1.0)
    assert float(curves.roughness(torch.stack([jump, torch.zeros_like(t)], dim=-1)[None])) > 10


def decided(found, *, n_converged=2, **values):
    curves = dataclasses.replace(found.curves, n_converged=dict.fromkeys((CHOSEN, WIDE, MANY), n_converged))
    fixed = type("Fixed", (type(curves),), values)
    return [c["verdict"] for c in fixed(**{f.name: getattr(curves, f.name) for f in dataclasses.fields(curves)}).claims]


def test_what_decides_the_claims_about_curves(found):
    more = torch.tensor([0.1, 0.11, 0.12, 0.1])
    yes = torch.tensor([True] * 9)
    good = {"smoother": yes, "more_off": lambda self, setting: more}
    assert set(decided(found, **good)) == {str(Verdict.SUPPORTED)}
    assert set(decided(found, n_converged=1, **good)) == {str(Verdict.NOT_TESTABLE)}
    half = torch.tensor([True, False] * 4)
    assert decided(found, **{**good, "smoother": half})[0] == str(Verdict.CONTRADICTED)
    for setting, place in ((WIDE, 1), (MANY, 2)):

        def one_less(self, asked, setting=setting):
            return more - (0.1 if asked == setting else 0.0)

        verdicts = decided(found, **{**good, "more_off": one_less})
        assert [k for k, v in enumerate(verdicts) if v == str(Verdict.CONTRADICTED)] == [place]


# --- walks


def test_walks_have_the_same_beginnings_and_shares_are_of_their_points(models, found):
    walks = found.walks
    for points in (walks.riemannian, walks.euclidean, walks.scaled):
        assert points.shape == (fashion_walks.N_WALKERS, 31, 2)
        torch.testing.assert_close(points[:, 0], walks.riemannian[:, 0])
    on = ~walks.off(walks.euclidean)
    assert walks.on_the_data["Euclidean"] == pytest.approx(float(on.double().mean()))


@pytest.mark.parametrize(
    ("riemannian", "euclidean", "verdict"),
    [(0.96, 0.5, "supported"), (0.94, 0.5, "contradicted"), (0.99, 0.97, "contradicted")],
)
def test_what_decides_the_claim_about_walks(riemannian, euclidean, verdict):
    shares = [torch.arange(100) >= round(100 * share) for share in (riemannian, euclidean, 0.9)]
    walks = fashion_walks.Walks(*shares, lambda off: off)
    walks = dataclasses.replace(walks, riemannian=shares[0][None], euclidean=shares[1][None], scaled=shares[2][None])
    assert [claim["verdict"] for claim in walks.claims] == [verdict]
    assert walks.percent("Riemannian") == f"{100 * riemannian:.0f} %"


# --- the metric


def improvement(mean, half_width):
    interval = (mean - half_width, mean + half_width)
    return SimpleNamespace(mean=mean, half_width=half_width, interval=interval, improvement=torch.zeros(10))


@pytest.mark.parametrize(
    ("without", "with_rbf", "supported"),
    [((0.005, 0.001), (0.05, 0.01), True), ((0.02, 0.001), (0.05, 0.01), False), ((0.005, 0.01), (0.02, 0.01), False)],
)
def test_what_decides_whether_the_variance_explains_flatness(found, without, with_rbf, supported):
    improvements = {
        study.WITHOUT: improvement(*without),
        study.NETWORK: improvement(0.01, 0.001),
        study.RBF: improvement(*with_rbf),
    }
    changed = dataclasses.replace(found, improvements=improvements)
    assert (changed.claims[1]["verdict"] == "supported") == supported
    assert ("only where" in changed.explanation) == supported


@pytest.mark.parametrize(("network", "rbf", "verdict"), [(0.6, 5.0, "s"), (0.8, 5.0, "c"), (0.6, 0.6, "c")])
def test_what_decides_whether_a_measure_is_informative(found, network, rbf, verdict):
    off = found.curves.off(found.grid.points)
    volumes = {name: torch.where(off, rise, 0.0) for name, rise in ((study.NETWORK, network), (study.RBF, rbf))}
    at_data = {name: torch.zeros(5) for name in volumes}
    changed = dataclasses.replace(found, volumes=volumes, volumes_at_data=at_data)
    assert changed.rise(study.RBF) == pytest.approx(rbf)
    assert changed.claims[0]["verdict"][0] == verdict


def test_numbers_and_sentences_are_there(found):
    rows = [*found.numbers, *found.training_numbers, *found.sweep.numbers, *found.curves.numbers, *found.walks.numbers]
    assert all(isinstance(row["value"], (int, float)) for row in rows)
    assert "300 training images" in found.images
    assert "%" in found.separation
    assert all("%" in found.curves.percent_off(label) for label in found.curves.curves)
    assert [row["value"] for row in found.training_numbers][1] >= 1


def test_the_error_over_that_of_principal_components(models, generator):
    data = models[CHOSEN].data
    centred = data.train_images - data.train_images.mean(0)
    components = torch.linalg.svd(centred.double(), full_matrices=False).Vh[:2]
    test = (data.test_images - data.train_images.mean(0)).double()
    error = float((test - test @ components.T @ components).square().sum())
    model = Autoencoder(AutoencoderConfig(widths=(16, 8)), generator=generator).fixed()
    own = float((data.test_images - model.mean(model.encode(data.test_images))).double().square().sum())
    assert reconstruction_over_principal_components(data, model) == pytest.approx(own / error, rel=1e-3)


@pytest.mark.usefixtures("style")
@pytest.mark.parametrize("panel", ["latent_space", "variances", "geodesic", "extremes", "walks", "flatness"])
def test_panels_are_fit_for_print(found, panel):
    figure = getattr(panels, panel)(found)
    figure.canvas.draw()
    assert complaints(figure) == []
