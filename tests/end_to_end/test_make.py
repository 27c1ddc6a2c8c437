"""make: every figure from one command, nothing twice, nothing left of what failed. In copies of the checkout."""

import os
import re
import shutil

import nbformat
import pytest
from project import (
    NOTEBOOKS,
    ROOT,
    SUFFIXES,
    copy_checkout,
    declared_figures,
    executed,
    make,
    make_variable,
    pictures,
    run,
    would_execute,
)

from geolib.companion.models import recipes

# --- stand-ins that write what the notebooks declare, without torch: what is tested is make


STAND_IN = """
import json, os, pathlib
sidecar = {"caption": "", "numbers": [], "claims": [], "data": []}
sidecar |= {"profile": "quick", "commit": "?", "device": "cpu", "threads": 1}
folder = pathlib.Path(os.environ["GEOLIB_FIGURES"])
for name in FIGURES:
    (folder / f"{name}.png").write_text("picture")
    (folder / f"{name}.pdf").write_text("print")
    (folder / f"{name}.json").write_text(json.dumps({"figure": name, **sidecar}))
    if name in ANIMATED:
        (folder / f"{name}.gif").write_text("animation")
"""


def stand_in(path, figures, *after, animated=None):
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    notebook.metadata.kernelspec.language = "python"
    notebook.cells.append(nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]}))
    code = STAND_IN.replace("FIGURES:", f"{figures}:")
    moving = make_variable("ANIMATED").split() if animated is None else animated
    code = code.replace("ANIMATED:", f"{moving}:")
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in (code, *after)]
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    folder = copy_checkout(tmp_path_factory.mktemp("light"))
    for path in NOTEBOOKS:
        stand_in(folder / "notebooks" / path.name, declared_figures(path))
    done = make(folder, "-j2", "quick")
    assert done.returncode == 0, done.stdout + done.stderr
    stems = [path.stem for path in NOTEBOOKS]
    assert sorted(executed(done)) == stems
    # every line of several notebooks at a time tells whose it is, and which of how many
    *lines, _, _ = done.stdout.splitlines()
    said = [
        re.fullmatch(rf"(\w+) \[(\d+)/{len(stems)}\] (begins|done in [\d:]+|[\d:]+ so far.*)", line) for line in lines
    ]
    assert all(said), lines
    assert sorted({(match[2], match[1]) for match in said})[0] == ("1", "01_training")
    assert len({match[2] for match in said}) == len({match[1] for match in said}) == len(stems)
    # the long ones first
    place = {match[1]: int(match[2]) for match in said}
    long = make_variable("LONG").split()
    assert sorted(long, key=place.get) == long
    assert max(place[name] for name in long) == len(long)
    return folder


@pytest.fixture
def copy(light):
    """The copy with the stand-ins, up to date."""
    assert would_execute(light) == []
    yield light
    done = make(light, "-j2", "quick")
    assert done.returncode == 0, done.stderr


def touch(path):
    os.utime(path)
    return path


@pytest.mark.slow
def test_a_changed_notebook_makes_its_own_figures_anew(copy):
    rest = [path.stem for path in NOTEBOOKS if path.stem != "05_two_models"]
    before, others = pictures(copy, "05_two_models"), pictures(copy, *rest)
    touch(copy / "notebooks" / "05_two_models.ipynb")
    done = make(copy, "-j2", "quick")
    assert executed(done) == ["05_two_models"]
    assert re.match(r"05_two_models \[1/1\] begins, \d:\d\d last time\n", done.stdout)
    after = pictures(copy, "05_two_models")
    assert after.keys() == before.keys()
    assert all(after[name][1] > before[name][1] for name in after)
    assert pictures(copy, *rest) == others


@pytest.mark.slow
def test_a_changed_training_notebook_does_not_make_the_others_anew(copy):
    touch(copy / "notebooks" / "01_training.ipynb")
    assert executed(make(copy, "quick")) == ["01_training"]
    assert would_execute(copy) == []


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pdf", ".json"])
def test_a_deleted_file_runs_its_notebook_again(copy, suffix):
    (copy / "figures" / "quick" / f"04_histogram{suffix}").unlink()
    assert executed(make(copy, "quick")) == ["04_monte_carlo"]
    assert (copy / "figures" / "quick" / f"04_histogram{suffix}").exists()


@pytest.mark.slow
def test_an_animation_is_a_file_of_its_figure(copy):
    (copy / "figures" / "quick" / "14_motion.gif").unlink()
    assert executed(make(copy, "quick")) == ["14_motion"]
    assert (copy / "figures" / "quick" / "14_motion.gif").exists()
    notebook = copy / "notebooks" / "14_motion.ipynb"
    good = notebook.read_bytes()
    stand_in(notebook, declared_figures(NOTEBOOKS[0].with_name("14_motion.ipynb")), animated=[])
    (copy / "figures" / "quick" / "14_motion.gif").unlink()
    done = make(copy, "quick")
    assert done.returncode != 0
    assert "14_motion.gif: declared in the Makefile, but the notebook did not write it" in done.stderr
    assert pictures(copy, "14_motion") == {}
    notebook.write_bytes(good)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["params/quick.yaml", "requirements.lock", "geolib/metric.py", "geolib/solvers/spline.py"]
)
def test_whatever_figures_depend_on_makes_all_anew(copy, name):
    before = (copy / name).stat()
    touch(copy / name)
    touch(copy / ".venv" / ".ready")
    assert would_execute(copy) == [path.stem for path in NOTEBOOKS]
    os.utime(copy / name, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.slow
def test_deleted_data_and_unrelated_changes_make_nothing_anew(copy):
    shutil.rmtree(copy / "data" / "derived", ignore_errors=True)
    for name in ("README.md", "params/paper.yaml", "tests/conftest.py", "notebooks"):
        touch(copy / name)
    touch(copy / ".venv" / ".ready")
    assert would_execute(copy) == []


@pytest.mark.slow
def test_a_notebook_that_fails_leaves_no_figure_and_is_run_again(copy):
    others = pictures(copy, "04_monte_carlo")
    notebook = copy / "notebooks" / "05_two_models.ipynb"
    good, declared = notebook.read_bytes(), declared_figures(notebook)
    stand_in(notebook, declared, "raise RuntimeError('after all figures')")
    for _ in range(2):
        done = make(copy, "quick")
        assert done.returncode != 0
        assert "after all figures" in done.stderr
        assert "05_two_models.failed.ipynb" in done.stderr
        assert pictures(copy, "05_two_models") == {}
        assert pictures(copy, "04_monte_carlo") == others
    notebook.write_bytes(good)
    assert executed(make(copy, "quick")) == ["05_two_models"]
    assert len(pictures(copy, "05_two_models")) == 3 * len(declared)
    assert not (copy / "figures" / "quick" / "notebooks" / "05_two_models.failed.ipynb").exists()


@pytest.mark.slow
def test_a_notebook_that_forgets_a_figure_is_an_error(copy):
    notebook, declared = copy / "notebooks" / "04_monte_carlo.ipynb", declared_figures(NOTEBOOKS[4])
    good = notebook.read_bytes()
    for suffix in SUFFIXES:
        (copy / "figures" / "quick" / f"04_histogram{suffix}").unlink()
    stand_in(notebook, [name for name in declared if name != "04_histogram"])
    done = make(copy, "quick")
    assert done.returncode != 0
    assert "04_histogram.png: declared in the Makefile, but the notebook did not write it" in done.stderr
    assert pictures(copy, "04_monte_carlo") == {}
    notebook.write_bytes(good)


@pytest.mark.smoke
def test_clean_keeps_downloads_and_the_reference(tmp_path):
    copy_checkout(tmp_path)
    kept = {path.relative_to(tmp_path) for part in ("data", "figures") for path in (tmp_path / part).rglob("*.*")}
    assert kept
    made = [f"figures/01_training{suffix}" for suffix in SUFFIXES] + ["figures/numbers.md", "figures/notebooks/a.ipynb"]
    made += ["figures/14_motion.gif", "figures/quick/01_training.png", "data/derived/vae.safetensors"]
    for name in [*made, "data/raw/mnist/a-download.gz"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert make(tmp_path, "clean").returncode == 0
    assert [name for name in made if (tmp_path / name).exists()] == []
    assert all((tmp_path / name).exists() for name in [*kept, "data/raw/mnist/a-download.gz"])


@pytest.mark.slow
def test_strip_undoes_a_run(copy):
    notebook = copy / "notebooks" / "00_tour.ipynb"
    stand_in(notebook, declared_figures(NOTEBOOKS[0]))
    stored = nbformat.read(notebook, as_version=4)
    stored.cells[1].outputs = [nbformat.v4.new_output("stream", text="hello\n")]
    stored.cells[1].execution_count = 3
    nbformat.write(stored, notebook)
    assert make(copy, "strip").returncode == 0
    stripped = nbformat.read(notebook, as_version=4).cells[1]
    assert (stripped.outputs, stripped.execution_count, stripped.id) == ([], None, stored.cells[1].id)


# --- what make says


def ask(*arguments, unset=()):
    # -o: an environment that is older than requirements.lock is not set up anew by a test
    without = [word for name in unset for word in ("-u", name)]
    return run(["env", *without, "make", "-o", ".venv/.ready", *arguments])


@pytest.mark.smoke
@pytest.mark.parametrize("target", ["figures", "help", "quick"])
def test_a_profile_that_there_is_not(target):
    done = ask("PROFILE=nonsense", "--dry-run", target)
    assert done.returncode != 0
    assert "PROFILE: got 'nonsense', expected quick, paper or full" in done.stderr


@pytest.mark.smoke
@pytest.mark.parametrize("arguments", [[], ["help"]])
def test_help_lists_every_target(arguments):
    done = ask(*arguments)
    assert done.returncode == 0
    listed = re.findall(r"^  make (\w+) +(.+)$", done.stdout, flags=re.MULTILINE)
    (declared,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert sorted(name for name, _ in listed) == sorted(declared.split())
    assert all(len(text) > 5 and "##" not in text for _, text in listed)
    for variable in ("PROFILE", "RECIPE", "OMP_NUM_THREADS", "GEOLIB_DATA", "GEOLIB_DATA_SOURCE"):
        assert f"{variable}=" in done.stdout


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("target", "folder"),
    [
        ("quick", "figures/quick"),
        ("figures", "figures"),
        ("full", "figures/full"),
        ("PROFILE=full figures", "figures/full"),
    ],
)
def test_profiles_write_into_folders_of_their_own(target, folder):
    done = ask("--always-make", "--dry-run", "-o", "requirements.lock", *target.split())
    profile = folder.partition("/")[2] or "paper"
    commands = [line for line in done.stdout.splitlines() if "companion.pipeline.execute" in line]
    assert len(commands) == len(NOTEBOOKS)
    assert all(f"--profile params/{profile}.yaml" in line for line in commands)
    assert all(line.endswith(f"--output {folder}/notebooks") for line in commands)


@pytest.mark.smoke
@pytest.mark.parametrize(("profile", "folder"), [("paper", "figures"), ("quick", "figures/quick")])
def test_another_recipe_runs_its_notebooks_into_a_folder_of_its_own(profile, folder):
    arguments = ["--always-make", "--dry-run", "-o", "requirements.lock", f"PROFILE={profile}", "figures"]
    done = ask("RECIPE=michelis_becker_code", *arguments)
    commands = [line for line in done.stdout.splitlines() if "companion.pipeline.execute" in line]
    assert [re.search(r"notebooks/(\d\d)_", line)[1] for line in commands] == ["01", "02", "03", "04", "05"]
    assert all("--recipe params/recipes/michelis_becker_code.yaml" in line for line in commands)
    assert all(line.endswith(f"--output {folder}/michelis_becker_code/notebooks") for line in commands)
    assert "--recipe" not in ask(*arguments).stdout


@pytest.mark.smoke
def test_a_recipe_that_there_is_not():
    done = ask("RECIPE=cats", "--dry-run", "figures")
    assert done.returncode != 0
    assert "RECIPE: got 'cats', expected digits or michelis_becker_code" in done.stderr


@pytest.mark.smoke
def test_another_recipe_cannot_become_the_reference():
    done = ask("RECIPE=michelis_becker_code", "PROFILE=full", "--dry-run", "reference")
    assert done.returncode != 0
    assert "the reference is a run of RECIPE=digits" in done.stderr


@pytest.mark.smoke
def test_make_knows_the_recipes_that_notebooks_can_run_with():
    for name in recipes.PAIRS:
        assert ask(f"RECIPE={name}", "help").returncode == 0


@pytest.mark.smoke
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_waits_for_the_training_whose_models_it_uses(path):
    """That these lists are right is seen where the notebooks are run."""
    own_models = make_variable("OWN_MODELS").split()
    figure = f"figures/quick/{declared_figures(path)[0]}.png"
    done = ask("--always-make", "--dry-run", "PROFILE=quick", "-o", "requirements.lock", figure)
    ran = re.findall(r"companion\.pipeline\.execute notebooks/(\w+)", done.stdout)
    assert ran == list(dict.fromkeys([*(["01_training"] if path.stem not in own_models else []), path.stem]))


@pytest.mark.smoke
def test_threads_are_shared_among_notebooks():
    show = ["--silent", "--eval", "show: ; @echo $$OMP_NUM_THREADS", "show"]

    def threads(*arguments, unset=("OMP_NUM_THREADS",)):
        return ask(*show, *arguments, unset=unset).stdout.strip()

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert threads() == str(cores)
    assert threads("-j2") == threads("-j") == threads("--jobs=4") == "1"
    assert threads("OMP_NUM_THREADS=3") == "3"
    assert threads("-j2", unset=()) == "1"  # the environment's, which the helper sets


@pytest.mark.smoke
def test_a_make_that_is_too_old_is_told_so():
    done = ask("--dry-run", "help", ".FEATURES=target-specific")
    assert done.returncode != 0
    assert "This Makefile needs GNU Make 4.3 or newer" in done.stderr


@pytest.mark.parametrize("name", ["it's $HOME; `touch oops` (#,", "$(shell touch oops)"])
@pytest.mark.parametrize("given", ["environment", "command"])
def test_any_name_of_the_folder_with_the_data_is_only_a_name(name, given, tmp_path):
    """It used to be a word of a shell's command. What make has seen of the data changes only when the data does."""
    folder = copy_checkout(tmp_path / "copy")
    data = tmp_path / name
    (data / "mnist").mkdir(parents=True)
    (data / "mnist" / "one.gz").touch()

    def seen():
        words = [] if given == "environment" else [f"GEOLIB_DATA={str(data).replace('$', '$$')}"]
        environment = {"GEOLIB_DATA": data} if given == "environment" else {}
        done = run(["make", "--dry-run", *words, "figures"], cwd=folder, **environment)
        assert done.returncode == 0, done.stderr
        return (folder / "figures" / ".data").read_text(), (folder / "figures" / ".data").stat().st_mtime_ns

    first = seen()
    assert f"folder={data} files=" in first[0]
    assert "one.gz" in first[0]
    assert seen() == first
    (data / "mnist" / "two.gz").touch()
    assert seen()[0] != first[0]
    assert not [path for path in tmp_path.rglob("oops")]
