"""The verdicts and the numbers: what the papers say, what the reference run gave, what this run gave.

``python -m geolib.companion.pipeline.numbers`` writes ``numbers.md`` beside the figures; with ``--keep`` the numbers of
this run become the reference in ``figures/reference``, with small copies of the pictures. A run on the bundled digits
leaves the pictures alone and is kept as ``bundled.json``.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from geolib.companion.cache import store
from geolib.companion.pipeline import watch
from geolib.companion.studies.evidence import Verdict

REFERENCE = store.PROJECT / "figures" / "reference"
_REFERENCE_WIDTH = 800  # pixels
_MOVED = 0.05  # percent
_VALUE = int | float | str | None
# what is asked of every record of these lists
_RECORDS = {
    "numbers": {"id": str, "quantity": str, "unit": str, "note": str, "value": _VALUE, "paper": _VALUE},
    "claims": {"id": str, "claim": str, "verdict": str, "criterion": str, "ours": str, "paper": str | None},
    "data": {"source": str, "notice": str},
}
_NEEDED = ("figure", "numbers", "claims", "data", "profile", "commit", "device", "threads")


def collect(directory: Path) -> list[dict[str, Any]]:
    """Every sidecar of ``directory``, in the order of the figures' names.

    Raises:
        ValueError: naming a file that is not one, as a full disk or an editor may leave it.
    """
    return [_sidecar(path) for path in sorted(directory.glob("[0-9][0-9]_*.json"))]


def _sidecar(path: Path) -> dict[str, Any]:
    try:
        sidecar = store.read_json(path)
        missing = [name for name in _NEEDED if not isinstance(sidecar, dict) or name not in sidecar]
        if missing:
            raise ValueError(f"without {', '.join(missing)}")
        for part, kinds in _RECORDS.items():
            if not isinstance(sidecar[part], list) or not all(_is_record(record, kinds) for record in sidecar[part]):
                raise ValueError(f"{part}: expected a list of records with {', '.join(kinds)}")
    except ValueError as error:
        raise ValueError(f"{path}: not a figure's record ({error}); remove it and run make again") from error
    return sidecar


def _is_record(record: object, kinds: dict[str, Any]) -> bool:
    return isinstance(record, dict) and all(name in record and isinstance(record[name], kinds[name]) for name in kinds)


def _shown(value: float | str | None, unit: str) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    digits = f"{value:.4g}" if not float(value).is_integer() or abs(value) >= 1e6 else f"{int(value)}"
    return f"{digits} {unit}".strip()


def _moved(value: float | str, before: float | str | None) -> str:
    """How far this run is from the reference run, in words; nothing where they agree to rounding."""
    if not isinstance(before, (int, float)) or not isinstance(value, (int, float)) or before == 0:
        return ""
    change = 100 * (value / before - 1)
    return f"{change:+.2g} % against the reference" if abs(change) >= _MOVED else ""


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _verdicts(sidecars: list[dict[str, Any]]) -> list[str]:
    """One line per claim of a paper, below how many there are of each verdict."""
    claims = [(claim, sidecar["figure"]) for sidecar in sidecars for claim in sidecar["claims"]]
    rows = []
    for claim, figure in claims:
        verdict = f"**{claim['verdict']}**"
        if claim.get("reason"):
            verdict += f" ({claim['reason']})"
        cells = [claim["id"], claim["claim"], verdict, claim["criterion"], claim["paper"] or "–", claim["ours"]]
        rows.append(_row([*cells, f"`{figure}`"]))
    return [
        "## The papers' claims",
        "",
        f"{_counted(sidecars)}.",
        "",
        "| id | claim | verdict | supported if | paper | this run | figure |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _counted(sidecars: list[dict[str, Any]]) -> str:
    """How many claims there are of each verdict, in words."""
    verdicts = [claim["verdict"] for sidecar in sidecars for claim in sidecar["claims"]]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict if verdict in verdicts]
    return f"{len(verdicts)} claims: " + ", ".join(counts) if verdicts else "no claims"


def _numbers(sidecars: list[dict[str, Any]], reference: dict[str, Any]) -> list[str]:
    rows = []
    for sidecar in sidecars:
        for entry in sidecar["numbers"]:
            before = reference.get("numbers", {}).get(f"{entry['id']}: {entry['quantity']}")
            values = [_shown(value, entry["unit"]) for value in (entry["paper"], before, entry["value"])]
            note = "; ".join(part for part in (_moved(entry["value"], before), entry["note"]) if part)
            rows.append(_row([entry["id"], entry["quantity"], *values, f"`{sidecar['figure']}`", note]))
    return [
        "## Numbers",
        "",
        "| id | quantity | paper | reference | this run | figure | note |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def table(sidecars: list[dict[str, Any]], reference: dict[str, Any]) -> str:
    """The Markdown page: first the verdicts, then paper, reference and this run side by side."""
    notices = _notices(sidecars)
    data = f"**Data: {'; '.join(notices)}.** " if notices else ""
    about = reference.get("about", "no reference run is stored")
    return "\n".join(
        [
            "# What the papers say, and what we find",
            "",
            f"{data}This run: {_made_by(sidecars)}. Reference run: {about}.",
            "",
            *_verdicts(sidecars),
            *_numbers(sidecars, reference),
        ]
    )


def _notices(sidecars: list[dict[str, Any]]) -> list[str]:
    return sorted({data["notice"] for sidecar in sidecars for data in sidecar["data"] if data["notice"]})


def _made_by(sidecars: list[dict[str, Any]]) -> str:
    """Profiles, commits, devices and threads of a set of figures; an incremental run can have several."""
    profiles, commits, devices, threads = (
        " and ".join(sorted({str(sidecar[key]) for sidecar in sidecars}))
        for key in ("profile", "commit", "device", "threads")
    )
    return f"profile {profiles}, commit {commits}, device {devices}, {threads} threads"


def _reference_file(sidecars: list[dict[str, Any]]) -> Path:
    # bundled digits with a notice stand for the full ones; without, they were asked for
    bundled = any(data["source"] == "bundled" and data["notice"] for sidecar in sidecars for data in sidecar["data"])
    return REFERENCE / ("bundled.json" if bundled else "numbers.json")


def _reference(sidecars: list[dict[str, Any]]) -> dict[str, Any]:
    """What was kept of a run on the same data; nothing where none was."""
    path = _reference_file(sidecars)
    return store.read_json(path) if path.exists() else {}


def keep_as_reference(sidecars: list[dict[str, Any]], directory: Path) -> None:
    """Store the numbers and verdicts under ``figures/reference``, and small copies of the pictures of real data."""
    path = _reference_file(sidecars)
    kept = {
        "about": ", ".join([_made_by(sidecars), *_notices(sidecars)]),
        "numbers": {f"{n['id']}: {n['quantity']}": n["value"] for s in sidecars for n in s["numbers"]},
        "verdicts": {f"{c['id']}: {c['claim']}": c["verdict"] for s in sidecars for c in s["claims"]},
    }
    store.write_text(path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    if path.name == "bundled.json":
        return
    for sidecar in sidecars:
        with Image.open(directory / f"{sidecar['figure']}.png") as picture:
            height = round(picture.height * _REFERENCE_WIDTH / picture.width)
            small = picture.convert("RGB").resize((_REFERENCE_WIDTH, height), Image.Resampling.LANCZOS)
            with store.replacing(REFERENCE / f"{sidecar['figure']}.png") as temporary:
                small.save(temporary, optimize=True)
    names = {f"{sidecar['figure']}.png" for sidecar in sidecars}
    for old in REFERENCE.glob("*.png"):
        if old.name not in names:
            old.unlink()


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m geolib.companion.pipeline.numbers", description=__doc__)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--where", action="store_true", help="only say where pictures and numbers are")
    group.add_argument("--keep", action="store_true", help="make this run the reference in figures/reference")
    given = parser.parse_args(arguments)
    directory = store.figures_directory()
    try:
        sidecars = collect(directory)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if not sidecars:
        print(f"{directory}: no figures yet; run `make figures`", file=sys.stderr)
        return 1
    path = directory / "numbers.md"
    if given.where:
        for place in (directory, directory / "notebooks", store.derived_directory(), watch.durations()):
            store.sweep(
                place
            )  # the end of a make: what the kills of earlier ones left goes, also where nothing is made
        print(f"pictures: {directory}/*.png and *.pdf ({len(sidecars)} figures)")
        print(f"verdicts and numbers: {path} ({_counted(sidecars)})")
        return 0
    if given.keep:
        keep_as_reference(sidecars, directory)
    store.write_text(path, table(sidecars, _reference(sidecars)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
