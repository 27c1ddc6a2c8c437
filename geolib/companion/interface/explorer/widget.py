"""The explorer live in JupyterLab: the page asks, and the kernel fits, refines and runs Algorithm 1."""

import time
from typing import Any

import anywidget
import torch
import traitlets

from geolib.companion.interface.explorer import module, scene
from geolib.companion.studies.linear_interpolation.explorer import Found, Landscape, Setting
from geolib.paths.result import Status

_KEPT = 8  # landscapes


class Explorer(anywidget.AnyWidget):
    """A map of the latent plane with two end points and sliders; what the page cannot compute, it asks of the kernel.

    A question is a dictionary with an ``id``, a ``kind`` and a ``setting``, whose numbers are places among the choices:
    ``"fit"`` for the table, ``"curve"`` for the solver's curve between ``ends``, ``"improvement"`` for Algorithm 1. The
    answer has the same ``id``; where the question cannot be answered, its ``error`` is a sentence.

    Args:
        found: what the study of notebook 16 measured.
        run: recipe, profile, seed and the ensemble's recipe, for the code that reproduces a state.
        notice: what a reader must know of the data.
    """

    _esm = module.source()
    _css = module.style()
    scene = traitlets.Dict().tag(sync=True)

    def __init__(self, found: Found, *, run: dict[str, Any], notice: str = ""):
        first = found.explored.first
        self._found, self._seed = found, run["seed"]
        numbers = {"curvature": scene.CURVATURES, "n_centers": scene.CENTERS, "zeta": scene.ZETAS}
        self._choices = scene.choices(found.explored, **numbers)
        self._landscapes: dict[Setting, Landscape] = {first: found.landscape}
        super().__init__(scene=scene.scene(found, self._choices, run=run, notice=notice))
        self.on_msg(self._asked)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to one question of the page, with the seconds that it took.

        Raises:
            ValueError: for a question that there is not, and for a setting that cannot be fitted.
        """
        started = time.perf_counter()
        known = {"fit": self._fit, "curve": self._curve, "improvement": self._improvement}
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

    def _landscape(self, question: dict[str, Any]) -> Landscape:
        wanted = scene.setting(question["setting"], self._choices)
        if wanted not in self._landscapes:
            if len(self._landscapes) >= _KEPT:
                self._landscapes.pop(next(iter(self._landscapes)))
            self._landscapes[wanted] = self._found.explored.landscape(wanted)
        return self._landscapes[wanted]

    def _fit(self, question: dict[str, Any]) -> dict[str, Any]:
        return scene.table(self._landscape(question))

    def _improvement(self, question: dict[str, Any]) -> dict[str, Any]:
        return {"improvement": scene.improvement(self._landscape(question).improvement(seed=self._seed))}

    def _curve(self, question: dict[str, Any]) -> dict[str, Any]:
        g = self._found.explored.g
        start, end = torch.tensor(question["ends"]).to(g.test_latents)
        curve = self._landscape(question).curve(start, end)
        status = Status(int(curve.status))
        return {
            "points": curve.points.tolist(),
            "length": float(curve.length),
            "line_length": float(curve.line_length),
            "improvement": float(curve.improvement),
            "residual": float(curve.residual),
            "index": int(curve.index),
            "status": status.name,
            "sentence": status.sentence,
        }
