"""Run a notebook end to end, as the Makefile does.

``python -m geolib.companion.pipeline.execute notebooks/NN.ipynb ...``

papermill writes its output before the first cell and again on failure, and only warns of an unknown parameter. Here
the output goes beside its place and is moved there on success; a failed one is kept under another name; a parameter
that the notebook does not have is left out, and a figure that did not appear is an error. A line tells what goes on.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
import yaml
from papermill.exceptions import PapermillExecutionError

from geolib.companion.cache import progress, store
from geolib.companion.pipeline import display
from geolib.companion.pipeline.watch import Watch


def parameters_of(notebook: Path) -> set[str]:
    """The names in the notebook's tagged parameters cell.

    Raises:
        ValueError: where there is no such cell.
    """
    names = set(papermill.inspect_notebook(str(notebook)))
    if not names:
        raise ValueError(f"{notebook}: has no cell tagged 'parameters'")
    return names


class _WithoutAliases(yaml.SafeLoader):
    """A few lines of aliases can stand for more values than there is memory, or for a list in itself."""

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("aliases such as *name are not read")
        return super().compose_node(parent, index)


def profile_parameters(profile: Path, notebook: Path) -> dict[str, object]:
    """What a profile or a recipe (``params/``), shared by all notebooks, sets in this one: the names that it has."""
    contents = profile.read_bytes()
    try:
        values = yaml.load(contents.decode(), Loader=_WithoutAliases)
    except Exception as error:  # a date, a number, a tag or its depth: a damaged file fails in many ways
        raise ValueError(f"{profile}: not a YAML file of parameters ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{profile}: got {values!r}, expected lines of 'name: value'")
    names = parameters_of(notebook)
    for name, value in values.items():
        if name in names and not _is_plain(value):
            raise ValueError(
                f"{profile}: {name}: got {value!r}, a {type(value).__name__}; expected a number, a text, true, false, "
                f"null or lists of these. A date such as 2024-01-01 is a text only in quotes"
            )
    return {name: value for name, value in values.items() if name in names}


def _is_plain(value: object) -> bool:
    """Whether a notebook can be given a value: YAML has dates, sets and bytes, too."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(inner) for name, inner in value.items())
    return value is None or isinstance(value, (bool, int, float, str))


def execute(
    notebook: Path,
    profile: Path,
    figures: list[str],
    output_directory: Path,
    *,
    animations: list[str] | None = None,
    plan: list[str] | None = None,
    recipe: Path | None = None,
) -> Path:
    """Run ``notebook`` with a profile's parameters and check that every declared figure was written by this run.

    Args:
        notebook: its path.
        profile: a YAML file of parameters.
        figures: stems that must appear in the figures' directory as ``.png``, ``.pdf`` and ``.json``.
        output_directory: where the executed notebook goes.
        animations: those of the stems that must appear as ``.gif``, too.
        plan: the names of all notebooks that are run, in order, for the line that tells what goes on.
        recipe: a YAML file of parameters that come before the profile's.

    Returns:
        the executed notebook's path.

    Raises:
        OSError: where figures or output cannot be written; found before the notebook is started.
        PapermillExecutionError: a cell failed; the notebook up to there is kept as ``NN.failed.ipynb``.
        FileNotFoundError: a declared figure is missing or older than this run.
    """
    output_directory = output_directory.absolute()  # the kernel runs in the notebook's folder
    for directory in (store.figures_directory(), store.derived_directory()):
        with store.scratch(directory):
            pass
    final = output_directory / notebook.name
    failed = final.with_suffix(".failed.ipynb")
    with store.scratch(output_directory) as scratch:
        # the file system's own clock, which may be coarser than time.time()
        started = scratch.stat().st_mtime_ns
        temporary = scratch / notebook.name
        try:
            parameters = profile_parameters(profile, notebook)
            if recipe:
                parameters |= profile_parameters(recipe, notebook)
            watch = Watch(notebook, profile.stem, plan or [], scratch / "progress")
            with display.Display(f"{notebook.stem}{watch.place}", watch.text) as line:
                line.keep(f"begins{_last_time(watch)}")
                _execute_once(notebook, temporary, parameters, scratch, watch)
                _check_figures(figures, animations or [], started)
                watch.keep()
                temporary.replace(final)  # last: where it stands, nothing is left to do
                line.end(f"done in {display.clock(watch.seconds)}")
        finally:
            if temporary.exists():  # it did not come to be the final one
                temporary.replace(failed)
                print(f"{notebook.name} failed; as far as it came, it is {failed}", file=sys.stderr)
    failed.unlink(missing_ok=True)
    return final


def _last_time(watch: Watch) -> str:
    left = watch.left()
    return "" if left is None else f", {display.clock(left)} last time"


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set variables of the environment for the block; kernels inherit them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _execute_once(notebook: Path, output: Path, parameters: dict[str, object], scratch: Path, watch: Watch) -> None:
    # The user's own start-up files and kernels must not change a figure; and where HOME is empty or read-only,
    # Jupyter still needs a place to write.
    places = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")
    values = {variable: str(store.make_directory(scratch / variable.lower())) for variable in places}
    values[progress.VARIABLE] = str(watch.inside.absolute())
    kernel_config = scratch / "ipythondir" / "profile_default" / "ipython_kernel_config.py"
    store.write_text(kernel_config, "c.IPKernelApp.log_level = 40\n")
    for attempt in (1, 2):
        try:
            with _environment(**values):
                papermill.execute_notebook(
                    str(notebook),
                    str(output),
                    parameters=parameters,
                    kernel_name="python3",
                    progress_bar=False,
                    log_output=False,
                    cwd=str(notebook.absolute().parent),
                    on_cell_start=watch.cell_starts,
                )
            return
        except PapermillExecutionError:
            raise
        except RuntimeError as error:
            # kernels started at the same moment can race for a port; no cell has run, so once more is safe
            if attempt == 2 or "Kernel died before replying" not in str(error):
                raise
            time.sleep(1)


def _check_figures(stems: list[str], animations: list[str], started: int) -> None:
    directory = store.figures_directory()
    files = [f"{stem}{suffix}" for stem in stems for suffix in (".png", ".pdf", ".json")]
    for path in (directory / file for file in [*files, *(f"{stem}.gif" for stem in animations)]):
        if not path.exists():
            raise FileNotFoundError(f"{path}: declared in the Makefile, but the notebook did not write it")
        if path.stat().st_mtime_ns < started:
            raise FileNotFoundError(f"{path}: declared in the Makefile, but left from an earlier run")


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0 on success, 1 with a message otherwise."""
    parser = argparse.ArgumentParser(prog="python -m geolib.companion.pipeline.execute", description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--profile", type=Path, required=True, help="e.g. params/quick.yaml")
    parser.add_argument("--figures", nargs="*", default=[], help="stems of the figures it must write")
    parser.add_argument("--animations", nargs="*", default=[], help="those of the stems that it must write as GIF, too")
    parser.add_argument("--output", type=Path, required=True, help="directory of executed notebooks")
    parser.add_argument("--plan", nargs="*", default=[], help="all notebooks that are run, in order")
    parser.add_argument("--recipe", type=Path, help="e.g. params/recipes/michelis_becker_code.yaml")
    given = parser.parse_args(arguments)
    try:
        execute(
            given.notebook,
            given.profile,
            given.figures,
            given.output,
            animations=given.animations,
            plan=given.plan,
            recipe=given.recipe,
        )
    except (OSError, ValueError, RuntimeError, PapermillExecutionError, nbformat.ValidationError) as error:
        print(f"{given.notebook.name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
