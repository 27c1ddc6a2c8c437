// The explorer: two end points on the map, the curves between them, strips of decoded images, and a tour.
// `mount` draws it from a scene. With a kernel it asks for what the page cannot compute; without one it goes on.
import { fastCurve } from "./numerics.js";
import { button, CURVE, drawImage, keep, LINE, make, percent, show, signed, SIDE, strip } from "./parts.js";
import { BACKGROUNDS, keyOf, Variances } from "./variances.js";

const IMAGES = 9;
const INTRO =
  "Each point of the map is an image that a decoder draws. Drag A and B. The dashed line is the straight way between " +
  "them, the orange curve the way on which the image changes least. The strips show both.";

/** The five steps of the tour: what is set, and what is said of it, with numbers of the moment. */
const TOUR = [
  {
    set: { background: "volume", variance: "rbf" },
    text: () =>
      "The ground is not even. Where the map is bright, a small step changes the image much. Move the mouse over it: " +
      "the ellipse holds all steps that change the image equally.",
  },
  {
    set: { background: "volume", variance: "rbf", pair: 0 },
    text: ({ line }) =>
      `Here is a pair of test images. Most people interpolate along the straight line. Its length, ${show(line)}, is how ` +
      "much the image changes on the way.",
  },
  {
    set: { background: "volume", variance: "rbf", pair: 0 },
    text: ({ improvement }) =>
      `The orange curve is the shortest one found here: ${percent(improvement)} shorter. Compare both strips. Then drag B ` +
      "and see when the curve leaves the line.",
  },
  {
    set: { background: "volume", variance: "none", pair: 0 },
    text: ({ improvement }) =>
      "Bright walls stood where there are no data, as the decoder's variance grows there. Now the variance is left out: " +
      `the walls are gone, and the curve is ${percent(improvement)} shorter than the line.`,
  },
  {
    set: { background: "sigma", variance: "rbf", pair: 0 },
    text: ({ average }) =>
      `Is it worth it? ${average} Michelis & Becker 2021 ask this question of any model. Move a, K and ζ: how much does ` +
      "the answer depend on them?",
  },
];

/** What the kernel's solver says of its curve. */
export function solvedInWords({ sentence, residual, index, status }) {
  const certificate = residual === null ? "" : ` Certificate ${residual.toExponential(1)}, index ${index},`;
  return `Kernel: ${sentence}.${certificate} ${status}.`;
}

/** The mean of Algorithm 1, in words. */
export function averageInWords(found) {
  if (!found) return "";
  if (found.mean === null) return "Algorithm 1 found no curve with a length: the metric is not finite there.";
  const margin = found.half === null ? "" : ` ± ${found.half.toFixed(2)}`;
  const rest = found.converged < found.n ? `; ${found.converged} curves converged` : "";
  return `Over ${found.n} pairs, the curve is ${found.mean.toFixed(2)}${margin} % shorter on average (Algorithm 1${rest}).`;
}

/** The lines of Python that compute this curve, with the metric itself. */
export function codeOf(setting, ends, choices, run) {
  const [a, b] = ends.map(([x, y]) => `torch.tensor([${x.toFixed(4)}, ${y.toFixed(4)}])`);
  if (setting.variance === "ensemble") {
    return [
      "import geolib, torch",
      "from geolib.companion.models import recipes",
      `members = recipes.recipe("${run.ensemble}", "${run.profile}", seed=${run.seed}).trained()`,
      "metric = geolib.PullbackMetric(members)",
      `curve = geolib.geodesic(metric, ${a}, ${b})`,
    ].join("\n");
  }
  const at = (name) => choices[name][setting[name]];
  const numbers = `n_centers=${at("n_centers")}, curvature=${at("curvature")}, zeta=${at("zeta")}`;
  const metric = {
    rbf: "g.metric",
    network: "geolib.PullbackMetric(g.vae.mean, g.vae.std)",
    none: "geolib.PullbackMetric(g.vae.mean)",
  }[setting.variance];
  return [
    "import dataclasses, geolib, torch",
    "from geolib.companion.models import recipes",
    `recipe = recipes.recipe("${run.recipe}", "${run.profile}", seed=${run.seed})`,
    `g = dataclasses.replace(recipe, ${numbers}).generator()`,
    `curve = geolib.geodesic(${metric}, ${a}, ${b})`,
  ].join("\n");
}

class Explorer extends Variances {
  constructor(el, host) {
    super(el, host, DOING);
  }

  begin() {
    this.ends = this.scene.ends.map((z) => [...z]);
    this.exact = null;
    this.dragged = null;
    this.active = 1;
    this.tour = -1;
  }

  // --- the kernel

  lost() {
    super.lost();
    this.exact = null;
    this.say(LOST, "lost");
  }

  answered(asked, message) {
    super.answered(asked, message);
    if (message.error || asked.kind === "fit") return;
    const key = keyOf(asked.setting);
    if (asked.kind === "improvement") this.averaged(key, asked, message);
    else if (key === keyOf(this.setting) && String(asked.ends) === String(this.ends)) this.exact = message;
    this.say(`${DONE[asked.kind]} in ${message.seconds.toFixed(2)} s.`, "idle");
  }

  /** A mean over some of the pairs: the others are asked for in parts, so that a fit never waits for all of them. */
  averaged(key, { setting }, { improvement, left }) {
    Object.assign(this.tables.get(key), { improvement, left });
    if (left && key === keyOf(this.setting) && key === keyOf(this.wanted)) this.requests.ask("improvement", { setting });
  }

  /** The hand rests: what takes the kernel longer is asked for. */
  rest() {
    this.later(() => {
      if (!this.requests || this.dragged !== null || keyOf(this.wanted) !== keyOf(this.setting)) return;
      const setting = { ...this.setting };
      if (!this.exact) this.ask("curve", { setting, ends: this.ends.map((z) => [...z]) });
      if (!this.surface.improvement || this.surface.left) this.ask("improvement", { setting });
    });
  }

  // --- what the reader does

  move(which, x, y) {
    const point = this.surface.graph.table.inside(x, y);
    this.ends[which] = point;
    this.active = which;
    this.exact = null;
    this.requests?.drop("curve");
    this.draw();
    this.rest();
  }

  get busy() {
    return this.dragged !== null;
  }

  apply() {
    this.exact = null;
    this.found = null;
    super.apply();
  }

  show(step) {
    this.tour = step;
    const { set } = TOUR[step] ?? { set: {} };
    if (set.background) this.background = set.background;
    if (set.pair !== undefined && this.scene.pairs.length) this.load(this.best);
    if (set.variance && set.variance !== this.wanted.variance) this.choose({ variance: set.variance });
    this.draw();
  }

  load(index) {
    this.ends = this.scene.pairs[index].ends.map((z) => [...z]);
    this.exact = null;
    this.found = null;
    this.pairs.value = String(index);
    this.draw();
    this.rest();
  }

  get best() {
    const gains = this.scene.pairs.map((pair) => pair.improvement);
    return gains.indexOf(Math.max(...gains));
  }

  // --- the elements

  build(el) {
    this.handles = ["A", "B"].map((name, k) => this.handle(name, k));
    this.map.frame.append(...this.handles);
    const legend = make(
      "p",
      { class: "gx-legend" },
      make("span", {}, make("span", { class: "gx-key gx-dashed" }), "straight line"),
      make("span", {}, make("span", { class: "gx-key gx-solid" }), "this page’s curve"),
      make("span", {}, make("span", { class: "gx-key gx-dots" }), "the kernel’s curve"),
    );
    this.strips = ["straight line", "curve"].map((name) => strip(IMAGES, `Decoded images along the ${name}`));
    this.numbers = this.table();
    this.average = make("p", { class: "gx-average" });
    this.exactText = make("p", { class: "gx-exact" });
    this.back = button("Back", () => this.show(Math.max(0, this.tour - 1)));
    this.next = button("Take the tour", () => this.show(this.tour + 1 < TOUR.length ? this.tour + 1 : -1));
    this.code = make("textarea", { readonly: "", rows: "5", spellcheck: "false", "aria-label": "Code of this state" });
    this.copy = button("Copy as code", () => this.copied());
    this.open(
      el,
      "Explorer of a latent space",
      make("div", { class: "gx-head" }, this.story, make("div", { class: "gx-steps" }, this.back, this.next)),
      make(
        "div",
        { class: "gx-grid" },
        make(
          "div",
          { class: "gx-left" },
          this.map.frame,
          this.map.scale,
          this.map.unit,
          legend,
        ),
        make(
          "div",
          { class: "gx-right" },
          make(
            "div",
            { class: "gx-strips" },
            make("span", { text: "straight" }),
            this.strips[0],
            make("span", { text: "curve" }),
            this.strips[1],
          ),
          make("div", { class: "gx-found" }, this.numbers, make("div", { class: "gx-point" }, this.look, this.here)),
          this.exactText,
          this.average,
          make("div", { class: "gx-controls" }, ...this.controls()),
          this.status,
          make("details", { class: "gx-code" }, make("summary", { text: "Code of this state" }), this.code, this.copy),
          this.notice,
        ),
      ),
    );
  }

  /** One end point: dragged by a pointer, moved by the arrow keys. */
  handle(name, which) {
    const out = make("button", { type: "button", class: "gx-handle", text: name });
    out.addEventListener("pointerdown", (event) => {
      out.setPointerCapture(event.pointerId);
      out.focus({ preventScroll: true });
      this.dragged = which;
      this.hover = null;
      event.preventDefault();
    });
    out.addEventListener("pointermove", (event) => {
      if (this.dragged === which) this.move(which, ...this.map.latent(event));
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      out.addEventListener(kind, () => {
        if (this.dragged !== which) return;
        this.dragged = null;
        this.draw();
        this.rest();
      });
    }
    out.addEventListener("focus", () => {
      this.active = which;
      this.draw();
    });
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
    out.addEventListener("keydown", (event) => {
      const way = ways[event.key];
      if (!way) return;
      event.preventDefault();
      keep(event);
      const step = ((event.shiftKey ? 0.1 : 0.01) * (this.box.upper[0] - this.box.lower[0]));
      this.move(which, this.ends[which][0] + step * way[0], this.ends[which][1] + step * way[1]);
    });
    return out;
  }

  table() {
    this.cells = {};
    const row = (name, label) =>
      make("tr", {}, make("th", { scope: "row", text: label }), ...["line", "fast", "exact"].map((column) => {
        this.cells[`${name}-${column}`] = make("td", { "data-cell": `${name}-${column}` });
        return this.cells[`${name}-${column}`];
      }));
    const head = ["", "straight line", "this page’s curve", "kernel’s curve"];
    return make(
      "table",
      { class: "gx-numbers" },
      make("thead", {}, make("tr", {}, ...head.map((text) => (text ? make("th", { scope: "col", text }) : make("td"))))),
      make("tbody", {}, row("length", "length"), row("gain", "shorter by"), row("difference", "over kernel’s")),
    );
  }

  get backgrounds() {
    return { ...BACKGROUNDS, distance: { label: "distance from A", unit: "length, with contours", contours: true } };
  }

  controls() {
    const [colours, ...others] = super.controls();
    const { pairs } = this.scene;
    const options = pairs.map(({ labels, improvement }, k) =>
      make("option", { value: k, text: `${k + 1}: ${labels.join(" → ")}, ${percent(improvement)}` }),
    );
    this.pairs = make("select", { "aria-label": "Pairs of test images" }, make("option", { value: "", text: "choose a pair" }), ...options);
    this.pairs.addEventListener("change", () => this.pairs.value && this.load(Number(this.pairs.value)));
    return [colours, make("label", { class: "gx-pick" }, make("span", { text: "test images" }), this.pairs), ...others];
  }

  async copied() {
    let done = true;
    try {
      await navigator.clipboard.writeText(this.code.value);
    } catch {
      this.code.select();
      done = document.execCommand("copy");
    }
    this.copy.textContent = done ? "Copied" : "Select the text to copy it";
    setTimeout(() => (this.copy.textContent = "Copy as code"), 1500);
  }

  // --- drawing

  frameNow() {
    const { surface } = this;
    const [start, end] = this.ends;
    // the search that can stay: from the point that is not dragged; the distance's own map starts at A
    const root = this.background === "distance" || this.dragged !== 0 ? 0 : 1;
    const tag = `${keyOf(this.setting)} ${root} ${this.ends[root]}`;
    if (this.found?.tag !== tag) this.found = { tag, search: surface.graph.search(...this.ends[root]) };
    this.fast = fastCurve(surface.graph, this.found.search, start, end, { reversed: root === 1 });
    this.strip(0, this.straight(start, end));
    this.strip(1, this.fast.points);
    super.frameNow();
  }

  straight(start, end) {
    return Float64Array.from({ length: 2 * IMAGES }, (_, k) => {
      const share = Math.floor(k / 2) / (IMAGES - 1);
      return (1 - share) * start[k % 2] + share * end[k % 2];
    });
  }

  shadeOf(surface) {
    if (this.background === "distance") {
      const values = this.found.search.distance;
      return { values, low: 0, high: 1.2 * this.map.atPoints(values, 1) };
    }
    return super.shadeOf(surface);
  }

  get focus() {
    return this.hover ?? this.ends[this.active];
  }

  get place() {
    return this.hover ? "pointer" : `point ${"AB"[this.active]}`;
  }

  over(context, size, ratio) {
    const { map } = this;
    map.path(context, map.pixels(this.straight(...this.ends), size), LINE, 2 * ratio, [6 * ratio, 5 * ratio]);
    map.path(context, map.pixels(this.fast.points, size), CURVE, 3 * ratio);
    for (const z of this.exact?.points ?? []) map.disc(context, ...map.pixel(z, size), 2.2 * ratio, LINE);
    this.handles.forEach((handle, k) => {
      const [x, y] = map.pixel(this.ends[k], 100);
      handle.style.left = `${x}%`;
      handle.style.top = `${y}%`;
      handle.setAttribute("aria-label", `End point ${handle.textContent} at ${this.ends[k].map((c) => c.toFixed(2)).join(", ")}. Arrow keys move it.`);
    });
  }

  /** Images at equal steps along points that lie at equal steps; an end that has not moved stays as it is. */
  strip(which, points) {
    const context = this.strips[which].getContext("2d");
    const last = points.length / 2 - 1;
    this.drawn ??= [[], []];
    for (let k = 0; k < IMAGES; k++) {
      const node = Math.round((k * last) / (IMAGES - 1));
      const z = [points[2 * node], points[2 * node + 1]];
      if (String(this.drawn[which][k]) !== String(z)) drawImage(context, this.images.decode(z), k * SIDE);
      this.drawn[which][k] = z;
    }
  }

  /** Numbers and words. */
  tell() {
    const { fast, exact, cells, surface } = this;
    const put = (name, text) => {
      if (cells[name].textContent !== text) cells[name].textContent = text;
    };
    put("length-line", show(fast.line));
    put("length-fast", show(fast.length));
    put("gain-fast", percent(fast.improvement));
    // a curve across a place where the metric is not finite has no length
    const known = exact && exact.length !== null && exact.line_length !== null;
    put("length-exact", known ? show(exact.length) : "–");
    put("gain-exact", known ? percent(exact.improvement) : "–");
    put("difference-line", known ? signed(fast.line / exact.line_length - 1) : "–");
    put("difference-fast", known ? signed(fast.length / exact.length - 1) : "–");
    const waiting = this.requests ? "The kernel’s solver refines the curve when the hand rests." : "The exact curve needs a kernel: run notebook 16.";
    this.exactText.textContent = exact ? solvedInWords(exact) : waiting;
    this.average.textContent = averageInWords(surface.improvement) ||
      (this.requests ? "Algorithm 1 follows when the hand rests." : "Algorithm 1 was not run for this setting.");
    this.code.value = codeOf(this.setting, this.ends, this.scene.choices, this.scene.run);
    super.tell();
    this.back.disabled = this.tour < 1;
    this.next.textContent = this.tour < 0 ? "Take the tour" : this.tour + 1 < TOUR.length ? "Next" : "End the tour";
  }

  get told() {
    const step = TOUR[this.tour];
    const average = averageInWords(this.surface.improvement);
    return step ? `${this.tour + 1} of ${TOUR.length}. ${step.text({ ...this.fast, average })}` : INTRO;
  }
}

const DOING = { fit: "Fitting the variance", curve: "Refining the curve", improvement: "Running Algorithm 1" };
const LOST = "The kernel is gone. Points, curves, strips and settings already seen go on; run the cell again for the rest.";
const DONE = { curve: "Refined", improvement: "Algorithm 1 done" };
