"""The registry of solvers: one file and one line per method. A solver is ``solve(problem, **options) -> Solution``."""

from geolib.solvers import bvp, discrete, fixed_point, georce, graph, network, newton, quadratic, spline

SOLVERS = {
    "newton": newton.solve,
    "spline": spline.solve,
    "georce": georce.solve,
    "discrete": discrete.solve,
    "quadratic": quadratic.solve,
    "network": network.solve,
    "graph": graph.solve,
    "bvp": bvp.solve,
    "fixed_point": fixed_point.solve,
}

# what takes over curves that a method leaves unconverged
DETOURS = {"newton": spline.solve}
