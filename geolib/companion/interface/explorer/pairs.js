// Which pairs of two models may be compared, at any threshold: what notebook 05 shows.
import { pixels } from "./numerics.js";
import { button, drawImage, make, percent, SIDE, slider, strip, View } from "./parts.js";

class Pairs extends View {
  constructor(el, host) {
    super(host);
    const { scene } = this;
    this.images = pixels(scene.strips);
    this.slider = slider("threshold", "threshold, percentage points", scene.thresholds, (place) => this.choose(place));
    const highest = Math.max(...scene.pairs.flatMap((pair) => pair.improvements), 1e-9);
    this.buttons = scene.pairs.map((pair, k) => {
      const bars = pair.improvements.map((share, model) => {
        const out = make("span", { class: `gx-column gx-model-${model}`, "aria-hidden": "true" });
        out.style.height = `${(100 * share) / highest}%`;
        return out;
      });
      const out = button("", () => this.show(k), { class: "gx-pair" });
      out.append(make("span", { class: "gx-columns" }, ...bars), make("span", { class: "gx-nth", text: String(k + 1) }));
      return out;
    });
    this.count = make("p", { class: "gx-average", role: "status" });
    this.names = scene.pairs.length ? [0, 1, 2, 3].map(() => make("span")) : [];
    this.strips = this.names.map((_, k) => strip(scene.strips.images, `${scene.models[k >> 1]}, along the ${k & 1 ? "curve" : "line"}`));
    this.title = make("p", { class: "gx-unit" });
    const story = make("p", {
      class: "gx-story",
      text:
        `Each column is a pair of test images: how much shorter than its straight line the curve is, in ${scene.models.join(" and in ")}. ` +
        "Move the threshold: pairs on a band may be compared. Press a pair to see it.",
    });
    const legend = make(
      "p",
      { class: "gx-legend" },
      ...scene.models.map((name, model) => make("span", {}, make("span", { class: `gx-key gx-model-${model}` }), name)),
      make("span", {}, make("span", { class: "gx-key gx-band" }), "comparable"),
      make("span", { text: `highest column: ${percent(highest)}` }),
    );
    this.open(
      el,
      "Pairs that may be compared",
      make("div", { class: "gx-head" }, story),
      make("div", { class: "gx-controls" }, this.slider.row),
      this.count,
      make("div", { class: "gx-pairs", role: "group", "aria-label": "Pairs" }, ...this.buttons),
      legend,
      this.title,
      make("div", { class: "gx-strips gx-named" }, ...this.names.flatMap((name, k) => [name, this.strips[k]])),
      make("p", { class: "gx-notice", text: scene.notice ? `Data: ${scene.notice}.` : "" }),
    );
    this.pair = 0;
    this.choose(scene.first);
  }

  get alone() {
    return "";
  }

  lost() {}

  choose(place) {
    this.place = place;
    this.slider.put(place);
    this.draw();
  }

  show(pair) {
    this.pair = pair;
    this.draw();
  }

  frameNow() {
    const { pairs, models, thresholds, strips: stored } = this.scene;
    const threshold = thresholds[this.place];
    const near = pairs.map(({ difference }) => difference !== null && 100 * difference <= threshold);
    const gains = pairs.filter((_, k) => near[k]).flatMap(({ improvements }) => improvements);
    const largest = gains.length ? ` None of their lines can be shortened by more than ${percent(Math.max(...gains))}.` : "";
    const count = `${gains.length / 2} of ${pairs.length} pairs are comparable at ${threshold} percentage points.${largest}`;
    if (this.count.textContent !== count) this.count.textContent = count;
    this.buttons.forEach((out, k) => {
      const { labels, improvements } = pairs[k];
      const told = improvements.map((share, model) => `${percent(share)} in ${models[model]}`).join(", ");
      out.classList.toggle("gx-band", near[k]);
      out.setAttribute("aria-pressed", String(k === this.pair));
      out.setAttribute("aria-label", `Pair ${k + 1}, ${labels.join(" to ")}: ${told}${near[k] ? ", comparable" : ""}`);
    });
    if (pairs.length) {
      const { labels, improvements } = pairs[this.pair];
      this.title.textContent = `Pair ${this.pair + 1}, ${labels.join(" → ")}, ${near[this.pair] ? "comparable" : "not comparable"}`;
      this.strips.forEach((canvas, k) => {
        const name = models[k >> 1];
        this.names[k].textContent = k & 1 ? `${name}, curve: ${percent(improvements[k >> 1])} shorter` : `${name}, line`;
        const context = canvas.getContext("2d");
        for (let n = 0; n < stored.images; n++) {
          const at = SIDE * SIDE * ((4 * this.pair + k) * stored.images + n);
          drawImage(context, this.images.subarray(at, at + SIDE * SIDE), n * SIDE);
        }
      });
    }
    this.root.dataset.shown = `${this.place} ${this.pair}`;
  }
}
