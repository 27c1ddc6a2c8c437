// Algorithm 1 at any step size: what notebook 04 shows. The page finds all curves itself, and the kernel's mean follows.
import { fastCurve, Graph, logVolume, steps, Table } from "./numerics.js";
import { CURVE, LatentMap, LINE, make, percent, shade, signed, slider, View } from "./parts.js";

const BUDGET = 12; // ms of a frame that are spent on curves

/** The end of a step from x along the eigenvector of the largest eigenvalue, towards the origin. */
export function stepped(table, [x, y], size) {
  const [, p, b] = table.log(x, y, new Float64Array(9));
  const angle = Math.atan2(b, p) / 2;
  const v = [Math.cos(angle), Math.sin(angle)];
  const sign = x * v[0] + y * v[1] > 0 ? -size : size;
  return [x + sign * v[0], y + sign * v[1]];
}

/** The mean of some numbers, and half of its interval. */
export function meanOf(values, quantile) {
  const n = values.length;
  const mean = values.reduce((total, x) => total + x, 0) / n;
  const squares = values.reduce((total, x) => total + (x - mean) ** 2, 0);
  return { mean, half: n > 1 ? (quantile * Math.sqrt(squares / (n - 1))) / Math.sqrt(n) : null };
}

function inWords({ mean, half }) {
  if (mean === null) return "not finite";
  return half === null ? `${(100 * mean).toFixed(2)} %` : `${(100 * mean).toFixed(2)} ± ${(100 * half).toFixed(2)} %`;
}

class Steps extends View {
  constructor(el, host) {
    super(host, { improvement: "Running Algorithm 1" });
    const { scene } = this;
    this.map = new LatentMap(scene);
    this.graph = new Graph(new Table({ ...scene.box, logs: steps(scene.logs) }));
    this.ground = shade(logVolume(this.graph.table));
    this.exact = new Map(Object.entries(scene.exact).map(([place, found]) => [Number(place), found]));
    this.slider = slider("step", "step size, α", scene.steps, (place) => this.choose(place));
    this.cells = {};
    const row = (name, label) => {
      this.cells[name] = make("td", { "data-cell": name });
      return make("tr", {}, make("th", { scope: "row", text: label }), this.cells[name]);
    };
    const numbers = make(
      "table",
      { class: "gx-numbers gx-means" },
      make(
        "tbody",
        {},
        row("mean", "mean improvement, this page"),
        row("exact", "mean improvement, kernel"),
        row("difference", "difference"),
        row("largest", "largest improvement, this page"),
        row("more", "lines that gain 1 % and more"),
      ),
    );
    const legend = make(
      "p",
      { class: "gx-legend" },
      make("span", {}, make("span", { class: "gx-key gx-line" }), "straight line"),
      make("span", {}, make("span", { class: "gx-key gx-solid" }), "shortest curve found"),
    );
    const story = make("p", {
      class: "gx-story",
      text: `The ${scene.starts.length} straight lines of Algorithm 1 and the shortest curve found for each. Move α: the lines grow, and the curves leave them.`,
    });
    this.open(
      el,
      "Algorithm 1 at any step size",
      make("div", { class: "gx-head" }, story),
      make(
        "div",
        { class: "gx-grid" },
        make("div", { class: "gx-left" }, this.map.frame, this.map.scale, this.map.unit, legend),
        make(
          "div",
          { class: "gx-right" },
          make("div", { class: "gx-controls" }, this.slider.row),
          numbers,
          this.status,
          make("p", { class: "gx-notice", text: scene.notice ? `Data: ${scene.notice}.` : "" }),
        ),
      ),
    );
    this.choose(scene.first);
  }

  get alone() {
    return "Without a kernel, curves are found by this page alone.";
  }

  lost() {
    this.say("The kernel is gone. This page goes on finding curves; run the cell again for the exact mean.", "lost");
  }

  choose(place) {
    this.place = place;
    const { starts, steps: sizes } = this.scene;
    this.ends = starts.map((x) => stepped(this.graph.table, x, sizes[place]));
    this.curves = [];
    this.slider.put(place);
    if (this.requests) this.requests.drop("improvement");
    this.later(() => {
      if (this.requests && !this.exact.has(place)) this.ask("improvement", { place });
    });
    this.draw();
  }

  answered({ place }, message) {
    if (message.error) this.say(message.error, "error");
    else {
      this.exact.set(place, message.improvement);
      this.say(`Algorithm 1 by the kernel's solver in ${message.seconds.toFixed(2)} s.`, "idle");
    }
    this.draw();
  }

  frameNow() {
    const { starts } = this.scene;
    const begun = performance.now();
    while (this.curves.length < starts.length && performance.now() - begun < BUDGET) {
      const k = this.curves.length;
      this.curves.push(fastCurve(this.graph, null, starts[k], this.ends[k]));
    }
    this.map.paint(this.ground, { name: "volume", unit: "log volume, log √det M" }, (context, size, ratio) => {
      starts.forEach((start, k) => {
        this.map.path(context, [start, this.ends[k]].map((z) => this.map.pixel(z, size)), LINE, 1.2 * ratio);
      });
      for (const { points } of this.curves) this.map.path(context, this.map.pixels(points, size), CURVE, 1.2 * ratio);
    });
    this.tell();
    if (this.curves.length < starts.length) this.draw();
  }

  tell() {
    const { curves, cells } = this;
    const { starts, quantile } = this.scene;
    const whole = curves.length === starts.length;
    const gains = curves.map(({ improvement }) => improvement);
    const own = meanOf(gains, quantile);
    const exact = this.exact.get(this.place);
    const pending = `${curves.length} of ${starts.length} curves`;
    cells.mean.textContent = whole ? inWords(own) : `${pending} …`;
    cells.largest.textContent = whole ? percent(Math.max(...gains)) : "…";
    cells.more.textContent = whole ? `${gains.filter((x) => x >= 0.01).length} of ${gains.length}` : "…";
    cells.exact.textContent = exact ? inWords(exact) : this.requests ? "follows when the hand rests" : "needs a kernel";
    cells.difference.textContent = whole && exact && exact.mean !== null ? signed(own.mean - exact.mean) : "–";
    this.root.dataset.shown = `${this.place} ${curves.length}`;
  }
}
