"""Numbers, addresses and pictures in the texts: ``python -m geolib.companion.pipeline.texts`` fills them in.

A number of a Markdown page stands between marks, ``<!--=real MB-2: mean relative improvement .2f-->1.54<!--=-->``: its
source (``real`` and ``bundled`` are the reference runs, ``bench`` and ``gallery`` are ``make bench``), its name and its
format. The verdict on a claim is marked in the same way, with the format ``s``. The address of the repository stands in
``pyproject.toml`` and goes from there into the notebooks' badges and first cells. The gallery of notebooks is made from
their titles and the reference pictures.
"""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat

from geolib.companion.cache import store

SOURCES = {
    "real": "figures/reference/numbers.json",
    "bundled": "figures/reference/bundled.json",
    "bench": "benchmarks/results.json",
    "gallery": "benchmarks/gallery.json",
}
_MARK = re.compile(r"<!--=(\w+) ([^>]+?) (\.\d[efg%]|,\.0f|s)-->[^<]*<!--=-->")
_BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")
_INSTALL = re.compile(r"^(\s*)%pip install .*$", re.MULTILINE)


def filled(text: str, numbers: Callable[[str], dict[str, Any]]) -> str:
    """``text`` with every marked number replaced by the one that ``numbers(source)`` has under its name.

    Raises:
        ValueError: for a source or a name that there is not.
    """

    def value(match: re.Match) -> str:
        source, name, form = match.groups()
        known = numbers(source)
        if name not in known:
            raise ValueError(f"{match.group()}: {SOURCES[source]} has no number of that name")
        return f"<!--={source} {name} {form}-->{known[name]:{form}}<!--=-->"

    return _MARK.sub(value, text)


def stored(project: Path) -> Callable[[str], dict[str, Any]]:
    """The numbers and verdicts of a source, as they stand in the checkout."""

    def numbers(source: str) -> dict[str, Any]:
        if source not in SOURCES:
            raise ValueError(f"source: got {source!r}, expected one of {', '.join(map(repr, SOURCES))}")
        kept = store.read_json(project / SOURCES[source])
        about = kept["about"] if isinstance(kept["about"], dict) else {}
        return {**about, **kept["numbers"], **kept.get("verdicts", {})}

    return numbers


def address(project: Path) -> str:
    """The repository's address, from ``pyproject.toml``."""
    return tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def badge(repository: str, notebook: str) -> str:
    """The Markdown of a badge that opens a notebook on Colab."""
    place = repository.removeprefix("https://github.com/")
    page = f"https://colab.research.google.com/github/{place}/blob/main/notebooks/{notebook}.ipynb"
    # a picture of our own: opening a notebook in JupyterLab asks no other host
    return f"[![Open in Colab](colab.svg)]({page})"


def addressed(notebook: nbformat.NotebookNode, repository: str, name: str) -> None:
    """Put the repository's address into a notebook's badge, below its title, and into its first cell of code."""
    title = notebook.cells[0]
    if not _BADGE.search(title.source):
        head, _, rest = title.source.partition("\n")
        title.source = f"{head}\n\n{badge(repository, name)}\n{rest}"
    title.source = _BADGE.sub(badge(repository, name), title.source)
    setup = next(cell for cell in notebook.cells if cell.cell_type == "code")
    install = f'%pip install --quiet "latent-geolib[companion] @ git+{repository}"'
    setup.source = _INSTALL.sub(lambda match: match.group(1) + install, setup.source)


def gallery(project: Path) -> str:
    """The page ``notebooks/README.md``: a row per notebook with its pictures, its title and its badge."""
    rows = []
    for path in sorted((project / "notebooks").glob("[0-9]*.ipynb")):
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")
        pictures = sorted((project / "figures" / "reference").glob(f"{path.stem[:2]}_*.png"))
        shown = " ".join(f'<img src="../figures/reference/{p.name}" width="220" alt="{p.stem}">' for p in pictures)
        rows.append(f"| [{title}]({path.name})<br>{badge(address(project), path.stem)} | {shown} |")
    return "\n".join(
        [
            "# Notebooks",
            "",
            "Every notebook runs by itself, in any order: what it needs and does not find, it trains or computes, and",
            "keeps in `data/derived`. `make figures` runs them all, `make lab` opens them in JupyterLab. The pictures",
            "are those of the last full run ([`figures/README.md`](../figures/README.md)). `make texts` made this.",
            "",
            "| notebook | figures |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def texts(project: Path) -> dict[Path, str]:
    """What every page and notebook that this module writes should hold."""
    numbers = stored(project)
    pages = {path: filled(path.read_text(encoding="utf-8"), numbers) for path in [project / "README.md"]}
    for path in sorted((project / "notebooks").glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        addressed(notebook, address(project), path.stem)
        pages[path] = json.dumps(_in_lines(notebook), indent=1, ensure_ascii=False) + "\n"
    pages[project / "notebooks" / "README.md"] = gallery(project)
    return pages


def _in_lines(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """The notebook as it stands in its file, with sources as lists of lines."""
    return json.loads(nbformat.writes(notebook, version=nbformat.NO_CONVERT))


def main(arguments: list[str] | None = None) -> int:
    """The command line: writes what differs and says so; with ``--check`` only says so, and fails."""
    parser = argparse.ArgumentParser(prog="python -m geolib.companion.pipeline.texts", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a text is not up to date")
    given = parser.parse_args(arguments)
    differ = []
    for path, text in texts(store.PROJECT).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            differ.append(path)
            if not given.check:
                store.write_text(path, text)
    for path in differ:
        print(f"{path.relative_to(store.PROJECT)} {'is not up to date' if given.check else 'written'}")
    return 1 if given.check and differ else 0


if __name__ == "__main__":
    sys.exit(main())
