// What the module's pages are made of: elements, a map of the latent plane, questions to the kernel, a page that says
// what it does.
import { Atlas, contour, Decoder, ellipse, floats } from "./numerics.js";

const LATE = 10000; // ms after which a kernel that has not answered is said to be late
const REST = 350; // ms without a move, after which the hand rests
const LEVELS = 10;
const SIDE = 28;
const VIRIDIS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"];
const LINE = "#ffffff";
const CURVE = "#e69f00";
const CASING = "#101010";

/** A number with three digits. */
function show(value) {
  return Math.abs(value) >= 1000 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

/** A share in per cent; null where it is not known. */
function percent(share) {
  return share === null ? "–" : `${(100 * share).toFixed(1)} %`;
}

/** A share in per cent, with its sign. */
function signed(share) {
  return `${share < 0 ? "−" : "+"}${(100 * Math.abs(share)).toFixed(2)} %`;
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

/** A button that does something. */
function button(text, action, attributes = {}) {
  const out = make("button", { type: "button", text, ...attributes });
  out.addEventListener("click", action);
  return out;
}

/** Keep a key from JupyterLab, which moves between cells by them. Keys with Ctrl or Cmd, such as to save, are its own. */
function keep(event) {
  if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
}

/** A slider over some values, and what it says; `action` gets the place of the value chosen. */
function slider(name, label, values, action) {
  const input = make("input", { type: "range", min: 0, max: values.length - 1, step: 1, "data-name": name, "aria-label": label });
  const output = make("output");
  input.addEventListener("input", () => action(Number(input.value)));
  input.addEventListener("keydown", keep);
  const row = make("label", { class: "gx-slider" }, make("span", { text: label }), input, output);
  const put = (place) => {
    if (Number(input.value) !== place) input.value = place;
    input.setAttribute("aria-valuetext", String(values[place]));
    output.textContent = String(values[place]);
  };
  return { name, input, output, row, put };
}

/** Decoded images at latent points: from the decoder's layers, or from an atlas of images where it has others. */
function imagesOf({ decoder, atlas, box }) {
  return atlas ? new Atlas({ ...box, ...atlas }) : new Decoder(decoder);
}

/** Draw an image of gray values in [0, 1] into a canvas, from `left` on. */
function drawImage(context, values, left) {
  const image = context.createImageData(SIDE, SIDE);
  const { data } = image;
  for (let k = 0; k < values.length; k++) {
    data[4 * k] = data[4 * k + 1] = data[4 * k + 2] = 255 * values[k];
    data[4 * k + 3] = 255;
  }
  context.putImageData(image, left, 0);
}

/** A row of so many images. */
function strip(images, label) {
  return make("canvas", { class: "gx-strip", width: images * SIDE, height: SIDE, role: "img", "aria-label": label });
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

/** A map of the latent plane: colours, contours, dots and names of classes, and what is drawn over them. */
class LatentMap {
  constructor({ box, points, labels, classes }) {
    Object.assign(this, { box, points: floats(points), labels, classes });
    this.shown = new Set(classes);
    this.canvas = make("canvas", { class: "gx-canvas", role: "img", "aria-label": "Map of the latent plane" });
    this.frame = make("div", { class: "gx-map" }, this.canvas);
    this.bar = make("canvas", { class: "gx-bar", width: 256, height: 1, "aria-hidden": "true" });
    this.low = make("span");
    this.high = make("span");
    this.unit = make("span", { class: "gx-unit" });
    this.scale = make("div", { class: "gx-scale" }, this.low, this.bar, this.high);
    const bar = this.bar.getContext("2d");
    COLORS.forEach(([r, g, b], k) => {
      bar.fillStyle = `rgb(${r},${g},${b})`;
      bar.fillRect(k, 0, 1, 1);
    });
  }

  /** Latent units to pixels of a map of that size. */
  pixel([x, y], size) {
    const { lower, upper } = this.box;
    return [(size * (x - lower[0])) / (upper[0] - lower[0]), size * (1 - (y - lower[1]) / (upper[1] - lower[1]))];
  }

  /** Points x0, y0, x1, y1, ... in pixels. */
  pixels(points, size) {
    return Array.from({ length: points.length / 2 }, (_, k) => this.pixel([points[2 * k], points[2 * k + 1]], size));
  }

  /** Where the pointer is, in latent units. */
  latent(event) {
    const { left, top, width, height } = this.frame.getBoundingClientRect();
    const { lower, upper } = this.box;
    const share = [(event.clientX - left) / width, 1 - (event.clientY - top) / height];
    return share.map((s, k) => lower[k] + s * (upper[k] - lower[k]));
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

  /** The middle of the test images. */
  get middle() {
    const [xs, ys] = [0, 1].map((c) => this.points.filter((_, k) => k % 2 === c).sort());
    return [xs[xs.length >> 1], ys[ys.length >> 1]];
  }

  /** Draw the map, with `over` between its dots and the names of its classes. */
  paint(ground, { name, unit, contours = false }, over) {
    const ratio = window.devicePixelRatio || 1;
    const size = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    if (this.canvas.width !== size) this.canvas.width = this.canvas.height = size;
    const context = this.canvas.getContext("2d");
    context.drawImage(this.layer(ground, { name, contours }, size, ratio), 0, 0);
    over(context, size, ratio);
    this.names(context, size, ratio);
    const short = (value) => value.toFixed(Math.abs(value) < 10 ? 1 : 0).replace(/^-(0\.?0*)$/, "$1");
    this.low.textContent = short(ground.low);
    this.high.textContent = short(ground.high);
    this.unit.textContent = unit;
  }

  /** Colours, contours and dots, which stay while something moves over them. */
  layer(ground, { name, contours }, size, ratio) {
    const tag = `${name} ${size} ${[...this.shown].sort()}`;
    if (this.layered !== tag || this.painted !== ground.values) {
      this.layered = tag;
      this.layers ??= make("canvas");
      this.layers.width = this.layers.height = size;
      const context = this.layers.getContext("2d");
      this.ground(context, ground, size);
      if (contours) this.contours(context, ground, size, ratio);
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
    this.labels.forEach((label, k) => {
      if (!this.shown.has(label)) return;
      const [x, y] = this.pixel([this.points[2 * k], this.points[2 * k + 1]], size);
      context.fillRect(x - 0.75 * ratio, y - 0.75 * ratio, 1.5 * ratio, 1.5 * ratio);
    });
  }

  /** Each class's name at the median of its points, on a ground of its own, so that it can be read on any colour. */
  names(context, size, ratio) {
    this.medians ??= this.classes.map((label) => {
      const own = this.labels.flatMap((other, k) => (other === label ? [k] : []));
      const median = (c) => own.map((k) => this.points[2 * k + c]).sort((a, b) => a - b)[Math.floor(own.length / 2)];
      return { label, at: [median(0), median(1)] };
    });
    context.font = `bold ${12 * ratio}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const { label, at } of this.medians) {
      if (!this.shown.has(label) || at[0] === undefined) continue;
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

  /** The ellipse of steps of one length at a point; `unit` is that length. */
  ellipse(context, table, [x, y], unit, size, ratio) {
    const { long, short, angle } = ellipse(table, x, y);
    const scale = unit * size;
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
}

/** One request at a time; of each kind only the latest is kept, so nothing queues. */
class Requests {
  constructor(kernel, order, { answer, late }) {
    Object.assign(this, { kernel, order, answer, late, wanted: new Map(), last: 0, asked: null });
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
    const kind = this.order.find((name) => this.wanted.has(name));
    if (!kind) return;
    this.last += 1;
    this.asked = { id: this.last, kind, ...this.wanted.get(kind) };
    this.wanted.delete(kind);
    this.timer = setTimeout(() => this.late(this.asked), LATE);
    this.kernel.send(this.asked);
  }
}

/**
 * A page: what it shows is drawn at most once for each frame of the screen, and it says what it does.
 *
 * A subclass has `frameNow`, `answered` where it asks a kernel, and the words for what it asks for: `doing` by kind, the
 * first the most urgent.
 */
class View {
  constructor({ scene, kernel = null }, doing = {}) {
    Object.assign(this, { scene, kernel, doing });
    this.frames = 0;
    this.status = make("p", { class: "gx-status", role: "status" });
  }

  /** Show the page in an element; `parts` follow each other in it. */
  open(el, label, ...parts) {
    this.root = make("section", { class: "gx", "aria-label": label }, ...parts);
    el.append(this.root);
    if (this.kernel) this.connect(this.kernel);
    else this.say("", "static");
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.root);
  }

  connect(kernel) {
    this.say("", "idle");
    this.requests = new Requests(kernel, Object.keys(this.doing), {
      answer: (asked, message) => this.answered(asked, message),
      late: ({ kind }) =>
        this.say(`The kernel has not answered for ${LATE / 1000} s (${this.doing[kind]}). It may be busy with another cell.`, "late"),
    });
    kernel.lost?.(() => {
      if (!this.requests) return;
      clearTimeout(this.requests.timer);
      this.requests = null;
      this.lost();
      this.draw();
    });
  }

  /** What the page says of itself; `state` is also for tests and style. */
  say(text, state) {
    this.status.textContent = text || (state === "static" ? this.alone : "Ready.");
    this.root.dataset.state = state;
  }

  ask(kind, message) {
    this.requests.ask(kind, message);
    if (this.requests.asked?.kind === kind) this.say(`${this.doing[kind]} …`, "computing");
  }

  /** Do something when the hand has rested. */
  later(action) {
    clearTimeout(this.resting);
    this.resting = setTimeout(action, REST);
  }

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.frameNow();
      this.frames += 1;
      this.root.dataset.frames = this.frames;
    });
  }

  remove() {
    clearTimeout(this.resting);
    clearTimeout(this.requests?.timer);
    this.observer.disconnect();
    this.root.remove();
  }
}
