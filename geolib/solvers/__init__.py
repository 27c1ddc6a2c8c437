"""One file a method, one line a method here. A solver is ``solve(problem, **its own options) -> Solution``."""

from geolib.solvers import spline

SOLVERS = {
    "spline": spline.solve,
}
