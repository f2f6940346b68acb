// The three charts and their table, out of points [at, rate, lag, latency, slowest, level].
"use strict";

const SPAN = 300, WIDTH = 300, HEIGHT = 90, GAP = 2.6;
const SVG = "http://www.w3.org/2000/svg";
const RATE = 1, LAG = 2, LATENCY = 3, SLOWEST = 4, LEVEL = 5;
const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

const inRate = (value) => value === null ? "–" : value > 0 && value < 10 ? value.toFixed(1) : numbers.format(value);

function inTime(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds === 0) return "0 s";
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return minutes < 2880 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.floor(minutes / 1440)} days`;
}

// Whole seconds, for what a person waits for.
const inWhole = (seconds) => seconds < 60 ? `${Math.max(0, Math.round(seconds))} s` : inTime(seconds);

// The end of an axis: 1, 2 or 5 of a power of ten, of minutes above 50 s.
function roundUp(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * [1, 2, 5, 10].find((step) => step * unit > value * 0.9999);
}

const roundTimeUp = (seconds) => seconds > 50 ? 60 * roundUp(seconds / 60) : roundUp(seconds);

const onAxis = (text) => text.replace(/\.0(?=$| )/, "").replace(/(?<=min) 0 s$/, "");

const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

// cut: a peak must not press what is usual flat. Above so many times the usual a line runs along the
// top, and the peak is told in words. Not so the lag, whose climb is what a person looks for.
const CHARTS = {
  rate: { lines: [RATE], write: inRate, round: roundUp, least: 1, cut: 3, unit: " events/s", peak: "at most" },
  lag: { lines: [LAG], write: inTime, round: roundTimeUp, least: 0.1, cut: Infinity, unit: "", peak: "at most" },
  latency: { lines: [LATENCY, SLOWEST], write: inTime, round: roundTimeUp, least: 0.002, cut: 12, unit: "", peak: "slowest" },
};

const Past = {
  points: [],
  // A relay that was started anew knows nothing of before: what this page saw itself stays.
  begin(points) {
    const first = points.length ? points[0][0] : Infinity;
    this.points = this.points.filter((point) => point[0] < first).concat(points);
    this.trim();
  },
  add(point) {
    const last = this.points.at(-1);
    if (!last || point[0] > last[0]) this.points.push(point);
    this.trim();
  },
  trim() {
    const last = this.points.at(-1);
    if (last) this.points = this.points.filter((point) => point[0] > last[0] - SPAN);
  },
};

const xOf = (point, now) => (WIDTH * (1 - (now - point[0]) / SPAN)).toFixed(1);

// Runs of points without a hole in them: a hole is shown as one.
function runsOf(points, line) {
  const runs = [];
  let before = null;
  for (const point of points) {
    if (point[line] === null) { before = null; continue; }
    if (!before || point[0] - before[0] > GAP) runs.push([]);
    runs.at(-1).push(point);
    before = point;
  }
  return runs;
}

// An outage is marked over the whole height, other trouble along the upper edge.
function band(points, level, now, height) {
  let shape = "";
  for (const point of points) {
    if (point[LEVEL] === level) shape += `M${xOf(point, now)} 0h-1.2v${height}h1.2z`;
  }
  return shape;
}

function usual(points, line) {
  const values = points.map((point) => point[line]).filter((value) => value > 0).sort((one, other) => one - other);
  return values[values.length >> 1] ?? 0;
}

const largest = (points, line) => points.reduce((most, point) => Math.max(most, point[line] ?? 0), 0);

// Lines at the three labels of the scale, and a tick a minute.
const GRID = [4, (HEIGHT + 3) / 2, HEIGHT - 1].map((y) => `M0 ${y}H${WIDTH}`).join("")
  + [1, 2, 3, 4].map((minute) => `M${minute * WIDTH / 5} ${HEIGHT - 1}v4`).join("");

function pathsOf(svg) {
  return svg.paths ??= ["grid", "outage", "degraded", "area", "second", "first", "at"].map((kind) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", kind);
    svg.append(path);
    return path;
  });
}

function draw(figure, name, latest) {
  const chart = CHARTS[name], points = Past.points, now = points.at(-1)[0];
  const [line, second] = chart.lines;
  const peak = largest(points, second ?? line);
  const most = chart.round(Math.max(chart.least, Math.min(peak, chart.cut * usual(points, line) || peak)));
  const yOf = (point, which) => (HEIGHT - 1 - (HEIGHT - 5) * Math.min(1, point[which] / most)).toFixed(1);
  const along = (run, which) => run.map((point) => `${xOf(point, now)} ${yOf(point, which)}`).join("L");
  const shapes = [GRID, band(points, "outage", now, HEIGHT), band(points, "degraded", now, 3), "", "", ""];
  for (const run of runsOf(points, line)) {
    const shape = along(run, line);
    shapes[3] += `M${xOf(run[0], now)} ${HEIGHT - 1}L${shape}L${xOf(run.at(-1), now)} ${HEIGHT - 1}z`;
    shapes[5] += `M${shape}h.8`;
  }
  for (const run of second ? runsOf(points, second) : []) shapes[4] += `M${along(run, second)}h.8`;
  const svg = figure.querySelector("svg"), paths = pathsOf(svg);
  shapes.forEach((shape, place) => paths[place].setAttribute("d", shape));
  const peakText = `${chart.peak} ${chart.write(peak)}`;
  svg.setAttribute("aria-label", `${figure.querySelector("h2").textContent} in the last five minutes: now ${chart.write(latest)}, ${peakText}`);
  setText(figure.querySelector(".now b"), chart.write(latest));
  [most, most / 2, 0].forEach((value, place) => setText(figure.querySelector(".scale").children[place], value ? onAxis(chart.write(value)) : "0"));
  if (!figure.looked) setText(figure.querySelector(".peak"), peakText);
}

// A pointer over a chart reads it off at that moment.
function readOff(figure, name) {
  const svg = figure.querySelector("svg"), peak = figure.querySelector(".peak"), chart = CHARTS[name];
  const leave = () => { figure.looked = false; svg.paths?.at(-1).setAttribute("d", ""); };
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("pointermove", (event) => {
    const place = svg.getBoundingClientRect(), last = Past.points.at(-1);
    if (!last || !svg.paths) return;
    const at = last[0] - SPAN * (1 - (event.clientX - place.left) / place.width);
    const near = Past.points.reduce((best, point) => Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best);
    figure.looked = true;
    svg.paths.at(-1).setAttribute("d", `M${xOf(near, last[0])} 0V${HEIGHT}`);
    const read = chart.lines.map((line) => chart.write(near[line])).join(", slowest ");
    setText(peak, `${clock(near[0])}: ${read}${chart.unit}`);
  });
}

function tabulate(body) {
  const points = Past.points, rows = [];
  const most = (part, line) => part.reduce((best, point) => point[line] === null ? best : Math.max(best ?? 0, point[line]), null);
  const mean = (part, line) => {
    const known = part.map((point) => point[line]).filter((value) => value !== null);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  };
  const worst = (part) => ["outage", "degraded", "starting"].find((level) => part.some((point) => point[LEVEL] === level)) ?? "healthy";
  for (let end = points.length; end > 0; end -= 10) {
    const part = points.slice(Math.max(0, end - 10), end);
    rows.push([clock(part.at(-1)[0]), inRate(mean(part, RATE)), inTime(most(part, LAG)), inTime(mean(part, LATENCY)),
      inTime(most(part, SLOWEST)), worst(part)]);
  }
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, place) => {
    const row = body.rows[place] ?? body.insertRow();
    cells.forEach((cell, column) => setText(row.cells[column] ?? row.insertCell(), cell));
  });
}
