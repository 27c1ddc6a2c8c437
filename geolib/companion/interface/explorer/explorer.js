// The explorer's page: a map with two end points, the curves between them, strips of decoded images, sliders.
// `mount` draws it from a scene. With a kernel it asks for what the page cannot compute; without one it goes on.
import { contour, Decoder, ellipse, fastCurve, floats, Graph, logCondition, logVolume, steps, Table } from "./numerics.js";

const IMAGES = 9;
const SIDE = 28;
const LATE = 10000; // ms after which a kernel that has not answered is said to be late
const REST = 350; // ms without a move, after which the hand rests
const LEVELS = 10;
const ELLIPSE = 0.06; // of the map, its mean radius in the middle of the data
const VIRIDIS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"];
const LINE = "#ffffff";
const CURVE = "#e69f00";
const CASING = "#101010";

const VARIANCES = { rbf: "RBF", network: "network", ensemble: "ensemble", none: "none" };
const BACKGROUNDS = {
  volume: { label: "how much the image changes", unit: "log volume, log √det M" },
  condition: { label: "how unequal directions are", unit: "log condition number of M" },
  sigma: { label: "how unsure the decoder is", unit: "log Σ σ" },
  distance: { label: "distance from A", unit: "length, with contours" },
};
const SLIDERS = {
  curvature: { name: "a", label: "reach of a centre, a" },
  n_centers: { name: "K", label: "centres, K" },
  zeta: { name: "ζ", label: "precision far away, ζ" },
};

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

/** A number with three digits. */
function show(value) {
  return Math.abs(value) >= 1000 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

/** A share in per cent. */
function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

/** The mean of Algorithm 1, in words. */
export function averageInWords(found) {
  if (!found) return "";
  const margin = found.half === null ? "" : ` ± ${found.half.toFixed(2)}`;
  const rest = found.converged < found.n ? `; ${found.converged} curves converged` : "";
  return `Over ${found.n} pairs, the curve is ${found.mean.toFixed(2)}${margin} % shorter on average (Algorithm 1${rest}).`;
}

/** The name of a setting's table, as `key` of scene.py. */
export function keyOf({ variance, curvature, n_centers, zeta }) {
  return variance === "rbf" ? `rbf-${curvature}-${n_centers}-${zeta}` : variance;
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

/** An element with attributes and children. */
function make(tag, attributes = {}, ...children) {
  const out = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") out.textContent = value;
    else out.setAttribute(name, value);
  }
  out.append(...children);
  return out;
}

const COLORS = (() => {
  const stops = VIRIDIS.map((c) => [0, 2, 4].map((k) => parseInt(c.slice(k, k + 2), 16)));
  return Array.from({ length: 256 }, (_, k) => {
    const at = (k / 255) * (stops.length - 1);
    const i = Math.min(Math.floor(at), stops.length - 2);
    return stops[i].map((c, n) => Math.round(c + (at - i) * (stops[i + 1][n] - c)));
  });
})();

/** What the map is coloured by: values at the nodes, and where the colours begin and end. */
function shade(values) {
  const sorted = Float64Array.from(values).sort();
  const low = sorted[Math.floor(0.02 * sorted.length)];
  const high = Math.max(sorted[Math.floor(0.98 * sorted.length)], low + 1e-9);
  return { values, low, high };
}

/** One request at a time; of each kind only the latest is kept, so nothing queues. */
class Requests {
  constructor(kernel, { answer, late }) {
    Object.assign(this, { kernel, answer, late, wanted: new Map(), last: 0, asked: null });
    kernel.listen((message) => {
      if (message.id !== this.asked?.id) return;
      clearTimeout(this.timer);
      const { asked } = this;
      this.asked = null;
      this.answer(asked, message);
      this.send();
    });
  }

  ask(kind, message) {
    this.wanted.set(kind, message);
    this.send();
  }

  drop(kind) {
    this.wanted.delete(kind);
  }

  send() {
    if (this.asked) return;
    const kind = ["fit", "curve", "improvement"].find((name) => this.wanted.has(name));
    if (!kind) return;
    this.last += 1;
    this.asked = { id: this.last, kind, ...this.wanted.get(kind) };
    this.wanted.delete(kind);
    this.timer = setTimeout(() => this.late(this.asked), LATE);
    this.kernel.send(this.asked);
  }
}

/** Draw the explorer into an element. `host` has the scene and, where there is one, the kernel. */
export function mount(el, host) {
  return new Explorer(el, host);
}

class Explorer {
  constructor(el, { scene, kernel = null }) {
    this.scene = scene;
    this.box = scene.box;
    this.decoder = new Decoder(scene.decoder);
    this.points = floats(scene.points);
    this.tables = new Map();
    this.setting = { ...scene.first };
    this.wanted = { ...scene.first };
    this.ends = scene.ends.map((z) => [...z]);
    this.background = "volume";
    this.classes = new Set(scene.classes);
    this.exact = null;
    this.dragged = null;
    this.hover = null;
    this.active = 1;
    this.tour = -1;
    this.frames = 0;
    for (const [key, stored] of Object.entries(scene.tables)) this.keep(key, stored);
    this.build(el);
    this.connect(kernel);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.map);
    this.apply();
    this.rest();
  }

  // --- tables

  keep(key, { logs, log_sigma: sigma, improvement }) {
    this.tables.set(key, { stored: { logs, sigma }, improvement });
  }

  /** The table in use, unpacked when it is first seen. */
  get surface() {
    const found = this.tables.get(keyOf(this.setting));
    if (!found.graph) {
      const table = new Table({ ...this.box, logs: steps(found.stored.logs) });
      found.graph = new Graph(table);
      const sigma = found.stored.sigma && steps(found.stored.sigma);
      found.shades = { volume: shade(logVolume(table)), condition: shade(logCondition(table)), sigma: sigma && shade(sigma) };
      delete found.stored;
    }
    return found;
  }

  // --- the kernel

  connect(kernel) {
    if (!kernel) {
      this.say("", "static");
      return;
    }
    this.say("", "idle");
    this.requests = new Requests(kernel, {
      answer: (asked, message) => this.answered(asked, message),
      late: (asked) =>
        this.say(`The kernel has not answered for ${LATE / 1000} s (${DOING[asked.kind]}). It may be busy with another cell.`, "late"),
    });
    kernel.lost?.(() => {
      if (!this.requests) return;
      clearTimeout(this.requests.timer);
      this.requests = null;
      this.wanted = { ...this.setting };
      this.exact = null;
      this.say(
        "The kernel is gone. Points, curves, strips and settings already seen go on; run the cell again for the rest.",
        "lost",
      );
      this.draw();
    });
  }

  answered(asked, message) {
    if (message.error) {
      this.say(message.error, "error");
      if (asked.kind === "fit" && keyOf(asked.setting) === keyOf(this.wanted)) this.wanted = { ...this.setting };
      this.draw();
      return;
    }
    const key = keyOf(asked.setting);
    if (asked.kind === "fit") {
      this.keep(key, message);
      this.say(`Fitted and tabulated in ${message.seconds.toFixed(2)} s.`, "idle");
      if (key === keyOf(this.wanted)) this.apply();
      this.rest();
    } else if (asked.kind === "improvement") {
      this.tables.get(key).improvement = message.improvement;
    } else if (key === keyOf(this.setting) && String(asked.ends) === String(this.ends)) {
      this.exact = message;
    }
    if (asked.kind !== "fit") this.say(`${DONE[asked.kind]} in ${message.seconds.toFixed(2)} s.`, "idle");
    this.draw();
  }

  /** What the page says of itself; `state` is also for tests and style. */
  say(text, state) {
    this.status.textContent =
      text || (state === "static" ? `This page works without a kernel, on ${this.tables.size} settings computed before.` : "Ready.");
    this.root.dataset.state = state;
  }

  ask(kind, message) {
    this.requests.ask(kind, message);
    if (this.requests.asked?.kind === kind) this.say(`${DOING[kind]} …`, "computing");
  }

  /** The hand rests: what takes the kernel longer is asked for. */
  rest() {
    clearTimeout(this.resting);
    this.resting = setTimeout(() => {
      if (!this.requests || this.dragged !== null || keyOf(this.wanted) !== keyOf(this.setting)) return;
      const setting = { ...this.setting };
      if (!this.exact) this.ask("curve", { setting, ends: this.ends.map((z) => [...z]) });
      if (!this.surface.improvement) this.ask("improvement", { setting });
    }, REST);
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

  /** Change what the sliders set; the map follows when its table is there. */
  choose(changes) {
    this.wanted = { ...this.wanted, ...changes };
    const key = keyOf(this.wanted);
    if (this.tables.has(key)) {
      this.requests?.drop("fit");
      this.apply();
      this.rest();
    } else if (this.requests) {
      this.ask("fit", { setting: { ...this.wanted } });
    } else {
      this.wanted = { ...this.setting };
      this.say("Without a kernel only settings that were computed before can be shown.", this.root.dataset.state);
    }
    this.draw();
  }

  /** Show the setting that is wanted, whose table is there. */
  apply() {
    this.setting = { ...this.wanted };
    this.exact = null;
    this.found = null;
    if (!this.surface.shades.sigma && this.background === "sigma") this.background = "volume";
    this.draw();
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
    const { scene } = this;
    this.map = make("canvas", { class: "gx-canvas", role: "img", "aria-label": "Map of the latent plane" });
    this.handles = ["A", "B"].map((name, k) => this.handle(name, k));
    this.frame = make("div", { class: "gx-map" }, this.map, ...this.handles);
    this.frame.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch" || this.dragged !== null) return;
      this.hover = this.latent(event);
      this.draw();
    });
    this.frame.addEventListener("pointerleave", () => {
      this.hover = null;
      this.draw();
    });
    this.bar = make("canvas", { class: "gx-bar", width: 256, height: 1, "aria-hidden": "true" });
    this.low = make("span");
    this.high = make("span");
    this.unit = make("span", { class: "gx-unit" });
    const legend = make(
      "p",
      { class: "gx-legend" },
      make("span", {}, make("span", { class: "gx-key gx-dashed" }), "straight line"),
      make("span", {}, make("span", { class: "gx-key gx-solid" }), "this page’s curve"),
      make("span", {}, make("span", { class: "gx-key gx-dots" }), "the kernel’s curve"),
    );
    this.strips = ["straight line", "curve"].map((name) =>
      make("canvas", { class: "gx-strip", width: IMAGES * SIDE, height: SIDE, role: "img", "aria-label": `Decoded images along the ${name}` }),
    );
    this.look = make("canvas", { class: "gx-look", width: SIDE, height: SIDE, role: "img", "aria-label": "Decoded image at the pointer" });
    this.here = make("p", { class: "gx-here" });
    this.numbers = this.table();
    this.average = make("p", { class: "gx-average" });
    this.exactText = make("p", { class: "gx-exact" });
    this.status = make("p", { class: "gx-status", role: "status" });
    this.story = make("p", { class: "gx-story", "aria-live": "polite" });
    this.back = this.button("Back", () => this.show(Math.max(0, this.tour - 1)));
    this.next = this.button("Take the tour", () => this.show(this.tour + 1 < TOUR.length ? this.tour + 1 : -1));
    this.code = make("textarea", { readonly: "", rows: "5", spellcheck: "false", "aria-label": "Code of this state" });
    this.copy = this.button("Copy as code", () => this.copied());
    const told = scene.choices.variance.includes("ensemble")
      ? ["Under “ensemble” the metric is that of other decoders, trained for the same latents; the images are drawn by the first."]
      : [];
    if (scene.notice) told.push(`Data: ${scene.notice}.`);
    this.notice = make("p", { class: "gx-notice", text: told.join(" ") });
    this.root = make(
      "section",
      { class: "gx", "aria-label": "Explorer of a latent space" },
      make("div", { class: "gx-head" }, this.story, make("div", { class: "gx-steps" }, this.back, this.next)),
      make(
        "div",
        { class: "gx-grid" },
        make(
          "div",
          { class: "gx-left" },
          this.frame,
          make("div", { class: "gx-scale" }, this.low, this.bar, this.high),
          this.unit,
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
          this.controls(),
          this.status,
          make("details", { class: "gx-code" }, make("summary", { text: "Code of this state" }), this.code, this.copy),
          this.notice,
        ),
      ),
    );
    el.append(this.root);
  }

  button(text, action) {
    const out = make("button", { type: "button", text });
    out.addEventListener("click", action);
    return out;
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
      if (this.dragged === which) this.move(which, ...this.latent(event));
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
      event.stopPropagation(); // JupyterLab moves between cells by these keys
      const step = ((event.shiftKey ? 0.1 : 0.01) * (this.box.upper[0] - this.box.lower[0]));
      this.move(which, this.ends[which][0] + step * way[0], this.ends[which][1] + step * way[1]);
    });
    return out;
  }

  /** Where the pointer is, in latent units. */
  latent(event) {
    const { left, top, width, height } = this.frame.getBoundingClientRect();
    const { lower, upper } = this.box;
    const share = [(event.clientX - left) / width, 1 - (event.clientY - top) / height];
    return share.map((s, k) => lower[k] + s * (upper[k] - lower[k]));
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

  controls() {
    const { scene } = this;
    const variances = Object.fromEntries(scene.choices.variance.map((name) => [name, VARIANCES[name]]));
    this.variances = this.radios("variance", variances, (value) => this.choose({ variance: value }));
    this.sliders = Object.entries(SLIDERS).map(([name, { label }]) => {
      const input = make("input", { type: "range", min: 0, max: scene.choices[name].length - 1, step: 1, "data-name": name });
      input.setAttribute("aria-label", label);
      const output = make("output");
      input.addEventListener("input", () => this.choose({ variance: "rbf", [name]: Number(input.value) }));
      input.addEventListener("keydown", (event) => event.stopPropagation());
      return { name, input, output, row: make("label", { class: "gx-slider" }, make("span", { text: label }), input, output) };
    });
    this.grounds = make("select", { "aria-label": "What the colours show" }, ...Object.entries(BACKGROUNDS).map(([value, { label }]) =>
      make("option", { value, text: label })));
    this.grounds.addEventListener("change", () => {
      this.background = this.grounds.value;
      this.draw();
    });
    this.pairs = make("select", { "aria-label": "Pairs of test images" }, make("option", { value: "", text: "choose a pair" }),
      ...scene.pairs.map(({ labels, improvement }, k) =>
        make("option", { value: k, text: `${k + 1}: ${labels.join(" → ")}, ${percent(improvement)}` })));
    this.pairs.addEventListener("change", () => this.pairs.value && this.load(Number(this.pairs.value)));
    const boxes = scene.classes.map((label) => {
      const input = make("input", { type: "checkbox", checked: "" });
      input.addEventListener("change", () => {
        if (input.checked) this.classes.add(label);
        else this.classes.delete(label);
        this.draw();
      });
      return make("label", { class: "gx-box" }, input, String(label));
    });
    return make(
      "div",
      { class: "gx-controls" },
      make("label", { class: "gx-pick" }, make("span", { text: "colours" }), this.grounds),
      make("label", { class: "gx-pick" }, make("span", { text: "test images" }), this.pairs),
      make("fieldset", {}, make("legend", { text: "variance" }), ...this.variances),
      make("fieldset", {}, make("legend", { text: "dots of class" }), ...boxes),
      ...this.sliders.map(({ row }) => row),
    );
  }

  radios(name, values, action) {
    Explorer.count = (Explorer.count ?? 0) + 1;
    return Object.entries(values).map(([value, text]) => {
      const input = make("input", { type: "radio", name: `gx-${name}-${Explorer.count}`, value });
      input.addEventListener("change", () => input.checked && action(value));
      input.addEventListener("keydown", (event) => event.stopPropagation());
      return make("label", { class: "gx-box" }, input, text);
    });
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

  // --- drawing, at most once for each frame of the screen

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.frameNow();
    });
  }

  frameNow() {
    const { surface } = this;
    const [start, end] = this.ends;
    // the search that can stay: from the point that is not dragged; the distance's own map starts at A
    const root = this.background === "distance" || this.dragged !== 0 ? 0 : 1;
    const tag = `${keyOf(this.setting)} ${root} ${this.ends[root]}`;
    if (this.found?.tag !== tag) this.found = { tag, search: surface.graph.search(...this.ends[root]) };
    this.fast = fastCurve(surface.graph, this.found.search, start, end, { reversed: root === 1 });
    this.paint(surface);
    this.strip(0, this.straight(start, end));
    this.strip(1, this.fast.points);
    this.tell(surface);
    this.frames += 1;
    this.root.dataset.frames = this.frames;
  }

  straight(start, end) {
    return Float64Array.from({ length: 2 * IMAGES }, (_, k) => {
      const share = Math.floor(k / 2) / (IMAGES - 1);
      return (1 - share) * start[k % 2] + share * end[k % 2];
    });
  }

  /** Latent units to pixels of the map. */
  pixel([x, y], size) {
    const { lower, upper } = this.box;
    return [(size * (x - lower[0])) / (upper[0] - lower[0]), size * (1 - (y - lower[1]) / (upper[1] - lower[1]))];
  }

  shadeOf(surface) {
    if (this.background === "distance") {
      const values = this.found.search.distance;
      return { values, low: 0, high: 1.2 * this.atPoints(values, 1) };
    }
    return surface.shades[this.background] ?? surface.shades.volume;
  }

  /** A quantile of values on the nodes, at the nodes that are nearest to the test images. */
  atPoints(values, share) {
    const { n, lower, upper } = this.box;
    this.nearest ??= Array.from({ length: this.points.length / 2 }, (_, k) => {
      const [i, j] = [0, 1].map((c) => Math.round((n * (this.points[2 * k + c] - lower[c])) / (upper[c] - lower[c])));
      return i * (n + 1) + j;
    });
    const sorted = Float64Array.from(this.nearest, (node) => values[node]).sort();
    return sorted[Math.round(share * (sorted.length - 1))];
  }

  paint(surface) {
    const ratio = window.devicePixelRatio || 1;
    const size = Math.max(1, Math.round(this.map.clientWidth * ratio));
    if (this.map.width !== size) this.map.width = this.map.height = size;
    const context = this.map.getContext("2d");
    const ground = this.shadeOf(surface);
    context.drawImage(this.layer(ground, size, ratio), 0, 0);
    const scaled = (points) => Array.from({ length: points.length / 2 }, (_, k) => this.pixel([points[2 * k], points[2 * k + 1]], size));
    const focus = this.hover ?? this.ends[this.active];
    this.ellipse(context, surface, focus, size, ratio);
    this.path(context, scaled(this.straight(...this.ends)), LINE, 2 * ratio, [6 * ratio, 5 * ratio]);
    this.path(context, scaled(this.fast.points), CURVE, 3 * ratio);
    if (this.exact) {
      for (const [x, y] of this.exact.points.map((z) => this.pixel(z, size))) this.disc(context, x, y, 2.2 * ratio, LINE);
    }
    this.labels(context, size, ratio);
    this.handles.forEach((handle, k) => {
      const [x, y] = this.pixel(this.ends[k], 100);
      handle.style.left = `${x}%`;
      handle.style.top = `${y}%`;
      handle.setAttribute("aria-label", `End point ${handle.textContent} at ${this.ends[k].map((c) => c.toFixed(2)).join(", ")}. Arrow keys move it.`);
    });
    const short = (value) => value.toFixed(Math.abs(value) < 10 ? 1 : 0).replace(/^-(0\.?0*)$/, "$1");
    this.low.textContent = short(ground.low);
    this.high.textContent = short(ground.high);
    this.unit.textContent = BACKGROUNDS[this.background].unit;
    const bar = this.bar.getContext("2d");
    COLORS.forEach(([r, g, b], k) => {
      bar.fillStyle = `rgb(${r},${g},${b})`;
      bar.fillRect(k, 0, 1, 1);
    });
  }

  /** Colours, contours and dots, which stay while the points move. */
  layer(ground, size, ratio) {
    const tag = `${this.background} ${size} ${[...this.classes].sort()}`;
    if (this.layered !== tag || this.painted !== ground.values) {
      this.layered = tag;
      this.layers ??= make("canvas");
      this.layers.width = this.layers.height = size;
      const context = this.layers.getContext("2d");
      this.ground(context, ground, size);
      if (this.background === "distance") this.contours(context, ground, size, ratio);
      this.dots(context, size, ratio);
    }
    return this.layers;
  }

  ground(context, { values, low, high }, size) {
    const side = this.box.n + 1;
    if (this.painted !== values) {
      this.painted = values;
      this.tile ??= make("canvas", { width: side, height: side });
      const tile = this.tile.getContext("2d");
      const image = tile.createImageData(side, side);
      for (let i = 0; i < side; i++) {
        for (let j = 0; j < side; j++) {
          const share = (values[i * side + j] - low) / (high - low);
          const color = COLORS[Math.round(255 * Math.min(1, Math.max(0, share)))];
          const at = 4 * ((side - 1 - j) * side + i);
          for (let c = 0; c < 3; c++) image.data[at + c] = color[c];
          image.data[at + 3] = 255;
        }
      }
      tile.putImageData(image, 0, 0);
    }
    // nodes lie on the border, so half a pixel of the tile is cut off at each side
    context.imageSmoothingEnabled = true;
    context.drawImage(this.tile, 0.5, 0.5, side - 1, side - 1, 0, 0, size, size);
  }

  contours(context, { values, high }, size, ratio) {
    const side = this.box.n + 1;
    context.lineWidth = ratio;
    context.strokeStyle = "rgba(255, 255, 255, 0.8)";
    context.beginPath();
    for (let level = 1; level < LEVELS; level++) {
      const ends = contour(values, side, (level * high) / LEVELS);
      const scale = size / this.box.n;
      for (let k = 0; k < ends.length; k += 4) {
        context.moveTo(ends[k] * scale, size - ends[k + 1] * scale);
        context.lineTo(ends[k + 2] * scale, size - ends[k + 3] * scale);
      }
    }
    context.stroke();
  }

  dots(context, size, ratio) {
    context.fillStyle = "rgba(255, 255, 255, 0.55)";
    this.scene.labels.forEach((label, k) => {
      if (!this.classes.has(label)) return;
      const [x, y] = this.pixel([this.points[2 * k], this.points[2 * k + 1]], size);
      context.fillRect(x - 0.75 * ratio, y - 0.75 * ratio, 1.5 * ratio, 1.5 * ratio);
    });
  }

  /** Each class's name at the median of its points, on a ground of its own, so that it can be read on any colour. */
  labels(context, size, ratio) {
    this.medians ??= this.scene.classes.map((label) => {
      const own = this.scene.labels.flatMap((other, k) => (other === label ? [k] : []));
      const median = (c) => own.map((k) => this.points[2 * k + c]).sort((a, b) => a - b)[Math.floor(own.length / 2)];
      return { label, at: [median(0), median(1)] };
    });
    context.font = `bold ${12 * ratio}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const { label, at } of this.medians) {
      if (!this.classes.has(label) || at[0] === undefined) continue;
      const [x, y] = this.pixel(at, size);
      const half = 9 * ratio;
      context.fillStyle = "rgba(16, 16, 16, 0.85)";
      context.fillRect(x - half, y - half, 2 * half, 2 * half);
      context.fillStyle = "#ffffff";
      context.fillText(String(label), x, y + ratio);
    }
  }

  path(context, points, color, width, dashes = []) {
    const stroke = (style, w, dash) => {
      context.beginPath();
      points.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.setLineDash(dash);
      context.strokeStyle = style;
      context.lineWidth = w;
      context.lineJoin = "round";
      context.stroke();
      context.setLineDash([]);
    };
    stroke(CASING, 1.8 * width, []);
    stroke(color, width, dashes);
  }

  disc(context, x, y, radius, color) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = color;
    context.strokeStyle = CASING;
    context.lineWidth = radius / 2;
    context.fill();
    context.stroke();
  }

  /** The ellipse of steps of one length, on one scale for the whole map. */
  ellipse(context, surface, [x, y], size, ratio) {
    const { table } = surface.graph;
    surface.unit ??= ELLIPSE * Math.exp(this.atPoints(surface.shades.volume.values, 0.5) / 2);
    const { long, short, angle } = ellipse(table, x, y);
    const scale = surface.unit * size;
    const [cx, cy] = this.pixel([x, y], size);
    context.beginPath();
    context.ellipse(cx, cy, Math.max(ratio, Math.min(long * scale, size)), Math.max(ratio, short * scale), -angle, 0, 2 * Math.PI);
    context.fillStyle = "rgba(255, 255, 255, 0.25)";
    context.fill();
    context.strokeStyle = CASING;
    context.lineWidth = 3 * ratio;
    context.stroke();
    context.strokeStyle = LINE;
    context.lineWidth = 1.5 * ratio;
    context.stroke();
  }

  /** The decoded image at a latent point, drawn into a canvas from `left` on. */
  image(context, z, left) {
    const values = this.decoder.decode(z);
    const image = context.createImageData(SIDE, SIDE);
    const { data } = image;
    for (let k = 0; k < values.length; k++) {
      data[4 * k] = data[4 * k + 1] = data[4 * k + 2] = 255 * values[k];
      data[4 * k + 3] = 255;
    }
    context.putImageData(image, left, 0);
  }

  /** Images at equal steps along points that lie at equal steps; an end that has not moved stays as it is. */
  strip(which, points) {
    const context = this.strips[which].getContext("2d");
    const last = points.length / 2 - 1;
    this.drawn ??= [[], []];
    for (let k = 0; k < IMAGES; k++) {
      const node = Math.round((k * last) / (IMAGES - 1));
      const z = [points[2 * node], points[2 * node + 1]];
      if (String(this.drawn[which][k]) !== String(z)) this.image(context, z, k * SIDE);
      this.drawn[which][k] = z;
    }
  }

  /** Numbers and words. */
  tell(surface) {
    const { fast, exact, cells } = this;
    const put = (name, text) => {
      if (cells[name].textContent !== text) cells[name].textContent = text;
    };
    put("length-line", show(fast.line));
    put("length-fast", show(fast.length));
    put("gain-fast", percent(fast.improvement));
    put("length-exact", exact ? show(exact.length) : "–");
    put("gain-exact", exact ? percent(exact.improvement) : "–");
    put("difference-line", exact ? signed(fast.line / exact.line_length - 1) : "–");
    put("difference-fast", exact ? signed(fast.length / exact.length - 1) : "–");
    const waiting = this.requests ? "The kernel’s solver refines the curve when the hand rests." : "The exact curve needs a kernel: run notebook 16.";
    this.exactText.textContent = exact
      ? `Kernel: ${exact.sentence}. Certificate ${exact.residual.toExponential(1)}, index ${exact.index}, ${exact.status}.`
      : waiting;
    this.average.textContent = averageInWords(surface.improvement) ||
      (this.requests ? "Algorithm 1 follows when the hand rests." : "Algorithm 1 was not run for this setting.");
    const focus = this.hover ?? this.ends[this.active];
    this.image(this.look.getContext("2d"), focus, 0);
    const [m, p, b] = surface.graph.table.log(...focus, new Float64Array(9));
    const place = this.hover ? "pointer" : `point ${"AB"[this.active]}`;
    this.here.textContent = `${place}: volume ${show(Math.exp(m))}, condition ${show(Math.exp(2 * Math.hypot(p, b)))}`;
    this.settle();
    this.tellStory(surface);
    this.code.value = codeOf(this.setting, this.ends, this.scene.choices, this.scene.run);
  }

  /** Controls show what is wanted; while the map shows something else, it says so. */
  settle() {
    const { wanted, setting, scene } = this;
    for (const label of this.variances) label.firstChild.checked = label.firstChild.value === wanted.variance;
    for (const { name, input, output } of this.sliders) {
      if (Number(input.value) !== wanted[name]) input.value = wanted[name];
      const value = String(scene.choices[name][wanted[name]]);
      input.setAttribute("aria-valuetext", value);
      output.textContent = value;
      output.classList.toggle("gx-ahead", wanted[name] !== setting[name]);
    }
    this.grounds.value = this.background;
    this.grounds.options[2].disabled = setting.variance === "none";
    this.frame.classList.toggle("gx-stale", keyOf(wanted) !== keyOf(setting));
    this.root.dataset.shown = keyOf(setting);
    this.root.dataset.wanted = keyOf(wanted);
  }

  tellStory(surface) {
    const step = TOUR[this.tour];
    const average = averageInWords(surface.improvement);
    const text = step ? `${this.tour + 1} of ${TOUR.length}. ${step.text({ ...this.fast, average })}` : INTRO;
    if (this.story.textContent !== text) this.story.textContent = text;
    this.back.disabled = this.tour < 1;
    this.next.textContent = this.tour < 0 ? "Take the tour" : this.tour + 1 < TOUR.length ? "Next" : "End the tour";
  }

  remove() {
    clearTimeout(this.resting);
    this.observer.disconnect();
    this.root.remove();
  }
}

const DOING = { fit: "Fitting the variance", curve: "Refining the curve", improvement: "Running Algorithm 1" };
const DONE = { curve: "Refined", improvement: "Algorithm 1 done" };

function signed(share) {
  return `${share < 0 ? "−" : "+"}${(100 * Math.abs(share)).toFixed(2)} %`;
}

/** The widget: the scene and the kernel come through Jupyter's model. */
function render({ model, el }) {
  const kernel = {
    send: (message) => model.send(message),
    listen: (callback) => model.on("msg:custom", callback),
    lost: (callback) => model.on("comm_live_update", callback),
  };
  const explorer = mount(el, { scene: model.get("scene"), kernel });
  return () => explorer.remove();
}

export default { render };
