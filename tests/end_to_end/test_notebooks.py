"""The notebooks: how they are stored, that they agree with params/ and the Makefile, and that they run."""

import ast
import itertools
import json
import re
import shlex
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.kernelspec import get_kernel_spec
from project import (
    NOTEBOOKS,
    ROOT,
    SEEN,
    TINY,
    code_cells,
    declared_figures,
    make_variable,
    parameters,
    read,
    run,
)

from geolib.companion.cache import store
from geolib.companion.models import recipes
from geolib.companion.models.recipes import recipe
from geolib.companion.pipeline import execute

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def tagged(cell, tag):
    return tag in cell.metadata.get("tags", [])


def source(path):
    """All code of a notebook as one tree; a line for IPython, such as %pip, becomes the call that it stands for."""
    return ast.parse("".join(TransformerManager().transform_cell(cell.source) for cell in code_cells(path)))


def calls(path, name):
    return [node for node in ast.walk(source(path)) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


# --- how they are stored


@pytest.mark.smoke
@every_notebook
def test_stored_without_what_a_run_leaves_behind(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        hidden = {"jupyter": {"source_hidden": True}} if tagged(cell, "see") else {}
        assert {name: value for name, value in cell.metadata.items() if name != "tags"} == hidden, cell.id
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.id


@pytest.mark.smoke
def test_the_kernels_title_is_the_one_that_jupyterlab_writes():
    """It does so whenever it saves, and no strip takes that back."""
    titles = {read(path).metadata.kernelspec.display_name for path in NOTEBOOKS}
    assert titles == {get_kernel_spec("python3").display_name}


@pytest.mark.smoke
@every_notebook
def test_cells_have_ids_that_can_be_read(path):
    ids = [cell.id for cell in read(path).cells]
    assert len(set(ids)) == len(ids)
    for name in ids:
        assert re.fullmatch("[a-z]+(-[a-z0-9]+)*", name), name
        assert not re.fullmatch("[0-9a-f]{8}", name), f"{name} is one that Jupyter made up"


@pytest.mark.slow
def test_nbstripout_finds_nothing_to_strip():
    flags = shlex.split(make_variable("STRIP"))
    done = run([sys.executable, "-m", "nbstripout", "--verify", *flags, *NOTEBOOKS])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_strip_flags_undo_a_run(tmp_path):
    """What JupyterLab stores after a run strips back byte for byte."""
    flags = shlex.split(make_variable("STRIP"))
    notebook = read(NOTEBOOKS[2])
    notebook.metadata.language_info.update(version="3.99", pygments_lexer="ipython3", file_extension=".py")
    notebook.metadata.language_info.update(codemirror_mode={"name": "ipython", "version": 3}, mimetype="text/x-python")
    notebook.metadata.language_info.nbconvert_exporter = "python"
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    notebook.metadata.papermill = {"duration": 1.0}
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        cell.execution_count = count
        cell.outputs = [nbformat.v4.new_output("stream", text="hello\n")]
        cell.metadata.execution = {"iopub.status.busy": "2026-01-01"}
        cell.metadata.papermill = {"status": "completed"}
    copy = tmp_path / "run.ipynb"
    nbformat.write(notebook, copy)
    assert run([sys.executable, "-m", "nbstripout", "--verify", *flags, copy]).returncode == 1
    assert run([sys.executable, "-m", "nbstripout", *flags, copy]).returncode == 0
    assert copy.read_bytes() == NOTEBOOKS[2].read_bytes()


# --- what they hold


@pytest.mark.smoke
@every_notebook
def test_the_second_code_cell_holds_the_parameters_and_nothing_but_literals(path):
    assert [i for i, cell in enumerate(code_cells(path)) if tagged(cell, "parameters")] == [1]
    assert parameters(path)
    assert execute.parameters_of(path) == set(parameters(path))


@pytest.mark.smoke
@every_notebook
def test_defaults_are_those_of_the_default_profile(path):
    paper = yaml.safe_load((ROOT / "params" / "paper.yaml").read_text())
    own = parameters(path)
    assert own == {name: paper.get(name) for name in own}
    assert [type(value) for value in own.values()] == [type(paper[name]) for name in own]


@pytest.mark.smoke
@pytest.mark.parametrize("profile", ["quick", "paper", "full"])
def test_a_profile_sets_every_parameter_and_no_other(profile):
    union = {"profile"}.union(*map(parameters, NOTEBOOKS))
    values = yaml.safe_load((ROOT / "params" / f"{profile}.yaml").read_text())
    assert set(values) == union == set(TINY)
    assert values["profile"] == profile


@pytest.mark.smoke
@every_notebook
def test_a_figure_records_exactly_the_notebooks_parameters(path):
    (call,) = calls(path, "begin")
    (name,) = call.args
    assert ast.literal_eval(name) == path.stem
    recorded = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert recorded == {name: name for name in parameters(path)}
    assert list(parameters(path))[:2] == ["profile", "seed"]


@pytest.mark.smoke
def test_the_makefile_knows_every_notebook():
    assert make_variable("NOTEBOOKS").split() == [path.stem for path in NOTEBOOKS]


@pytest.mark.smoke
@every_notebook
def test_the_makefile_knows_every_figure(path):
    saved = [ast.literal_eval(call.args[2]) for call in calls(path, "save")]
    assert [f"{path.name[:2]}_{name}" for name in saved] == declared_figures(path)
    assert saved


@pytest.mark.smoke
@every_notebook
def test_notebooks_have_no_numerics_of_their_own(path):
    for node in ast.walk(source(path)):
        assert not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)), ast.unparse(node)
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        # importlib looks whether the package is there
        assert {name.split(".")[0] for name in imported} <= {"torch", "geolib", "importlib"}, ast.unparse(node)


@pytest.mark.smoke
@every_notebook
def test_a_notebook_its_study_and_its_panels_carry_the_same_name(path):
    name = path.stem[3:]
    found = {
        kind: [file.parent.name for file in (ROOT / "geolib" / "companion" / kind).glob(f"*/{name}.py")]
        for kind in ("studies", "figures")
    }
    (group,) = found["studies"]
    assert found["figures"] == [group]
    imported = {
        (node.module, alias.name)
        for node in ast.walk(source(path))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {(f"geolib.companion.{kind}.{group}", name) for kind in found} <= imported


@pytest.mark.smoke
def test_every_file_of_panels_belongs_to_a_notebook():
    files = (ROOT / "geolib" / "companion" / "figures").glob("*/*.py")
    assert {file.stem for file in files} - {"__init__"} == {path.stem[3:] for path in NOTEBOOKS}


# --- how they teach


@pytest.mark.smoke
@every_notebook
def test_the_opening_is_a_title_and_three_short_cells(path):
    cells = read(path).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    opening = code_cells(path)[:3]
    assert [cell.id for cell in opening] == ["setup", "parameters", "begin"]
    assert cells[1:3] == opening[:2], "a title, what is imported, what is studied"
    setup, values, begin = (cell.source.splitlines() for cell in opening)
    # what installs the package on Colab is not the reader's
    assert len([line for line in setup if line.startswith(("import ", "from "))]) <= 9
    assert len(setup) <= 14
    assert len(values) <= 9
    assert len(begin) <= 6


@pytest.mark.smoke
@every_notebook
def test_cells_of_code_are_short(path):
    long = {cell.id: len(cell.source.splitlines()) for cell in code_cells(path)}
    assert {name: lines for name, lines in long.items() if lines >= 15} == {}


@pytest.mark.smoke
@every_notebook
def test_a_lesson_predicts_sees_and_ends_with_something_to_try(path):
    cells = read(path).cells
    headings = [line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    assert headings.count("## Try") == 1
    assert cells[-1].source.startswith("## Try\n")
    predicted = [i for i, cell in enumerate(cells) if cell.cell_type == "markdown" and "**Predict.**" in cell.source]
    answered = [i for i, cell in enumerate(cells) if tagged(cell, "see") and SEEN in cell.source]
    assert predicted
    assert predicted[0] < min(answered)
    for begin, end in itertools.pairwise([*predicted, len(cells)]):
        # what is to be explored by hand, no run can answer
        by_hand = [i for i, cell in enumerate(cells) if cell.id == "explorer"]
        assert any(begin < i < end for i in answered + by_hand), cells[begin].id
    # whatever is seen is said by the run
    assert [cell.id for cell in cells if ("run.see(" in cell.source) != tagged(cell, "see")] == []
    assert [cell.id for cell in cells if cell.cell_type == "markdown" and SEEN in cell.source] == []


def words(node):
    """The strings of an expression that a reader sees: not formats, not what stands between square brackets."""
    if isinstance(node, ast.Constant):
        yield from [node.value] if isinstance(node.value, str) else []
    elif isinstance(node, (ast.FormattedValue, ast.Subscript)):
        yield from words(node.value)
    else:
        for child in ast.iter_child_nodes(node):
            yield from words(child)


# what is no measurement: a year, the number of an equation or another notebook, part of a name or a formula
NOT_MEASURED = re.compile(
    r"\b(?:19|20)\d\d\b|\b(?:Eqs?\.|Algorithm|Sec\.|App\.|Fig\.|Table|[Nn]otebook) ?`?\d+(?:\.\d+)?`?"
)


def typed_numbers(code):
    found = []
    for text in words(ast.parse(code)):
        found += re.findall(r"(?<![\w\\])\d[\d.,]*", NOT_MEASURED.sub("", text))
    return found


@pytest.mark.smoke
@every_notebook
def test_what_we_see_has_no_typed_numbers(path):
    for cell in code_cells(path):
        if tagged(cell, "see"):
            assert typed_numbers(cell.source) == [], cell.id


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("code", "numbers"),
    [
        ('run.see(f"The mean is {mean:.2f} %, the largest of {n:,}.")', []),
        ('run.see(f"The mean is 1.5 %, the largest of {n:,}.")', ["1.5"]),
        (
            'run.see(f"It is {v[3]:>8.2f} " f"and {names[\'a 7\']}, by Eq. 2 and Algorithm 1 of Yang & Hauberg 2018.")',
            [],
        ),
        ("run.see(f\"It is {'3 times' if more else 'as'} large.\")", ["3"]),
        ('run.see("**What we see.** VAE1 and $z_1$ differ in 20 pairs.")', ["20"]),
    ],
)
def test_typed_numbers_are_found(code, numbers):
    assert typed_numbers(code) == numbers


# --- that they run


@pytest.mark.smoke
def test_another_recipe_brings_the_settings_of_its_variance():
    for file in sorted((ROOT / "params" / "recipes").glob("*.yaml")):
        chosen = recipe(file.stem)
        theirs = {"recipe": file.stem, **chosen.as_dict()["variance"]}
        for path in NOTEBOOKS:
            expected = {name: theirs[name] for name in parameters(path) if name in theirs}
            assert execute.profile_parameters(file, path) == expected, path.stem
            assert ("recipe" in expected) == (path.stem[:2] in ("02", "03", "04", "05")), path.stem
        assert file.stem in recipes.PAIRS


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Where the models of the authors' settings are, once one notebook has trained them."""
    return tmp_path_factory.mktemp("trained")


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 5])
def test_a_notebook_runs_with_the_settings_of_the_authors_code(monkeypatch, places, trained, number):
    monkeypatch.setenv("GEOLIB_DERIVED", str(trained))
    notebook = NOTEBOOKS[number]
    where = ["--profile", str(places / "tiny.yaml"), "--output", str(places / "executed")]
    chosen = [
        "--recipe",
        str(ROOT / "params/recipes/michelis_becker_code.yaml"),
        "--figures",
        *declared_figures(notebook),
    ]
    assert execute.main([str(notebook), *where, *chosen]) == 0
    sidecar = json.loads((places / "figures" / f"{declared_figures(notebook)[0]}.json").read_text())
    assert sidecar["parameters"]["recipe"] == "michelis_becker_code"
    assert sidecar["recipes"]["michelis_becker_code"]["model"]["architecture"] == "convolutional"
    assert sidecar["recipes"]["michelis_becker_code"]["variance"]["n_centers"] == 8


@pytest.fixture
def places(monkeypatch, tmp_path):
    """A profile, and folders for derived data, figures and executed notebooks, all of one test's own."""
    monkeypatch.setenv("GEOLIB_DERIVED", str(tmp_path / "derived"))
    monkeypatch.setenv("GEOLIB_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("GEOLIB_DATA_SOURCE", "bundled")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("GEOLIB_DATA", raising=False)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return tmp_path


def execute_in(folder, notebook, *figures):
    where = ["--profile", str(folder / "tiny.yaml"), "--output", str(folder / "executed")]
    return execute.main([str(notebook), *where, "--figures", *figures])


def write_notebook(path, *cells, tagged="seed = 0", language="python"):
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    notebook.metadata.kernelspec.language = language
    if tagged is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(tagged, metadata={"tags": ["parameters"]}))
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(notebook, path)
    return path


def save(*suffixes):
    """A cell that stands for saving.save, without the seconds that importing torch takes."""
    lines = ["import os, pathlib", 'folder = pathlib.Path(os.environ["GEOLIB_FIGURES"])']
    return "\n".join(lines + [f'(folder / "99_it.{suffix}").write_text(str(seed))' for suffix in suffixes])


SUFFIXES = ("png", "pdf", "json")
SAVE = save(*SUFFIXES)


@pytest.mark.slow
def test_a_notebook_that_fails(places, capsys):
    notebook = write_notebook(places / "99_test.ipynb", SAVE, "print('so far')", "raise RuntimeError('no further')")
    assert execute_in(places, notebook, "99_it") == 1
    said = capsys.readouterr().err
    assert "RuntimeError: no further" in said
    assert f"99_test.ipynb failed; as far as it came, it is {places}/executed/99_test.failed.ipynb" in said
    assert [path.name for path in (places / "executed").iterdir()] == ["99_test.failed.ipynb"]
    outputs = [o for cell in code_cells(places / "executed" / "99_test.failed.ipynb") for o in cell.outputs]
    assert "so far\n" in [output.get("text") for output in outputs]
    # once it is repaired the failed one goes
    write_notebook(notebook, SAVE)
    assert execute_in(places, notebook, "99_it") == 0
    assert [path.name for path in (places / "executed").iterdir()] == ["99_test.ipynb"]
    assert (places / "figures" / "99_it.png").read_text() == str(TINY["seed"])


@pytest.mark.slow
def test_a_declared_figure_that_does_not_appear(places, capsys):
    notebook = write_notebook(places / "99_test.ipynb", SAVE)
    assert execute_in(places, notebook, "99_it", "99_other") == 1
    said = capsys.readouterr().err
    assert "99_other.png: declared in the Makefile, but the notebook did not write it" in said
    assert [path.name for path in (places / "executed").iterdir()] == ["99_test.failed.ipynb"]


@pytest.mark.slow
@pytest.mark.parametrize("left", ["png", "json"])
def test_a_figure_left_from_an_earlier_run(places, capsys, left):
    (places / "figures").mkdir()
    (places / "figures" / f"99_it.{left}").write_text("old")
    notebook = write_notebook(places / "99_test.ipynb", save(*(suffix for suffix in SUFFIXES if suffix != left)))
    assert execute_in(places, notebook, "99_it") == 1
    assert f"99_it.{left}: declared in the Makefile, but left from an earlier run" in capsys.readouterr().err
    assert not (places / "executed" / "99_test.ipynb").exists()


@pytest.mark.slow
def test_a_kernel_that_dies(places, capsys):
    notebook = write_notebook(places / "99_test.ipynb", "import os; os.kill(os.getpid(), 9)")
    assert execute_in(places, notebook) == 1
    assert "99_test.ipynb: " in capsys.readouterr().err
    assert not (places / "executed" / "99_test.ipynb").exists()


@pytest.mark.slow
def test_a_notebook_runs_in_its_own_folder_whatever_the_users_settings(monkeypatch, places, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    startup = tmp_path / "home" / ".ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("raise SystemExit('the user was here')")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "home" / ".ipython"))
    notebook = write_notebook(folder / "99_test.ipynb", "import pathlib; print(pathlib.Path.cwd())")
    monkeypatch.chdir(tmp_path)
    assert execute_in(places, Path("elsewhere/99_test.ipynb")) == 0
    (output,) = [o for cell in code_cells(places / "executed" / notebook.name) for o in cell.outputs]
    assert output.text == f"{folder}\n"


@pytest.mark.smoke
def test_a_notebook_without_parameters(places, capsys):
    notebook = write_notebook(places / "99_test.ipynb", "print('untagged')", tagged=None)
    assert execute_in(places, notebook) == 1
    assert "has no cell tagged 'parameters'" in capsys.readouterr().err
    assert list((places / "executed").iterdir()) == []


@pytest.mark.smoke
def test_what_is_no_notebook(places, capsys):
    (places / "99_test.ipynb").write_text("not a notebook")
    assert execute_in(places, places / "99_test.ipynb") == 1
    assert "99_test.ipynb: " in capsys.readouterr().err
    assert execute_in(places, places / "98_gone.ipynb") == 1
    assert "98_gone.ipynb: " in capsys.readouterr().err


@pytest.mark.smoke
@pytest.mark.parametrize("profile", [None, "", "- a list\n", "seed: [", "just words"])
def test_what_is_no_profile(places, capsys, profile):
    notebook = write_notebook(places / "99_test.ipynb", "raise RuntimeError('started')")
    (places / "tiny.yaml").unlink()
    if profile is not None:
        (places / "tiny.yaml").write_text(profile)
    assert execute_in(places, notebook) == 1
    said = capsys.readouterr().err
    assert "tiny.yaml" in said
    assert "started" not in said


@pytest.mark.smoke
def test_a_profile_gives_a_notebook_the_names_it_has(places):
    notebook = write_notebook(places / "99_test.ipynb", tagged="seed = 3\nzeta = 0.5")
    assert execute.profile_parameters(places / "tiny.yaml", notebook) == {"seed": 0, "zeta": 0.001}


@pytest.mark.smoke
@pytest.mark.parametrize("place", ["GEOLIB_FIGURES", "GEOLIB_DERIVED", "executed"])
def test_a_place_that_cannot_be_written_is_found_before_the_start(monkeypatch, places, capsys, place):
    monkeypatch.setattr(execute, "_execute_once", None)  # whoever starts the notebook fails
    obstacle = places / "obstacle"
    obstacle.write_text("a file where a directory is needed")
    if place == "executed":
        (places / "executed").symlink_to(obstacle)
    else:
        monkeypatch.setenv(place, str(obstacle))
    notebook = write_notebook(places / "99_test.ipynb", SAVE)
    assert execute_in(places, notebook, "99_it") == 1
    said = capsys.readouterr().err
    assert f"cannot create the directory {places / 'executed' if place == 'executed' else obstacle}" in said
    assert obstacle.read_text() == "a file where a directory is needed"


@pytest.mark.slow
@pytest.mark.parametrize(("deaths", "result"), [(1, 0), (2, 1)])
def test_a_kernel_that_dies_at_its_start_is_started_once_more(monkeypatch, places, capsys, deaths, result):
    starts = []

    def start(*arguments, **options):
        starts.append(arguments)
        if len(starts) <= deaths:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return original(*arguments, **options)

    original = execute.papermill.execute_notebook
    monkeypatch.setattr(execute.papermill, "execute_notebook", start)
    notebook = write_notebook(places / "99_test.ipynb", SAVE)
    assert execute_in(places, notebook, "99_it") == result
    assert len(starts) == 2
    assert ("Kernel died before replying" in capsys.readouterr().err) == bool(result)


@pytest.mark.smoke
def test_the_project_is_the_checkout():
    assert store.PROJECT == ROOT


@pytest.mark.parametrize(
    "value", ["2024-01-01", "2024-01-01 10:00:00", "!!set {a}", "!!binary aGk=", "[1, 2024-01-01]", "{1: 2}"]
)
def test_a_parameter_that_no_notebook_can_take_is_refused(value, tmp_path):
    """YAML takes what looks like a date for one; papermill cannot write it down."""
    profile = tmp_path / "odd.yaml"
    profile.write_text(f"seed: {value}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"odd\.yaml: seed: got .*; expected a number"):
        execute.profile_parameters(profile, NOTEBOOKS[1])
