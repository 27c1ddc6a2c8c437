"""The shortest path over a graph of latents, smoothed and interpolated."""

import torch

from geolib.paths.problem import Problem, Solution
from geolib.paths.result import Status


def solve(problem: Problem) -> Solution:
    """Shortest paths over ``LatentGraph(metric, latents)`` by Dijkstra's algorithm; needs ``latents``.

    Nothing is optimised. The path is a global minimum over the graph, whereas other methods find local minima. With ten
    neighbours it is about 4 % too long however dense the latents are, because its directions are restricted to the
    graph's edges. Initial curves are not used. Where the graph does not connect two points, the result is the straight
    line.

    Source:
        Danielou et al. 2024, Sec. 3.3; Chen et al. 2019.
    """
    points = problem.graph().trusted_paths(problem.start, problem.end, problem.n_segments).points
    status = torch.full_like(problem.max_steps, Status.BEST_OF_ITS_KIND)
    return Solution.through(problem, points, status, torch.zeros_like(status))
