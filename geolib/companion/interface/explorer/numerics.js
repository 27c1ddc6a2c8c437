// The explorer's numerics: the tabulated metric of geolib/plane/tabulated.py, shortest paths over its grid, descent on
// the energy of curves, and a decoder's forward pass. It knows nothing of the page, so that Node can test it.

const REACH = 3; // the grid's nodes are joined to all nodes so many columns and rows away that nothing hides
const HISTORY = 8; // steps that a descent remembers
const CORNERS = 3; // a point is joined to the nodes at most so many cells away

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
}

/** Little-endian float32 values from base64. */
export function floats(text) {
  return new Float32Array(bytes(text));
}

/** Values in [0, 1] that were stored in 8 bits. */
export function pixels({ data }) {
  return Float32Array.from(new Uint8Array(bytes(data)), (value) => value / 255);
}

/** Values that were stored as 16-bit steps above a lowest value, one for each of `channels` interleaved. */
export function steps({ data, low, step }) {
  const stored = new Uint16Array(bytes(data));
  const channels = low.length;
  return Float64Array.from(stored, (value, k) => low[k % channels] + step[k % channels] * value);
}

/** A metric of the plane on (n + 1)^2 nodes. logs holds m, p, b of log M = [[m + p, b], [b, m - p]], x-major. */
export class Table {
  constructor({ n, lower, upper, logs }) {
    Object.assign(this, { n, lower, upper, logs });
    this.scale = [n / (upper[0] - lower[0]), n / (upper[1] - lower[1])];
  }

  /** log M at a point, clipped to the box: m, p, b, their x derivatives, their y derivatives. */
  log(x, y, out) {
    const { n, logs } = this;
    const u = Math.min(Math.max((x - this.lower[0]) * this.scale[0], 0), n);
    const v = Math.min(Math.max((y - this.lower[1]) * this.scale[1], 0), n);
    const i = Math.min(Math.floor(u), n - 1);
    const j = Math.min(Math.floor(v), n - 1);
    const s = u - i;
    const t = v - j;
    const near = 3 * (i * (n + 1) + j);
    const far = near + 3 * (n + 1);
    for (let k = 0; k < 3; k++) {
      const a = logs[near + k];
      const b = logs[far + k];
      const c = logs[near + 3 + k];
      const d = logs[far + 3 + k];
      out[k] = (1 - t) * (a + s * (b - a)) + t * (c + s * (d - c));
      out[3 + k] = this.scale[0] * ((1 - t) * (b - a) + t * (d - c));
      out[6 + k] = this.scale[1] * ((1 - s) * (c - a) + s * (d - b));
    }
    return out;
  }

  /** M at a point, as [M_xx, M_xy, M_yy]. */
  tensor(x, y) {
    return exponential(...this.log(x, y, new Float64Array(9)));
  }

  /** M at all nodes, three numbers each, made once. */
  get tensors() {
    if (!this._tensors) {
      this._tensors = new Float64Array(this.logs.length);
      for (let k = 0; k < this.logs.length; k += 3) {
        this._tensors.set(exponential(this.logs[k], this.logs[k + 1], this.logs[k + 2]), k);
      }
    }
    return this._tensors;
  }

  /** The point of the box that is nearest to (x, y). */
  inside(x, y) {
    return [
      Math.min(Math.max(x, this.lower[0]), this.upper[0]),
      Math.min(Math.max(y, this.lower[1]), this.upper[1]),
    ];
  }
}

function exponential(m, p, b) {
  const r = Math.hypot(p, b);
  const size = Math.exp(m);
  const slope = size * (r > 1e-9 ? Math.sinh(r) / r : 1);
  const mean = size * Math.cosh(r);
  return [mean + slope * p, slope * b, mean - slope * p];
}

/** log sqrt(det M) at all nodes. */
export function logVolume(table) {
  return Float64Array.from({ length: table.logs.length / 3 }, (_, k) => table.logs[3 * k]);
}

/** log of the condition number of M, the ratio of its eigenvalues, at all nodes. */
export function logCondition(table) {
  return Float64Array.from(
    { length: table.logs.length / 3 },
    (_, k) => 2 * Math.hypot(table.logs[3 * k + 1], table.logs[3 * k + 2]),
  );
}

/** The ellipse of all steps with M-length 1: half axes in latent units, and the angle of the longer one. */
export function ellipse(table, x, y) {
  const [m, p, b] = table.log(x, y, new Float64Array(9));
  const r = Math.hypot(p, b);
  return { long: Math.exp((r - m) / 2), short: Math.exp((-r - m) / 2), angle: Math.atan2(b, p) / 2 + Math.PI / 2 };
}

const GAUSS = [0.5 - Math.sqrt(1 / 12), 0.5 + Math.sqrt(1 / 12)];
const at = new Float64Array(9);

/** The squared M-length of a step (dx, dy) at a point; its derivatives in the point go to out, 2 M step to pull. */
function squared(table, x, y, dx, dy, out, pull) {
  const [m, p, b, mx, px, bx, my, py, by] = table.log(x, y, at);
  const r2 = p * p + b * b;
  const r = Math.sqrt(r2);
  const size = Math.exp(m);
  const C = Math.cosh(r);
  const S = r > 1e-6 ? Math.sinh(r) / r : 1;
  const bend = r > 1e-3 ? (C - S) / r2 : 1 / 3;
  const long = dx * dx + dy * dy;
  const skew = dx * dx - dy * dy;
  const cross = 2 * dx * dy;
  const N = p * skew + b * cross;
  const value = size * (C * long + S * N);
  const turn = size * (S * long + bend * N);
  out[0] = value * mx + turn * (p * px + b * bx) + size * S * (px * skew + bx * cross);
  out[1] = value * my + turn * (p * py + b * by) + size * S * (py * skew + by * cross);
  pull[0] = size * (C + S * p);
  pull[1] = size * S * b;
  pull[2] = size * (C - S * p);
  return value;
}

/** The energy of a polygon (x0, y0, x1, y1, ...); its gradient and each segment's mean tensor where asked for. */
export function energy(table, points, gradient, tensors) {
  const N = points.length / 2 - 1;
  const slope = [0, 0];
  const M = [0, 0, 0];
  let total = 0;
  gradient?.fill(0);
  tensors?.fill(0);
  for (let s = 0; s < N; s++) {
    const k = 2 * s;
    const dx = points[k + 2] - points[k];
    const dy = points[k + 3] - points[k + 1];
    for (const share of GAUSS) {
      total += (N / 2) * squared(table, points[k] + share * dx, points[k + 1] + share * dy, dx, dy, slope, M);
      if (gradient) {
        const px = N * (M[0] * dx + M[1] * dy);
        const py = N * (M[1] * dx + M[2] * dy);
        gradient[k] += (N / 2) * (1 - share) * slope[0] - px;
        gradient[k + 1] += (N / 2) * (1 - share) * slope[1] - py;
        gradient[k + 2] += (N / 2) * share * slope[0] + px;
        gradient[k + 3] += (N / 2) * share * slope[1] + py;
        for (let c = 0; c < 3; c++) tensors[3 * s + c] += N * M[c];
      }
    }
  }
  return total;
}

/** The Riemannian length of a polygon, by steps of at most a third of a cell; at each corner where `at` is given. */
export function lengthOf(table, points, corners) {
  const N = points.length / 2 - 1;
  const spare = [0, 0];
  const M = [0, 0, 0];
  let total = 0;
  if (corners) corners[0] = 0;
  for (let s = 0; s < N; s++) {
    const k = 2 * s;
    const dx = points[k + 2] - points[k];
    const dy = points[k + 3] - points[k + 1];
    const cells = Math.max(Math.abs(dx) * table.scale[0], Math.abs(dy) * table.scale[1]);
    const pieces = Math.max(1, Math.ceil(3 * cells));
    for (let piece = 0; piece < pieces; piece++) {
      const share = (piece + 0.5) / pieces;
      const value = squared(table, points[k] + share * dx, points[k + 1] + share * dy, dx, dy, spare, M);
      total += Math.sqrt(value) / pieces;
    }
    if (corners) corners[s + 1] = total;
  }
  return total;
}

/** N + 1 points on a polygon at equal steps of Riemannian length. */
export function evenly(table, points, N) {
  const corners = new Float64Array(points.length / 2);
  // within a segment the speed is taken as constant, so segments are made short first
  const fine = points.length / 2 - 1 < N ? straight(points, N) : points;
  const marks = fine === points ? corners : new Float64Array(fine.length / 2);
  const total = lengthOf(table, fine, marks);
  const out = new Float64Array(2 * (N + 1));
  let s = 0;
  for (let k = 0; k <= N; k++) {
    const wanted = (total * k) / N;
    while (s < marks.length - 2 && marks[s + 1] < wanted) s++;
    const gap = marks[s + 1] - marks[s];
    const share = gap > 0 ? Math.min(1, Math.max(0, (wanted - marks[s]) / gap)) : 0;
    for (let c = 0; c < 2; c++) out[2 * k + c] = fine[2 * s + c] + share * (fine[2 * s + 2 + c] - fine[2 * s + c]);
  }
  out.set(points.slice(0, 2), 0);
  out.set(points.slice(-2), 2 * N);
  return out;
}

/** The same polygon with each segment cut, so that there are at least N. */
function straight(points, N) {
  const segments = points.length / 2 - 1;
  const cuts = Math.ceil(N / segments);
  const out = new Float64Array(2 * (segments * cuts + 1));
  for (let k = 0; k <= segments * cuts; k++) {
    const s = Math.min(Math.floor(k / cuts), segments - 1);
    const share = k / cuts - s;
    for (let c = 0; c < 2; c++) out[2 * k + c] = points[2 * s + c] + share * (points[2 * s + 2 + c] - points[2 * s + c]);
  }
  return out;
}

/** Solve for steps: blocks D_k = T_{k-1} + T_k on the diagonal, -T_k beside it, with symmetric T; the ends stay. */
function solve(tensors, right, N, out) {
  const n = N - 1;
  const inverse = new Float64Array(3 * n);
  out.fill(0);
  for (let k = 0; k < n; k++) {
    let a = tensors[3 * k] + tensors[3 * k + 3];
    let b = tensors[3 * k + 1] + tensors[3 * k + 4];
    let d = tensors[3 * k + 2] + tensors[3 * k + 5];
    let x = right[2 * k + 2];
    let y = right[2 * k + 3];
    if (k > 0) {
      // D - T D'^-1 T and r + T D'^-1 r'
      const [p, q, s] = [tensors[3 * k], tensors[3 * k + 1], tensors[3 * k + 2]];
      const [e, f, g] = [inverse[3 * k - 3], inverse[3 * k - 2], inverse[3 * k - 1]];
      const [h, i, j, l] = [e * p + f * q, e * q + f * s, f * p + g * q, f * q + g * s];
      a -= p * h + q * j;
      b -= p * i + q * l;
      d -= q * i + s * l;
      const u = e * out[2 * k] + f * out[2 * k + 1];
      const v = f * out[2 * k] + g * out[2 * k + 1];
      x += p * u + q * v;
      y += q * u + s * v;
    }
    const det = a * d - b * b;
    inverse[3 * k] = d / det;
    inverse[3 * k + 1] = -b / det;
    inverse[3 * k + 2] = a / det;
    out[2 * k + 2] = x;
    out[2 * k + 3] = y;
  }
  for (let k = n - 1; k >= 0; k--) {
    let x = out[2 * k + 2];
    let y = out[2 * k + 3];
    if (k < n - 1) {
      const [p, q, s] = [tensors[3 * k + 3], tensors[3 * k + 4], tensors[3 * k + 5]];
      x += p * out[2 * k + 4] + q * out[2 * k + 5];
      y += q * out[2 * k + 4] + s * out[2 * k + 5];
    }
    out[2 * k + 2] = inverse[3 * k] * x + inverse[3 * k + 1] * y;
    out[2 * k + 3] = inverse[3 * k + 1] * x + inverse[3 * k + 2] * y;
  }
}

/**
 * Descend on a polygon's energy, in place, the ends fixed: L-BFGS, whose first guess of the curvature is that of the
 * energy with its tensors held, a chain of springs. A step is halved until the energy falls. Returns the number of steps.
 */
export function descend(table, points, { most = 60, tolerance = 1e-5 } = {}) {
  const N = points.length / 2 - 1;
  const make = () => new Float64Array(points.length);
  const tensors = new Float64Array(3 * N);
  const direction = make();
  const trial = make();
  let gradient = make();
  let value = energy(table, points, gradient, tensors);
  const memory = []; // steps, changes of the gradient and their products
  for (let step = 1; step <= most; step++) {
    const q = gradient.map((x) => -x);
    const shares = [];
    for (let k = memory.length - 1; k >= 0; k--) {
      shares[k] = dot(memory[k].s, q) / memory[k].product;
      add(q, memory[k].y, -shares[k]);
    }
    solve(tensors, q, N, direction);
    memory.forEach(({ s, y, product }, k) => add(direction, s, shares[k] - dot(y, direction) / product));
    let slope = dot(gradient, direction);
    if (slope >= 0) {
      memory.length = 0;
      solve(tensors, gradient.map((x) => -x), N, direction);
      slope = dot(gradient, direction);
    }
    let next = Infinity;
    for (let size = 1; size > 1e-4; size /= 2) {
      trial.set(points);
      for (let k = 2; k < points.length - 2; k += 2) {
        const [x, y] = table.inside(points[k] + size * direction[k], points[k + 1] + size * direction[k + 1]);
        trial[k] = x;
        trial[k + 1] = y;
      }
      next = energy(table, trial);
      if (next < value + 1e-4 * size * slope) break;
    }
    if (!(next < value)) {
      if (memory.length === 0) return step;
      memory.length = 0;
      continue;
    }
    const s = trial.map((x, k) => x - points[k]);
    const before = gradient;
    const gain = value - next;
    points.set(trial);
    gradient = make();
    value = energy(table, points, gradient, tensors);
    const y = gradient.map((x, k) => x - before[k]);
    // the ends do not move
    for (const k of [0, 1, y.length - 2, y.length - 1]) y[k] = 0;
    const product = dot(s, y);
    if (product > 0) memory.push({ s, y, product });
    if (memory.length > HISTORY) memory.shift();
    if (gain < tolerance * value) return step;
  }
  return most;
}

function dot(a, b) {
  let total = 0;
  for (let k = 0; k < a.length; k++) total += a[k] * b[k];
  return total;
}

function add(to, x, share) {
  for (let k = 0; k < to.length; k++) to[k] += share * x[k];
}

function coprime(i, j) {
  return j === 0 ? i === 1 : coprime(j, i % j);
}

const OFFSETS = [];
for (let i = 0; i <= REACH; i++) {
  for (let j = -REACH; j <= REACH; j++) {
    if ((i > 0 || j > 0) && coprime(Math.max(i, Math.abs(j)), Math.min(i, Math.abs(j)))) OFFSETS.push([i, j]);
  }
}

// there and back, in turn
const COLUMNS = Int32Array.from(OFFSETS.flatMap(([i]) => [i, -i]));
const ROWS = Int32Array.from(OFFSETS.flatMap(([, j]) => [j, -j]));

/** Shortest paths over the nodes of a table. */
export class Graph {
  constructor(table) {
    this.table = table;
    this.side = table.n + 1;
    const step = [1 / table.scale[0], 1 / table.scale[1]];
    this.edges = OFFSETS.map(([i, j]) => this._edges(i, j, step));
  }

  /** Lengths of the edges from each node to that i columns and j rows on, by the trapezoidal rule at the lines crossed. */
  _edges(i, j, step) {
    const { side } = this;
    const speeds = new Float64Array(side * side);
    const [dx, dy] = [i * step[0], j * step[1]];
    const M = this.table.tensors;
    for (let k = 0; k < speeds.length; k++) {
      speeds[k] = Math.sqrt(Math.max(0, M[3 * k] * dx * dx + 2 * M[3 * k + 1] * dx * dy + M[3 * k + 2] * dy * dy));
    }
    const out = new Float64Array(side * side);
    const n = Math.max(i, Math.abs(j));
    const terms = []; // how far from the node, and the weight
    for (let k = 0; k <= n; k++) {
      const whole = k === 0 || k === n ? 0.5 / n : 1 / n;
      const [x, y] = [(k * i) / n, (k * j) / n];
      const [fx, fy] = [Math.floor(x), Math.floor(y)];
      for (const [cx, cy, w] of [[0, 0, (1 - x + fx) * (1 - y + fy)], [1, 0, (x - fx) * (1 - y + fy)],
        [0, 1, (1 - x + fx) * (y - fy)], [1, 1, (x - fx) * (y - fy)]]) {
        if (w > 1e-12) terms.push([(fx + cx) * side + fy + cy, w * whole]);
      }
    }
    const last = side - Math.max(0, j);
    for (const [gap, weight] of terms) {
      for (let x = 0; x + i < side; x++) {
        for (let node = x * side + Math.max(0, -j); node < x * side + last; node++) out[node] += weight * speeds[node + gap];
      }
    }
    return out;
  }

  /** The nodes near a point and the lengths of the straight steps to them. */
  joins(x, y) {
    const { table, side } = this;
    const u = Math.round((x - table.lower[0]) * table.scale[0]);
    const v = Math.round((y - table.lower[1]) * table.scale[1]);
    const out = [];
    for (let i = Math.max(0, u - CORNERS); i <= Math.min(side - 1, u + CORNERS); i++) {
      for (let j = Math.max(0, v - CORNERS); j <= Math.min(side - 1, v + CORNERS); j++) {
        const [X, Y] = this.place(i * side + j);
        out.push([i * side + j, lengthOf(table, [x, y, X, Y])]);
      }
    }
    return out;
  }

  /** Where a node lies. */
  place(node) {
    const { table, side } = this;
    const i = Math.floor(node / side);
    return [table.lower[0] + i / table.scale[0], table.lower[1] + (node - i * side) / table.scale[1]];
  }

  /** Distances of all nodes from a point, and the node before each on its shortest path (-1: the point itself). */
  search(x, y) {
    const { side, edges } = this;
    const distance = new Float64Array(side * side).fill(Infinity);
    const before = new Int32Array(side * side).fill(-1);
    const done = new Uint8Array(side * side);
    const heap = new Heap(distance);
    for (const [node, length] of this.joins(x, y)) {
      distance[node] = length;
      heap.push(node);
    }
    for (let node = heap.pop(); node >= 0; node = heap.pop()) {
      if (done[node]) continue;
      done[node] = 1;
      const row = Math.floor(node / side);
      const column = node - row * side;
      const reached = distance[node];
      for (let k = 0; k < COLUMNS.length; k++) {
        const r = row + COLUMNS[k];
        const c = column + ROWS[k];
        if (r < 0 || c < 0 || r >= side || c >= side) continue;
        const next = r * side + c;
        if (done[next]) continue;
        // an edge is kept at its lower end
        const total = reached + edges[k >> 1][k & 1 ? next : node];
        if (total < distance[next]) {
          distance[next] = total;
          before[next] = node;
          heap.push(next);
        }
      }
    }
    return { from: [x, y], distance, before };
  }

  /** The polygon of the shortest path from the point that was searched from to another. */
  path(found, x, y) {
    let best = [-1, Infinity];
    for (const [node, length] of this.joins(x, y)) {
      if (found.distance[node] + length < best[1]) best = [node, found.distance[node] + length];
    }
    const corners = [[x, y]];
    for (let node = best[0]; node >= 0; node = found.before[node]) corners.push(this.place(node));
    corners.push(found.from);
    return Float64Array.from(corners.reverse().flat());
  }
}

/** A binary heap of nodes by distance; a node that comes nearer is pushed again. */
class Heap {
  constructor(distance) {
    this.distance = distance;
    this.nodes = [];
    this.keys = [];
  }

  push(node) {
    const key = this.distance[node];
    const { nodes, keys } = this;
    let k = nodes.length;
    nodes.push(node);
    keys.push(key);
    while (k > 0) {
      const up = (k - 1) >> 1;
      if (keys[up] <= key) break;
      nodes[k] = nodes[up];
      keys[k] = keys[up];
      k = up;
    }
    nodes[k] = node;
    keys[k] = key;
  }

  pop() {
    const { nodes, keys } = this;
    if (nodes.length === 0) return -1;
    const top = nodes[0];
    const node = nodes.pop();
    const key = keys.pop();
    const size = nodes.length;
    if (size > 0) {
      let k = 0;
      for (;;) {
        let down = 2 * k + 1;
        if (down >= size) break;
        if (down + 1 < size && keys[down + 1] < keys[down]) down++;
        if (keys[down] >= key) break;
        nodes[k] = nodes[down];
        keys[k] = keys[down];
        k = down;
      }
      nodes[k] = node;
      keys[k] = key;
    }
    return top;
  }
}

/**
 * The curve that the page draws: descent from the grid's shortest path and from the straight line, and the shorter of
 * the two. `found` is the search from `start`, or from `end` where `reversed`; null: from the straight line alone.
 */
export function fastCurve(graph, found, start, end, { levels = [24, 96], reversed = false } = {}) {
  const { table } = graph;
  const ends = Float64Array.from([...start, ...end]);
  const line = lengthOf(table, ends);
  const path = found && graph.path(found, ...(reversed ? start : end));
  if (reversed) turnAround(path);
  let best = { points: evenly(table, ends, levels.at(-1)), length: line, steps: 0 };
  for (const first of path ? [path, ends] : [ends]) {
    let points = first;
    let n = 0;
    for (const N of levels) {
      points = evenly(table, points, N);
      n += descend(table, points);
    }
    const length = lengthOf(table, points);
    if (length < best.length) best = { points, length, steps: n };
  }
  return { ...best, line, improvement: line > 0 ? 1 - best.length / line : 0 };
}

function turnAround(points) {
  const last = points.length - 2;
  for (let k = 0; k < last - k; k += 2) {
    for (let c = 0; c < 2; c++) [points[k + c], points[last - k + c]] = [points[last - k + c], points[k + c]];
  }
}

const ACTIVATIONS = {
  tanh: Math.tanh,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
};

/** A decoder of linear layers, each followed by its activation. */
export class Decoder {
  constructor(layers) {
    this.layers = layers.map(({ weight, bias, activation }) => ({
      weight: floats(weight), // (outputs, inputs)
      bias: floats(bias),
      activation: ACTIVATIONS[activation],
    }));
  }

  /** The output, values of an image in [0, 1], at a latent point. */
  decode(z) {
    let x = Float32Array.from(z);
    for (const { weight, bias, activation } of this.layers) {
      const out = new Float32Array(bias.length);
      const n = x.length;
      for (let k = 0; k < out.length; k++) {
        let [total, second, i, w] = [bias[k], 0, 0, k * n];
        // two sums, as an addition waits for the one before it
        for (; i + 1 < n; i += 2, w += 2) {
          total += weight[w] * x[i];
          second += weight[w + 1] * x[i + 1];
        }
        if (i < n) total += weight[w] * x[i];
        out[k] = activation(total + second);
      }
      x = out;
    }
    return x;
  }
}

/** Images kept at a grid of latent points, n + 1 a side, x-major, and mixed in between. */
export class Atlas {
  constructor({ lower, upper, side, size, data }) {
    Object.assign(this, { lower, upper, side, size, stored: new Uint8Array(bytes(data)) });
  }

  /** The image at a latent point, its values in [0, 1]. */
  decode(z) {
    const last = this.side - 1;
    const [u, v] = z.map((x, c) => Math.min(Math.max((last * (x - this.lower[c])) / (this.upper[c] - this.lower[c]), 0), last));
    const [i, j] = [u, v].map((at) => Math.min(Math.floor(at), last - 1));
    const [s, t] = [u - i, v - j];
    const near = (i * this.side + j) * this.size;
    const corners = [
      [near, (1 - s) * (1 - t)],
      [near + this.side * this.size, s * (1 - t)],
      [near + this.size, (1 - s) * t],
      [near + (this.side + 1) * this.size, s * t],
    ];
    return Float32Array.from({ length: this.size }, (_, k) =>
      corners.reduce((total, [at, share]) => total + share * this.stored[at + k], 0) / 255,
    );
  }
}

/** Polylines of a level of values on the nodes of a table, as a flat list of segments x0, y0, x1, y1 in cells. */
export function contour(values, side, level) {
  const out = [];
  const crossing = (a, b) => (level - a) / (b - a);
  for (let i = 0; i < side - 1; i++) {
    for (let j = 0; j < side - 1; j++) {
      const a = values[i * side + j];
      const b = values[(i + 1) * side + j];
      const c = values[(i + 1) * side + j + 1];
      const d = values[i * side + j + 1];
      const cuts = [];
      if (a < level !== b < level) cuts.push(i + crossing(a, b), j);
      if (b < level !== c < level) cuts.push(i + 1, j + crossing(b, c));
      if (d < level !== c < level) cuts.push(i + crossing(d, c), j + 1);
      if (a < level !== d < level) cuts.push(i, j + crossing(a, d));
      if (cuts.length >= 4) out.push(...cuts.slice(0, 4));
      if (cuts.length === 8) out.push(...cuts.slice(4));
    }
  }
  return out;
}
