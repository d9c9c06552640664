// Draws the overview's charts with uPlot from data in the page, again after each refresh.
const box = document.getElementById("charts");
const HEIGHT = 170;
let drawn = [];

// A colour of the palette as a value for the canvas, which depends on the light or dark theme.
function colour(name) {
  const probe = document.createElement("span");
  probe.className = `ink-${name}`;
  box.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function duration(ms) {
  if (ms >= 86_400_000) return `${+(ms / 86_400_000).toFixed(1)} d`;
  if (ms >= 3_600_000) return `${+(ms / 3_600_000).toFixed(1)} h`;
  if (ms >= 60_000) return `${+(ms / 60_000).toFixed(1)} min`;
  if (ms >= 1000) return `${+(ms / 1000).toFixed(1)} s`;
  return `${+ms.toFixed(1)} ms`;
}
const two = (number) => String(number).padStart(2, "0");
// All instants on the pages are UTC.
function clock(seconds, withDay) {
  const at = new Date(seconds * 1000);
  const day = withDay ? `${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())} ` : "";
  return `${day}${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`;
}
// Round durations for the ticks of an axis in milliseconds.
const SECOND = 1000;
const DURATIONS = [1, 2, 5, 10, 20, 50, 100, 200, 500, ...[1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400, 172_800, 432_000, 864_000].map((n) => n * SECOND)];
const UNITS = { jobs: (v) => v.toLocaleString("en"), ms: duration, percent: (v) => `${v} %` };

// Values without neighbours: they make no line, so they are drawn as points.
function alone(values) {
  const found = [];
  values.forEach((value, i) => {
    if (value != null && values[i - 1] == null && values[i + 1] == null) found.push(i);
  });
  return found;
}

function options(chart, width, long) {
  const axis = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 }, font: "11px system-ui, sans-serif" };
  // The legend shows values only while the cursor is on a chart.
  const shown = (value, at) => (at == null ? "" : value == null ? "–" : UNITS[chart.unit](value));
  return {
    title: chart.title,
    width,
    height: HEIGHT,
    cursor: { sync: { key: "overview" }, drag: { x: false, y: false } },
    scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    axes: [
      { ...axis, space: long ? 90 : 56, values: (_, ticks) => ticks.map((tick) => clock(tick, long)) },
      { ...axis, size: 62, ...(chart.unit === "ms" && { incrs: DURATIONS }), values: (_, ticks) => ticks.map((tick) => (chart.unit === "jobs" && !Number.isInteger(tick) ? "" : UNITS[chart.unit](tick))) },
    ],
    series: [
      { label: "\u00a0", value: (_, at) => (at == null ? "" : `${clock(at, long)} UTC`) },
      ...chart.lines.map((line) => ({ label: line.label, stroke: colour(line.colour), width: 1.5, spanGaps: false, points: { size: 4, filter: (plot, i, all) => (all ? null : alone(plot.data[i])) }, value: (_, value, __, at) => shown(value, at) })),
    ],
  };
}

function draw() {
  const { at, charts } = JSON.parse(document.getElementById("series").dataset.series);
  const columns = Math.max(1, Math.floor(box.clientWidth / 380));
  const width = Math.floor((box.clientWidth - (columns - 1) * 16) / columns) - 26;
  for (const chart of drawn) chart.destroy();
  box.replaceChildren();
  drawn = charts.map((chart) => {
    const panel = document.createElement("div");
    panel.className = "panel chart";
    box.append(panel);
    return new window.uPlot(options(chart, width, at.at(-1) - at[0] > 86_000), [at, ...chart.lines.map((line) => line.values)], panel);
  });
}

let width = 0;
new ResizeObserver(() => {
  if (box.clientWidth !== width) draw();
  width = box.clientWidth;
}).observe(box);
document.addEventListener("htmx:afterSettle", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
