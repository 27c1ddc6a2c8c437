"""The numbers table: what the paper says, what the reference run gave, what this run gave.

``python -m geolib.companion.pipeline.numbers`` writes ``numbers.md`` beside the figures; with ``--keep`` small copies
of the pictures and the numbers of this run become the reference in ``figures/reference``.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from geolib.companion.cache import store

REFERENCE = store.PROJECT / "figures" / "reference"
_REFERENCE_WIDTH = 800  # pixels
_MOVED = 0.05  # percent


def collect(directory: Path) -> list[dict[str, Any]]:
    """Every sidecar of ``directory``, in the order of the figures' names."""
    sidecars = []
    for path in sorted(directory.glob("[0-9][0-9]_*.json")):
        sidecars.append(json.loads(path.read_text(encoding="utf-8")))
    return sidecars


def _shown(value: float | str | None, unit: str) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    digits = f"{value:.4g}" if not float(value).is_integer() or abs(value) >= 1e6 else f"{int(value)}"
    return f"{digits} {unit}".strip()


def _verdict(value: float | str, paper: float | str | None) -> str:
    """How far this run is from the paper's number, in words; nothing where the paper gives none."""
    if not isinstance(paper, (int, float)) or not isinstance(value, (int, float)) or paper == 0:
        return ""
    return f"{value / paper:.2f} times the paper's"


def _moved(value: float | str, kept: float | str | None) -> str:
    """How far this run is from the reference run, in words; nothing where they agree to rounding."""
    if not isinstance(kept, (int, float)) or not isinstance(value, (int, float)) or kept == 0:
        return ""
    change = 100 * (value / kept - 1)
    return f"{change:+.2g} % against the reference" if abs(change) >= _MOVED else ""


def table(sidecars: list[dict[str, Any]], reference: dict[str, Any]) -> str:
    """The Markdown table."""
    rows = []
    for sidecar in sidecars:
        for entry in sidecar["numbers"]:
            kept = reference.get("numbers", {}).get(f"{entry['id']}: {entry['quantity']}")
            unit = entry["unit"]
            note = "; ".join(
                part
                for part in (_verdict(entry["value"], entry["paper"]), _moved(entry["value"], kept), entry["note"])
                if part
            )
            cells = [
                entry["id"],
                entry["quantity"],
                _shown(entry["paper"], unit),
                _shown(kept, unit),
                _shown(entry["value"], unit),
                f"`{sidecar['figure']}`",
                note,
            ]
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    notices = sorted({s["data"]["notice"] for s in sidecars if s["data"] and s["data"]["notice"]})
    data = f"**Substitute data: {'; '.join(notices)}.** " if notices else ""
    about = reference.get("about", "no reference run is stored")
    return "\n".join(
        [
            "# Numbers: the paper, the reference run, this run",
            "",
            f"{data}This run: {_made_by(sidecars)}. Reference run: {about}.",
            "",
            "| id | quantity | paper | reference | this run | figure | note |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _made_by(sidecars: list[dict[str, Any]]) -> str:
    """Commits, devices and threads of a set of figures; an incremental run can have several."""
    commits, devices, threads = (
        " and ".join(sorted({str(sidecar[key]) for sidecar in sidecars})) for key in ("commit", "device", "threads")
    )
    return f"commit {commits}, device {devices}, {threads} threads"


def _reference() -> dict[str, Any]:
    path = REFERENCE / "numbers.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def keep_as_reference(sidecars: list[dict[str, Any]], directory: Path) -> None:
    """Store small copies of the pictures and the numbers under ``figures/reference``."""
    numbers = {f"{n['id']}: {n['quantity']}": n["value"] for s in sidecars for n in s["numbers"]}
    notices = sorted({s["data"]["notice"] for s in sidecars if s["data"] and s["data"]["notice"]})
    about = ", ".join([_made_by(sidecars), *notices])
    for sidecar in sidecars:
        with Image.open(directory / f"{sidecar['figure']}.png") as picture:
            height = round(picture.height * _REFERENCE_WIDTH / picture.width)
            small = picture.convert("RGB").resize((_REFERENCE_WIDTH, height), Image.Resampling.LANCZOS)
            with store.replacing(REFERENCE / f"{sidecar['figure']}.png") as temporary:
                small.save(temporary, optimize=True)
    store.write_text(REFERENCE / "numbers.json", json.dumps({"about": about, "numbers": numbers}, indent=1) + "\n")
    kept = {f"{sidecar['figure']}.png" for sidecar in sidecars}
    for old in REFERENCE.glob("*.png"):
        if old.name not in kept:
            old.unlink()


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m geolib.companion.pipeline.numbers", description=__doc__)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--where", action="store_true", help="only say where pictures and numbers are")
    group.add_argument("--keep", action="store_true", help="make this run the reference in figures/reference")
    given = parser.parse_args(arguments)
    directory = store.figures_directory()
    sidecars = collect(directory)
    if not sidecars:
        print(f"{directory}: no figures yet; run `make figures`", file=sys.stderr)
        return 1
    path = directory / "numbers.md"
    if given.where:
        print(f"pictures: {directory}/*.png and *.pdf ({len(sidecars)} figures)\nnumbers:  {path}")
        return 0
    if given.keep:
        keep_as_reference(sidecars, directory)
    store.write_text(path, table(sidecars, _reference()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
