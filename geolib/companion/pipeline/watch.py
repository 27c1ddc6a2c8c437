"""What a running notebook is doing, for how long, and how long the rest took last time."""

import contextlib
import json
import time
from pathlib import Path

import nbformat

from geolib.companion.cache import store
from geolib.companion.pipeline import display

_START = "start"  # of the kernel, before the first cell


def durations() -> Path:
    """Where the times of earlier runs are kept."""
    return store.derived_directory() / "durations"


def _record(notebook: str, profile: str) -> Path:
    return durations() / f"{notebook}-{profile}.json"


def last_durations(notebook: str, profile: str) -> dict[str, float]:
    """Seconds of every cell in the last run that came to its end, by the cells' ids; empty where there was none."""
    try:
        kept = store.read_json(_record(notebook, profile))
    except (OSError, ValueError):
        return {}
    sound = isinstance(kept, dict) and all(isinstance(seconds, (int, float)) for seconds in kept.values())
    return kept if sound else {}


class Watch:
    """Follows one run of a notebook.

    Args:
        notebook: its path.
        profile: the name of the run's profile.
        plan: the names of all notebooks that this make runs, in order; empty where nobody knows.
        inside: the file in which the kernel says what it is doing (``cache.progress``).
    """

    def __init__(self, notebook: Path, profile: str, plan: list[str], inside: Path):
        self.name, self.profile, self.plan, self.inside = notebook.stem, profile, plan, inside
        cells = nbformat.read(notebook, as_version=4).cells
        self.cells = [_START, *(cell.get("id", "") for cell in cells if cell.cell_type == "code")]
        self.last = last_durations(self.name, profile)
        self.spent: dict[str, float] = {}
        self.current = _START
        self.begun = self.current_begun = time.monotonic()

    def cell_starts(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        """For nbclient's ``on_cell_start``. The cell that papermill adds belongs to the tagged one before it."""
        if cell.get("id") in self.cells and cell.cell_type == "code":
            self._finish_cell()
            self.current = cell["id"]
            self.inside.unlink(missing_ok=True)

    def keep(self) -> None:
        """Store how long every cell took."""
        self._finish_cell()
        store.write_text(_record(self.name, self.profile), json.dumps(self.spent, indent=1) + "\n")

    @property
    def place(self) -> str:
        """``" [4/9]"``: which notebook of how many; empty where nobody knows."""
        return f" [{self.plan.index(self.name) + 1}/{len(self.plan)}]" if self.name in self.plan else ""

    @property
    def seconds(self) -> float:
        """Since the notebook began."""
        return time.monotonic() - self.begun

    def left(self) -> float | None:
        """Seconds that the rest of this notebook took last time; None where that is not known."""
        rest = self.cells[self.cells.index(self.current) :]
        if not all(name in self.last for name in rest):
            return None
        current, *later = (self.last[name] for name in rest)
        return max(0.0, current - (time.monotonic() - self.current_begun)) + sum(later)

    def left_in_all(self) -> float | None:
        """The same for this notebook and those after it; None below ``make -j``, where others run beside it."""
        here = self.left()
        if here is None or self.name not in self.plan or display.parallel():
            return None
        later = [last_durations(name, self.profile) for name in self.plan[self.plan.index(self.name) + 1 :]]
        return here + sum(sum(cells.values()) for cells in later) if all(later) else None

    def text(self) -> str:
        """Elapsed and remaining time, the cell, and what goes on inside it."""
        parts = [f"{display.clock(self.seconds)} so far"]
        here, in_all = self.left(), self.left_in_all()
        if here is not None:
            parts[0] += f", about {display.clock(here)} left"
        if in_all is not None and in_all != here:
            parts[0] += f", {display.clock(in_all)} with the notebooks after it"
        if self.current == _START:
            parts.append("the kernel starts")
        else:
            parts.append(f"cell {self.cells.index(self.current)} of {len(self.cells) - 1}, {self.current}")
        with contextlib.suppress(OSError):
            parts.append(self.inside.read_text(encoding="utf-8"))
        return " · ".join(filter(None, parts))

    def _finish_cell(self) -> None:
        now = time.monotonic()
        self.spent[self.current] = round(now - self.current_begun, 2)
        self.current_begun = now
