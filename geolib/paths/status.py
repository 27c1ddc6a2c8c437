"""How a solver ended, as sentences with their remedy."""

from enum import IntEnum


class Status(IntEnum):
    """The state of one curve; ``Status(code).sentence`` says what it means and what to do."""

    CONVERGED = 0
    SAME_POINT = 1
    MAX_STEPS = 2
    MAX_CONTROL_POINTS = 3
    START_KEPT = 4
    SINGULAR = 5
    UNRESOLVED = 6
    NOT_GEODESIC = 7
    CONVERGED_FROM_LINE = 8
    BEST_OF_ITS_KIND = 9
    DIVERGED = 10
    MAX_NODES = 11

    @property
    def sentence(self) -> str:
        """What happened, and the remedy."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.CONVERGED: "the curve is as short as the tolerance asks",
    Status.SAME_POINT: "start and end are the same point, whose distance is zero",
    Status.MAX_STEPS: "the curve was still getting shorter at the last step; raise max_steps",
    Status.MAX_CONTROL_POINTS: "the curve was still getting shorter with its last knot; raise max_control_points",
    Status.START_KEPT: "no curve shorter than the straight line or the first guess was found, and that is no geodesic; "
    "raise n_segments or start from other points",
    Status.SINGULAR: "the metric is zero along the whole straight line, so its length says nothing",
    Status.UNRESOLVED: "the metric changes within less than a segment of the curve; raise n_segments",
    Status.NOT_GEODESIC: "the curve stopped getting shorter before it satisfied the geodesic equation; raise "
    "n_segments, or accept it where the generator has kinks (ReLU), at which the equation does not hold",
    Status.CONVERGED_FROM_LINE: "the curve is as short as the tolerance asks, but began as the straight line, as the "
    "graph does not connect start and end; give more latents",
    Status.BEST_OF_ITS_KIND: "the shortest curve that this method can draw, which is no geodesic to the tolerance; "
    "begin another method from its points (init=g.points)",
    Status.DIVERGED: 'the method ran away from its first guess; begin nearer (init="best"), or use another method',
    Status.MAX_NODES: "the equation needs more nodes than allowed; raise max_nodes",
}
