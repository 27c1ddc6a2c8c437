"""The pages live in JupyterLab: a page asks, and the kernel fits, refines and runs Algorithm 1."""

import time
from collections.abc import Callable
from typing import Any

import anywidget
import torch
import traitlets

from geolib.companion.interface.explorer import module, scene
from geolib.companion.models.generators import Generator
from geolib.companion.studies.linear_interpolation import explorer as study
from geolib.companion.studies.linear_interpolation.explorer import Explored, Found, Landscape, Setting, step_sizes
from geolib.companion.studies.linear_interpolation.two_models import TwoModels
from geolib.evaluation import together
from geolib.paths.result import Status

_KEPT = 8  # landscapes
_NUMBERS = {"curvature": scene.CURVATURES, "n_centers": scene.CENTERS, "zeta": scene.ZETAS}


class Page(anywidget.AnyWidget):
    """A page of the module; what it cannot compute, it asks of the kernel.

    A question is a dictionary with an ``id`` and a ``kind``. The answer has the same ``id``; where the question cannot
    be answered, its ``error`` is a sentence.

    Args:
        scene: what the page draws.
    """

    _esm = module.source()
    _css = module.style()
    scene = traitlets.Dict().tag(sync=True)

    def __init__(self, scene: dict[str, Any]):
        super().__init__(scene=scene)
        self.on_msg(self._asked)

    @property
    def _answers(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        """What answers a question, by its kind."""
        return {}

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to one question of the page, with the seconds that it took.

        Raises:
            ValueError: for a question that there is not, and for one that has no answer.
        """
        started = time.perf_counter()
        known = self._answers
        if question["kind"] not in known:
            raise ValueError(f"kind: got {question['kind']!r}, expected one of {', '.join(map(repr, known))}")
        found = known[question["kind"]](question)
        return {**found, "seconds": time.perf_counter() - started}

    def _asked(self, _: object, question: dict[str, Any], __: object) -> None:
        try:
            found = self.answer(question)
        except Exception as error:  # whatever it is, the page says it instead of standing still
            found = {"error": f"The kernel could not do this: {error}."}
        self.send({"id": question.get("id"), **found})


class Variances(Page):
    """A map of the latent plane with sliders for the variance.

    The page asks for the table of a ``setting``, whose numbers are places among the choices, by the kind ``"fit"``.

    Args:
        explored: the generator, and the setting that it was fitted with.
        notice: what a reader must know of the data.
    """

    def __init__(self, explored: Explored, *, notice: str = ""):
        landscape = explored.landscape(explored.first)
        self._keep(explored, landscape)
        super().__init__(scene.variances(explored, landscape, self._choices, notice=notice))

    def _keep(self, explored: Explored, landscape: Landscape) -> None:
        self._explored = explored
        self._choices = scene.choices(explored, **_NUMBERS)
        self._landscapes: dict[Setting, Landscape] = {explored.first: landscape}

    @property
    def _answers(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {"fit": self._fit}

    def _landscape(self, question: dict[str, Any]) -> Landscape:
        wanted = scene.setting(question["setting"], self._choices)
        if wanted not in self._landscapes:
            if len(self._landscapes) >= _KEPT:
                self._landscapes.pop(next(iter(self._landscapes)))
            self._landscapes[wanted] = self._explored.landscape(wanted)
        return self._landscapes[wanted]

    def _fit(self, question: dict[str, Any]) -> dict[str, Any]:
        return scene.table(self._landscape(question))


class Explorer(Variances):
    """The same map with two end points, the curves between them and the images along these.

    The page also asks for the solver's curve between ``ends``, by the kind ``"curve"``, and for Algorithm 1, by
    ``"improvement"``.

    Args:
        found: what the study of notebook 16 measured.
        run: recipe, profile, seed and the ensemble's recipe, for the code that reproduces a state.
        notice: what a reader must know of the data.
    """

    def __init__(self, found: Found, *, run: dict[str, Any], notice: str = ""):
        self._seed = run["seed"]
        self._parts: dict[str, Any] = {}
        self._keep(found.explored, found.landscape)
        Page.__init__(self, scene.scene(found, self._choices, run=run, notice=notice))

    @property
    def _answers(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {**super()._answers, "curve": self._curve, "improvement": self._improvement}

    def _improvement(self, question: dict[str, Any]) -> dict[str, Any]:
        """The mean over one more part of the pairs, so that a fit need not wait for all; and how many are left."""
        landscape, parts = self._landscape(question), self._parts
        if parts.get("of") != landscape.setting:
            parts.update(of=landscape.setting, found=[])
        if len(parts["found"]) * study.PART < study.N_SAMPLES:
            parts["found"].append(landscape.improvement_part(len(parts["found"]), seed=self._seed))
        found = together(parts["found"])
        return {"improvement": scene.improvement(found), "left": max(0, study.N_SAMPLES - len(found.start))}

    def _curve(self, question: dict[str, Any]) -> dict[str, Any]:
        g = self._explored.g
        start, end = torch.tensor(question["ends"]).to(g.test_latents)
        curve = self._landscape(question).curve(start, end)
        status = Status(int(curve.status))
        return {
            "points": curve.points.tolist(),
            "length": scene.known(curve.length),
            "line_length": scene.known(curve.line_length),
            "improvement": scene.known(curve.improvement),
            "residual": scene.known(curve.residual),
            "index": int(curve.index),
            "status": status.name,
            "sentence": status.sentence,
        }


class Steps(Page):
    """Algorithm 1 on a map, with a slider for the step size.

    The page finds the curves itself, and asks for the solver's mean at a ``place`` among the step sizes by the kind
    ``"improvement"``.

    Args:
        g: a generator with two latent dimensions.
        first: the step size to begin with, in latent units.
        seed: of Algorithm 1.
        notice: what a reader must know of the data.
    """

    def __init__(self, g: Generator, *, first: float, seed: int, notice: str = ""):
        self._found = step_sizes(g, first=first, seed=seed)
        super().__init__(scene.step_sizes(self._found, notice=notice))

    @property
    def _answers(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {"improvement": self._improvement}

    def _improvement(self, question: dict[str, Any]) -> dict[str, Any]:
        samples = self._found.improvement(self._found.sizes[question["place"]])
        return {"improvement": scene.mean_improvement(samples)}


class Pairs(Page):
    """The pairs of notebook 05 with a slider for the threshold; the page needs no kernel for it.

    Args:
        found: the pairs in both models.
        notice: what a reader must know of the data.
    """

    def __init__(self, found: TwoModels, *, notice: str = ""):
        super().__init__(scene.pairs(found, notice=notice))
