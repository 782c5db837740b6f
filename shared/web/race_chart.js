// The chart of the race: a row for each lane, a mark for each chunk, on a linear axis in seconds; and the chart as a picture.

const SVG = "http://www.w3.org/2000/svg";
const ROW = 34;
const TOP = 8;
const AXIS = 38;
const NARROW = 560;
const EXPORT_WIDTH = 1200;

function node(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Round steps for an axis from 0 to `end`: at most `count` of 1, 2 or 5 times a power of ten. */
export function roundTicks(end, count) {
  const rough = end / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((by) => by * power).find((by) => by >= rough);
  return Array.from({ length: Math.floor(end / step + 1e-9) + 1 }, (_, index) => Number((index * step).toPrecision(6)));
}

/** An SVG of rows `{word, label, arrivals, cuts, end}` in ms; `width` in CSS pixels. */
export function chart(rows, width) {
  const narrow = width < NARROW;
  const left = narrow ? 4 : 92;
  const right = 14;
  const rowHeight = narrow ? ROW + 14 : ROW;
  const longest = Math.max(1000, ...rows.flatMap((row) => [row.end ?? 0, ...row.arrivals.slice(-1), ...row.cuts]));
  const x = (ms) => left + (ms / longest) * (width - left - right);
  const bottom = TOP + rows.length * rowHeight;
  const svg = node("svg", { viewBox: `0 0 ${width} ${bottom + AXIS}`, width, height: bottom + AXIS, role: "img", "aria-label": spoken(rows) });
  for (const seconds of roundTicks(longest / 1000, narrow ? 5 : 10)) {
    const at = x(seconds * 1000);
    svg.append(node("line", { x1: at, x2: at, y1: TOP, y2: bottom }), node("text", { class: "middle", x: at, y: bottom + 15 }, String(seconds)));
  }
  svg.append(node("text", { class: "middle", x: (left + width - right) / 2, y: bottom + 32 }, "seconds after the click"));
  rows.forEach((row, index) => {
    const y = TOP + index * rowHeight + (narrow ? 14 : 0);
    const group = node("g", { "data-word": row.word });
    group.append(narrow
      ? node("text", { class: "name", x: left, y: y - 2 }, row.label)
      : node("text", { class: "name end", x: left - 10, y: y + ROW / 2 + 4 }, row.label));
    for (const at of row.arrivals) group.append(node("rect", { x: x(at) - 1, y: y + 6, width: 2.4, height: ROW - 12 }));
    for (const at of row.cuts) group.append(node("line", { class: "cut", x1: x(at), x2: x(at), y1: y + 1, y2: y + ROW - 1 }));
    svg.append(group);
  });
  return svg;
}

function spoken(rows) {
  const said = rows.filter((row) => row.arrivals.length).map((row) => `${row.label}: ${row.arrivals.length} chunks from ${Math.round(row.arrivals[0])} ms on`);
  return `Arrival of every chunk over time. ${said.join("; ") || "Nothing yet"}.`;
}

const STYLES = ["fill", "stroke", "stroke-dasharray", "font-family", "font-size", "font-weight", "text-anchor"];

/** The chart with its sentence as a PNG, in the colours that the page has now. */
export async function png(rows, sentence, host) {
  const svg = chart(rows, EXPORT_WIDTH);
  host.append(svg);
  for (const element of svg.querySelectorAll("*")) {
    const style = getComputedStyle(element);
    for (const name of STYLES) element.setAttribute(name, style.getPropertyValue(name));
  }
  const page = getComputedStyle(document.body);
  const height = Number(svg.getAttribute("height"));
  const lines = wrapped(sentence, 150);
  const whole = height + lines.length * 22 + 22;
  svg.setAttribute("height", whole);
  svg.setAttribute("viewBox", `0 0 ${EXPORT_WIDTH} ${whole}`);
  svg.prepend(node("rect", { x: 0, y: 0, width: EXPORT_WIDTH, height: whole, fill: page.backgroundColor }));
  lines.forEach((line, index) => svg.append(
    node("text", { x: 14, y: height + 22 + index * 22, fill: page.color, "font-family": "system-ui, sans-serif", "font-size": 15 }, line),
  ));
  svg.remove();
  const source = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(svg)], { type: "image/svg+xml" }));
  try {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = new OffscreenCanvas(EXPORT_WIDTH * 2, whole * 2);
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return await canvas.convertToBlob({ type: "image/png" });
  } finally {
    URL.revokeObjectURL(source);
  }
}

function wrapped(text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1).length + word.length >= width) lines.push("");
    lines[lines.length - 1] += `${lines.at(-1) ? " " : ""}${word}`;
  }
  return lines;
}
