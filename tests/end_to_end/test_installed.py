"""The package outside its checkout, as a notebook on Colab sees it: installed, in an empty folder."""

import json
import os
import sys

import nbformat
import pytest
from project import ROOT, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what pip installs from the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("geolib", "pyproject.toml", "README.md", "LICENSE"):
        done = run(["cp", "-r", ROOT / name, source])
        assert done.returncode == 0, done.stderr
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", target]
    done = run([*pip, source], timeout=300)
    assert done.returncode == 0, done.stderr
    assert (target / "geolib" / "companion" / "figures" / "style.py").exists()
    return target


def test_a_notebook_runs_from_an_empty_folder(installed, tmp_path):
    """Only its file is there; results go to the folder that it began in."""
    notebook = nbformat.read(ROOT / "notebooks" / "00_tour.ipynb", as_version=4)
    nbformat.write(notebook, tmp_path / "00_tour.ipynb")
    words = [sys.executable, "-m", "papermill", "-k", "python3", "--no-progress-bar", "--log-level", "ERROR"]
    done = run(
        [*words, "00_tour.ipynb", "out.ipynb", "-p", "profile", "quick"],
        cwd=tmp_path,
        timeout=300,
        PYTHONPATH=os.pathsep.join([str(installed)]),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    sidecar = json.loads((tmp_path / "figures" / "00_tour.json").read_text())
    assert sidecar["commit"] == "unknown"
    assert sidecar["profile"] == "quick"
    assert (tmp_path / "data" / "derived").is_dir()


def test_the_first_cell_installs_what_is_missing():
    """Where there is no geolib, every notebook's first cell installs it from the repository."""
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        setup = next(cell for cell in cells if cell.cell_type == "code").source.splitlines()
        assert setup[2].startswith('if find_spec("geolib") is None:'), path
        assert setup[3].startswith('    %pip install --quiet "latent-geolib[companion] @ git+'), path
