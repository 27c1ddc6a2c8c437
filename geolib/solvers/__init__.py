"""One file a method, one line a method here. A solver is ``solve(problem, **its own options) -> Solution``."""

from geolib.solvers import newton, spline

SOLVERS = {
    "newton": newton.solve,
    "spline": spline.solve,
}
