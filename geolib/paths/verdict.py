"""What is reported of a curve: one table of what a method said and what was measured afterwards."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from geolib.paths.result import Status


class Finding(IntEnum):
    """What was measured: on the curve of one attempt, or on the best curve of all attempts."""

    CERTIFIED = 0
    """the attempt's curve is a geodesic to the tolerance, a minimum, and as long as the method said"""
    UNCERTIFIED = 1
    """it is as long as the method said, but not a geodesic to the tolerance"""
    HIDDEN = 2
    """its length is not what the method said: the metric changes between the method's points"""
    LONGER = 3
    """it is longer than the best curve so far, which is therefore kept"""
    BEST_CERTIFIED = 4
    """the best curve is a geodesic to the tolerance, and a minimum"""
    BEST_UNCERTIFIED = 5
    """it is not"""
    BEST_UNMEASURED = 6
    """it is, but its length or the line's is not known to the tolerance"""
    SADDLE = 7
    """the attempt's curve is a geodesic to the tolerance, and no minimum"""
    BEST_SADDLE = 8
    """the best curve is a geodesic to the tolerance, and no minimum"""


@dataclass(frozen=True)
class Rule:
    """What follows from one status."""

    becomes: dict[Finding, Status]
    """the status that is reported after a finding; after all others the status stays"""
    refine: tuple[Finding, ...] = ()
    """the findings after which the method may do better: from a saddle on either side, otherwise on more segments"""


_UNPROVEN = (Finding.UNCERTIFIED, Finding.HIDDEN, Finding.SADDLE)

RULES = {
    # what a method may say
    Status.CONVERGED: Rule(
        {
            Finding.HIDDEN: Status.UNRESOLVED,
            Finding.LONGER: Status.START_KEPT,
            Finding.SADDLE: Status.SADDLE,
            Finding.BEST_SADDLE: Status.SADDLE,
            Finding.BEST_UNCERTIFIED: Status.NOT_GEODESIC,
            Finding.BEST_UNMEASURED: Status.UNRESOLVED,
        },
        refine=_UNPROVEN,
    ),
    Status.BEST_OF_ITS_KIND: Rule(
        {
            Finding.CERTIFIED: Status.CONVERGED,
            Finding.HIDDEN: Status.UNRESOLVED,
            Finding.LONGER: Status.START_KEPT,
            Finding.SADDLE: Status.SADDLE,
        },
        refine=(Finding.HIDDEN, Finding.SADDLE),
    ),
    Status.DIVERGED: Rule(
        {Finding.CERTIFIED: Status.CONVERGED, Finding.SADDLE: Status.SADDLE},
        refine=_UNPROVEN,
    ),
    Status.MAX_NODES: Rule(
        {Finding.CERTIFIED: Status.CONVERGED, Finding.SADDLE: Status.SADDLE},
        refine=(Finding.SADDLE,),
    ),
    # what is a geodesic on the points that were looked at need not be one on more
    Status.UNRESOLVED: Rule({}, refine=(Finding.CERTIFIED, *_UNPROVEN)),
    Status.MAX_CONTROL_POINTS: Rule({}, refine=_UNPROVEN),
    Status.MAX_STEPS: Rule({}),
    # what only a finding leads to
    Status.START_KEPT: Rule(
        {
            Finding.BEST_CERTIFIED: Status.CONVERGED,
            Finding.BEST_SADDLE: Status.SADDLE,
            Finding.BEST_UNMEASURED: Status.UNRESOLVED,
        }
    ),
    Status.SADDLE: Rule({Finding.LONGER: Status.START_KEPT}),
}

_REPORTED = torch.tensor([[RULES.get(s, Rule({})).becomes.get(f, s) for f in Finding] for s in Status])
_REFINE = torch.tensor([[f in RULES.get(s, Rule({})).refine for f in Finding] for s in Status])


def reported(status: Tensor, finding: Tensor) -> Tensor:
    """The status ``(B,)`` that is reported after these findings ``(B,)``."""
    return _REPORTED.to(status.device)[status, finding]


def may_refine(status: Tensor, finding: Tensor) -> Tensor:
    """Whether the method may do better that said ``status (B,)`` after these findings: ``(B,)``."""
    return _REFINE.to(status.device)[status, finding]
