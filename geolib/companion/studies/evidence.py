"""What a study finds: numbers, and verdicts on the claims of papers."""

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Verdict(enum.StrEnum):
    """What a run says of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    NOT_REPRODUCED = "not reproduced"
    NOT_TESTABLE = "not testable here"


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, and the criterion that decides it, which stands in the code before the result is known."""

    key: str
    """the figure or claim, as in ``figures/README.md``, e.g. ``"MB-2"``"""
    text: str
    """the claim, in our words"""
    criterion: str
    """what has to hold, in words"""
    holds: Callable[..., bool]
    """the same as code, of the keyword arguments that ``decide`` is given"""
    paper: str = ""
    """the paper's value with its unit, where it gives one"""
    otherwise: Verdict = Verdict.CONTRADICTED
    """the verdict where the criterion does not hold: a number that we do not meet is not reproduced; a statement whose
    opposite we find is contradicted"""

    def decide(self, ours: str, **values: float) -> dict[str, Any]:
        """The claim with its verdict, as JSON values.

        Args:
            ours: the value that decides, with its unit, for the reader.
            **values: what the criterion is about. Where one of them is not finite, there is no verdict.
        """
        if all(math.isfinite(value) for value in values.values()):
            verdict = Verdict.SUPPORTED if self.holds(**values) else self.otherwise
        else:
            verdict = Verdict.NOT_TESTABLE
        return {
            "id": self.key,
            "claim": self.text,
            "criterion": self.criterion,
            "paper": self.paper,
            "ours": ours,
            "verdict": str(verdict),
        }


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
