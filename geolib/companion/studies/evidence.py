"""Numbers of a study, as they enter the numbers table."""

import math
from typing import Any


def number(
    key: str, quantity: str, value: float | str, *, unit: str = "", paper: float | str | None = None, note: str = ""
) -> dict[str, Any]:
    """One row of the numbers table.

    Args:
        key: the figure or claim, as in ``figures/README.md``, e.g. ``"MB-2"``.
        quantity: what is counted or measured.
        value: this run's.
        unit: e.g. ``"%"``.
        paper: what the paper reports, or None where it gives no number.
        note: where and why this run differs from the paper, or what limits the value.
    """
    if isinstance(value, float) and not math.isfinite(value):
        value = None  # JSON has no NaN; the table shows a dash
    return {"id": key, "quantity": quantity, "value": value, "unit": unit, "paper": paper, "note": note}
