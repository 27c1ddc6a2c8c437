// A map of the latent plane with sliders for the decoder's variance: what notebook 02 shows, and the explorer's ground.
import { floats, Graph, logCondition, logVolume, steps, Table } from "./numerics.js";
import { drawImage, imagesOf, keep, LatentMap, LINE, make, shade, show, SIDE, slider, View } from "./parts.js";

const ELLIPSE = 0.06; // of the map, its mean radius in the middle of the data
const VARIANCES = { rbf: "RBF", network: "network", ensemble: "ensemble", none: "none" };
const BACKGROUNDS = {
  volume: { label: "how much the image changes", unit: "log volume, log √det M" },
  condition: { label: "how unequal directions are", unit: "log condition number of M" },
  sigma: { label: "how unsure the decoder is", unit: "log Σ σ; circles: centres of the RBF" },
};
const SLIDERS = { curvature: "reach of a centre, a", n_centers: "centres, K", zeta: "precision far away, ζ" };

/** The name of a setting's table, as `key` of scene.py. */
export function keyOf({ variance, curvature, n_centers, zeta }) {
  return variance === "rbf" ? `rbf-${curvature}-${n_centers}-${zeta}` : variance;
}

/** A page whose ground is the metric of one of several settings of the variance. */
class Variances extends View {
  constructor(el, host, doing = { fit: "Fitting the variance" }) {
    super(host, doing);
    const { scene } = this;
    this.box = scene.box;
    this.images = imagesOf(scene);
    this.tables = new Map();
    this.setting = { ...scene.first };
    this.wanted = { ...scene.first };
    this.background = scene.background;
    this.hover = null;
    for (const [key, stored] of Object.entries(scene.tables)) this.keep(key, stored);
    this.map = new LatentMap(scene);
    this.begin();
    this.look = make("canvas", { class: "gx-look", width: SIDE, height: SIDE, role: "img", "aria-label": "Decoded image at the pointer" });
    this.here = make("p", { class: "gx-here" });
    this.story = make("p", { class: "gx-story", "aria-live": "polite" });
    this.notice = make("p", { class: "gx-notice", text: this.notes.join(" ") });
    this.follow();
    this.build(el);
    this.apply();
    this.rest();
  }

  /** What a subclass has before its elements are built. */
  begin() {}

  get notes() {
    const { choices, notice } = this.scene;
    const others = "Under “ensemble” the metric is that of other decoders, trained for the same latents; the images are drawn by the first.";
    return [...(choices.variance.includes("ensemble") ? [others] : []), ...(notice ? [`Data: ${notice}.`] : [])];
  }

  // --- tables

  keep(key, { logs, log_sigma: sigma, centers, improvement }) {
    this.tables.set(key, { stored: { logs, sigma }, centers: centers && floats(centers), improvement });
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

  get alone() {
    const n = this.tables.size;
    return `This page works without a kernel, on ${n} ${n === 1 ? "setting" : "settings"} computed before.`;
  }

  lost() {
    this.wanted = { ...this.setting };
    this.say("The kernel is gone. Settings already seen can still be shown; run the cell again for the rest.", "lost");
  }

  answered(asked, message) {
    const key = keyOf(asked.setting);
    if (message.error) {
      this.say(message.error, "error");
      if (asked.kind === "fit" && key === keyOf(this.wanted)) this.wanted = { ...this.setting };
    } else if (asked.kind === "fit") {
      this.keep(key, message);
      this.say(`Fitted and tabulated in ${message.seconds.toFixed(2)} s.`, "idle");
      if (key === keyOf(this.wanted)) this.apply();
      this.rest();
    }
    this.draw();
  }

  /** The hand rests: what takes the kernel longer is asked for. */
  rest() {}

  // --- what the reader does

  /** Change what the sliders set; the map follows when its table is there. */
  choose(changes) {
    this.wanted = { ...this.wanted, ...changes };
    if (this.tables.has(keyOf(this.wanted))) {
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
    if (!this.surface.shades.sigma && this.background === "sigma") this.background = "volume";
    this.draw();
  }

  /** The pointer is followed over the map. */
  follow() {
    const { frame } = this.map;
    for (const kind of ["pointermove", "pointerdown"]) {
      frame.addEventListener(kind, (event) => {
        if ((event.pointerType === "touch" && kind === "pointermove") || this.busy) return;
        this.hover = this.map.latent(event);
        this.draw();
      });
    }
    frame.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "touch") return;
      this.hover = null;
      this.draw();
    });
  }

  // --- the elements

  build(el) {
    this.open(
      el,
      "Variance over a latent space",
      make("div", { class: "gx-head" }, this.story),
      make(
        "div",
        { class: "gx-grid" },
        make("div", { class: "gx-left" }, this.map.frame, this.map.scale, this.map.unit),
        make(
          "div",
          { class: "gx-right" },
          make("div", { class: "gx-point" }, this.look, this.here),
          make("div", { class: "gx-controls" }, ...this.controls()),
          this.status,
          this.notice,
        ),
      ),
    );
  }

  /** What the map can show. */
  get backgrounds() {
    return BACKGROUNDS;
  }

  controls() {
    const { choices, classes } = this.scene;
    this.variances = this.radios(choices.variance);
    this.sliders = Object.entries(SLIDERS).map(([name, label]) =>
      slider(name, label, choices[name], (place) => this.choose({ variance: "rbf", [name]: place })),
    );
    const grounds = Object.entries(this.backgrounds).map(([value, { label }]) => make("option", { value, text: label }));
    this.grounds = make("select", { "aria-label": "What the colours show" }, ...grounds);
    this.grounds.addEventListener("change", () => {
      this.background = this.grounds.value;
      this.draw();
    });
    const boxes = classes.map((label) => {
      const input = make("input", { type: "checkbox", checked: "" });
      input.addEventListener("change", () => {
        if (input.checked) this.map.shown.add(label);
        else this.map.shown.delete(label);
        this.draw();
      });
      return make("label", { class: "gx-box" }, input, String(label));
    });
    return [
      make("label", { class: "gx-pick" }, make("span", { text: "colours" }), this.grounds),
      make("fieldset", {}, make("legend", { text: "variance" }), ...this.variances),
      make("fieldset", {}, make("legend", { text: "dots of class" }), ...boxes),
      ...this.sliders.map(({ row }) => row),
    ];
  }

  radios(names) {
    Variances.count = (Variances.count ?? 0) + 1;
    return names.map((value) => {
      const input = make("input", { type: "radio", name: `gx-variance-${Variances.count}`, value });
      input.addEventListener("change", () => input.checked && this.choose({ variance: value }));
      input.addEventListener("keydown", keep);
      return make("label", { class: "gx-box" }, input, VARIANCES[value]);
    });
  }

  // --- drawing

  frameNow() {
    this.paint();
    this.tell();
  }

  /** The point that is looked at. */
  get focus() {
    return this.hover ?? this.map.middle;
  }

  get place() {
    return this.hover ? "pointer" : "middle of the data";
  }

  shadeOf(surface) {
    return surface.shades[this.background] ?? surface.shades.volume;
  }

  paint() {
    const { background, map, surface } = this;
    const { unit, contours } = this.backgrounds[background];
    map.paint(this.shadeOf(surface), { name: background, unit, contours }, (context, size, ratio) => {
      const { centers = [] } = background === "sigma" ? surface : {};
      for (const at of map.pixels(centers, size)) map.disc(context, ...at, 2.5 * ratio, LINE);
      surface.unit ??= ELLIPSE * Math.exp(map.atPoints(surface.shades.volume.values, 0.5) / 2);
      map.ellipse(context, surface.graph.table, this.focus, surface.unit, size, ratio);
      this.over(context, size, ratio);
    });
  }

  /** What is drawn over the map. */
  over() {}

  /** Numbers and words. */
  tell() {
    drawImage(this.look.getContext("2d"), this.images.decode(this.focus), 0);
    const [m, p, b] = this.surface.graph.table.log(...this.focus, new Float64Array(9));
    this.here.textContent = `${this.place}: volume ${show(Math.exp(m))}, condition ${show(Math.exp(2 * Math.hypot(p, b)))}`;
    this.settle();
    if (this.story.textContent !== this.told) this.story.textContent = this.told;
  }

  get told() {
    return (
      "Each point of the map is an image that a decoder draws, and the colours say how unsure it is. Move a slider: the " +
      "variance is fitted again. Where do gaps between the classes stay gaps?"
    );
  }

  /** Controls show what is wanted; while the map shows something else, it says so. */
  settle() {
    const { wanted, setting } = this;
    for (const label of this.variances) label.firstChild.checked = label.firstChild.value === wanted.variance;
    for (const { name, output, put } of this.sliders) {
      put(wanted[name]);
      output.classList.toggle("gx-ahead", wanted[name] !== setting[name]);
    }
    this.grounds.value = this.background;
    this.grounds.options[2].disabled = setting.variance === "none";
    this.map.frame.classList.toggle("gx-stale", keyOf(wanted) !== keyOf(setting));
    this.root.dataset.shown = keyOf(setting);
    this.root.dataset.wanted = keyOf(wanted);
  }
}
