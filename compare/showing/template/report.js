"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const { results, metrics } = data;
const lanes = results.lanes;
// A lane without a colour of its own, such as rest-h2, has that of its transport.
const colour = (lane) => `var(--${lane}, var(--${lane.split("-")[0]}, var(--ink)))`;
// Texts have the titles of the lanes, tables and pictures the labels, which may be shorter.
const { titles, labels } = data;
const $ = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "rect", "text", "circle", "g", "title"].includes(name) && name !== "title";
  const made = svg || attributes.svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  delete attributes.svg;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
const number = (value) => {
  const size = Math.abs(value);
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : size === 0 ? 0 : 2;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
};
const numeral = (value) => (Number.isInteger(value) ? value.toLocaleString("en") : number(value));
const shown = (metric, value) => (metrics[metric].unit === "share" ? `${Math.round(value * 100)} %` : number(value));
const figureOf = (experiment, lane, metric) => results.experiments[experiment]?.figures[lane]?.[metric];
const differ = (a, b) => Math.min(a.n, b.n) >= 6 && (a.high < b.low || b.high < a.low);
// Smaller differences are not ranked: a tenth, and for a time in ms at least some ms.
const matters = (metric, a, b) => differ(a, b)
  && Math.abs(a.median - b.median)
    > Math.max(metrics[metric].unit === "ms" ? data.limits.felt_ms : 0, data.limits.felt_share * Math.min(a.median, b.median));
// The gaps of chunks that arrived together say nothing: a lane that was held back must not look quick.
const together = (experiment, lane) => (figureOf(experiment, lane, "coalescing")?.median ?? 0) > data.limits.bunched_share;

$("when").textContent = data.when;

// Replay: the raw arrivals, at true speed.
const scenes = Object.keys(data.replay);
const replay = { scene: scenes[0], ms: 0, end: 0, playing: false, last: 0, rows: {} };

function chooseScene(name) {
  replay.scene = name;
  replay.ms = 0;
  const scene = data.replay[name];
  replay.end = 200 + Math.max(...Object.values(scene).map((lane) => lane.arrivals.at(-1)?.[0] ?? 0));
  $("scene-about").textContent = results.experiments[name]?.about ?? "";
  $("lanes").replaceChildren();
  replay.rows = {};
  for (const lane of lanes.filter((lane) => scene[lane])) {
    const parts = Object.fromEntries(["state", "count", "first", "gap", "late"].map((part) => [part, element("span", { class: part })]));
    parts.text = element("div", { class: "text" }, element("div"));
    const ticks = element("svg", { viewBox: `0 0 1000 12`, preserveAspectRatio: "none" });
    for (const [ms, type] of scene[lane].arrivals) {
      const fault = ["cut", "lost", "asked"].includes(type);
      if (!fault && !["chunk", "reply"].includes(type)) continue;
      const x = (1000 * ms) / replay.end;
      ticks.append(element("line", { x1: x, x2: x, y1: fault ? 0 : 3, y2: 12, style: `stroke:${fault ? "var(--bad)" : colour(lane)};stroke-width:${fault ? 4 : 1.4}` }));
    }
    parts.cursor = element("line", { x1: 0, x2: 0, y1: 0, y2: 12, style: "stroke:var(--ink);stroke-width:2" });
    ticks.append(parts.cursor);
    replay.rows[lane] = parts;
    $("lanes").append(
      element("div", { class: "lane", style: `border-color:${colour(lane)}` },
        element("div", { class: "head" }, element("b", {}, titles[lane]), parts.state, parts.count, parts.first, parts.gap, parts.late),
        parts.text, ticks));
  }
  draw();
}

function draw() {
  $("scrub").value = Math.round((1000 * replay.ms) / replay.end);
  $("clock").textContent = `${(replay.ms / 1000).toFixed(2)} s`;
  for (const [lane, row] of Object.entries(replay.rows)) {
    const { arrivals, tokens } = data.replay[replay.scene][lane];
    let state = "asked", count = 0, first = null, gap = null, late = null, before = null, again = false, fault = "", twice = 0;
    const seen = new Set();
    const texts = ["", ""];
    for (const [ms, type, seq, delay, text] of arrivals) {
      if (ms > replay.ms) break;
      if (type === "chunk" || type === "reply") {
        again = type === "chunk" && seen.has(seq);
        twice += again ? 1 : 0;
        seen.add(seq);
        count += type === "reply" ? tokens : 1;
        first ??= ms;
        gap = before === null ? null : ms - before;
        before = ms;
        late = delay;
        texts[0] += text;
        state = type === "reply" ? "done" : again ? "shown twice" : "streaming";
        fault = again ? "lost" : "";
      } else if (type === "cut") [state, fault] = ["line cut", "lost"];
      else if (type === "lost") [state, fault] = ["noticed, coming back", "lost"];
      else if (type === "asked") { [state, fault] = ["asked again", "lost"]; texts[0] += "\n⟲ "; }
      else if (type === "resumed") [state, fault] = ["resumed", ""];
      else if (type.startsWith("turn_") && type !== "turn_started") [state, fault] = [type === "turn_completed" ? "done" : type.slice(5), ""];
    }
    row.state.textContent = state;
    row.state.className = `state ${fault} ${state === "done" ? "done" : ""}`;
    row.count.textContent = `${count - twice} of ${tokens} tokens${twice ? `, ${twice} twice` : ""}`;
    row.first.textContent = first === null ? "" : `first ${number(first)} ms`;
    row.gap.textContent = gap === null ? "" : `gap ${number(gap)} ms`;
    row.late.textContent = late === null ? "" : `late ${number(late)} ms`;
    row.text.firstChild.textContent = texts[0].slice(-600) || (lane === "rest" ? "(one whole reply: nothing until everything is there)" : "");
    for (const end of ["x1", "x2"]) row.cursor.setAttribute(end, (1000 * replay.ms) / replay.end);
  }
}

function play(on) {
  replay.playing = on;
  $("play").textContent = on ? "Pause" : "Play";
  if (!on) return;
  if (replay.ms >= replay.end) replay.ms = 0;
  replay.last = performance.now();
  requestAnimationFrame(function step(now) {
    if (!replay.playing) return;
    replay.ms = Math.min(replay.end, replay.ms + (now - replay.last) * Number($("speed").value));
    replay.last = now;
    draw();
    if (replay.ms < replay.end) requestAnimationFrame(step);
    else play(false);
  });
}
if (scenes.length) {
  for (const name of scenes) $("scene").append(element("option", { value: name }, results.experiments[name]?.title ?? name));
  $("scene").onchange = (event) => { play(false); chooseScene(event.target.value); };
  $("play").onclick = () => play(!replay.playing);
  $("scrub").oninput = (event) => { play(false); replay.ms = (event.target.value / 1000) * replay.end; draw(); };
  // report.html#cut, without resume: a scene by its name.
  const wanted = decodeURIComponent(location.hash.slice(1));
  $("scene").value = scenes.includes(wanted) ? wanted : scenes[0];
  chooseScene($("scene").value);
  replay.ms = replay.end * 0.55;
  draw();
} else $("replay").querySelector(".controls").replaceWith("Nothing was recorded that could be played.");

// Plots.
for (const lane of lanes) $("legend").append(element("span", {}, element("i", { style: `background:${colour(lane)}` }), titles[lane]));
// On a telephone a wide drawing would be scaled down until nobody can read its letters.
const NARROW = matchMedia("(max-width: 560px)").matches;
const W = NARROW ? 350 : 560, H = 270, LEFT = 62, RIGHT = 16, TOP = 12, BOTTOM = 36;

function ticks(low, high, log) {
  if (log) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const step of high / low > 1000 ? [1] : [1, 3]) if (step * 10 ** power >= low * 0.999 && step * 10 ** power <= high * 1.001) found.push(step * 10 ** power);
    return found;
  }
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((by) => by * power).find((by) => by >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high * 1.0001; value += step) found.push(Number(value.toPrecision(6)));
  return found;
}
const short = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });

function axes({ x, y, xTitle, yTitle, xLog, yLog, xTicks }) {
  const scale = (range, from, to, log) => {
    const [low, high] = log ? range.map(Math.log10) : range;
    return (value) => from + ((to - from) * ((log ? Math.log10(Math.max(value, range[0])) : value) - low)) / (high - low || 1);
  };
  const sx = scale(x, LEFT, W - RIGHT, xLog), sy = scale(y, H - BOTTOM, TOP, yLog);
  const svg = element("svg", { viewBox: `0 0 ${W} ${H}`, role: "img" });
  for (const value of ticks(...y, yLog)) {
    svg.append(element("line", { class: "axis", x1: LEFT, x2: W - RIGHT, y1: sy(value), y2: sy(value) }));
    svg.append(element("text", { x: LEFT - 6, y: sy(value) + 4, "text-anchor": "end" }, short(value)));
  }
  for (const [value, label] of xTicks ?? ticks(...x, xLog).map((value) => [value, short(value)]))
    svg.append(element("text", { x: sx(value), y: H - BOTTOM + 16, "text-anchor": "middle" }, label));
  svg.append(element("text", { x: (LEFT + W - RIGHT) / 2, y: H - 4, "text-anchor": "middle" }, xTitle));
  svg.append(element("text", { x: 12, y: (TOP + H - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(TOP + H - BOTTOM) / 2})` }, yTitle));
  return { svg, sx, sy };
}
const line = (points, lane, extra = "") => element("path", { d: points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join(""), fill: "none", style: `stroke:${colour(lane)};stroke-width:2;${extra}` });

function bars({ rows, unit }) {
  // rows: [label, lane, value, low, high, parts?]; text stands beside a bar, never in it. The axis is linear and begins at 0.
  if (rows.every(([, , value]) => value === 0)) return element("p", { class: "zero" }, `0 ${unit} on all lanes.`);
  const high = Math.max(...rows.map((row) => row[4] ?? row[2]), 1e-9) * 1.02;
  const height = 24, top = 4, left = NARROW ? 94 : 128, room = NARROW ? 60 : 158;
  const scale = (value) => left + (W - left - room) * (value / high);
  const bottom = rows.length * height + top * 2;
  const svg = element("svg", { viewBox: `0 0 ${W} ${bottom + 34}`, role: "img" });
  for (const value of ticks(0, high)) {
    svg.append(element("line", { class: "axis", x1: scale(value), x2: scale(value), y1: top, y2: bottom }));
    svg.append(element("text", { x: scale(value), y: bottom + 14, "text-anchor": "middle" }, short(value)));
  }
  svg.append(element("text", { x: (left + W - room) / 2, y: bottom + 30, "text-anchor": "middle" }, `${unit} (linear)`));
  rows.forEach(([label, lane, value, from, to, parts], i) => {
    const y = top + i * height;
    svg.append(element("text", { x: left - 8, y: y + 15, "text-anchor": "end", class: "value" }, label));
    let start = left;
    for (const [part, opacity] of parts ?? [[value, 0.85]]) {
      const end = parts ? start + scale(part) - left : scale(part);
      svg.append(element("rect", { x: start, y: y + 4, width: Math.max(0.5, end - start), height: height - 9, style: `fill:${colour(lane)};opacity:${opacity}` }));
      start = end;
    }
    if (from !== undefined && to > from) svg.append(element("line", { x1: scale(from), x2: scale(to), y1: y + 11.5, y2: y + 11.5, style: "stroke:var(--ink);stroke-width:1.6" }));
    svg.append(element("text", { x: Math.max(start, to === undefined ? 0 : scale(to)) + 6, y: y + 15, class: "value" }, `${number(value)}${NARROW ? "" : ` ${unit}`}`));
  });
  return svg;
}

function figure(title, caption, names, make) {
  // make(name) gives an SVG; names are what one may choose between.
  names = names.filter(Boolean);
  if (!names.length) return;
  const holder = element("div");
  const note = element("figcaption");
  const show = (name) => {
    const drawn = make(name);
    drawn.setAttribute("aria-label", `${title}, ${results.experiments[name]?.title ?? name}`);
    holder.replaceChildren(drawn);
    note.textContent = `${caption} ${results.experiments[name]?.about ?? ""}`;
  };
  const made = element("figure", {}, element("h3", {}, title));
  if (names.length > 1) {
    const select = element("select", { "aria-label": title });
    for (const name of names) select.append(element("option", { value: name }, results.experiments[name]?.title ?? name));
    select.onchange = () => show(select.value);
    made.append(select);
  }
  made.append(holder, note);
  show(names[0]);
  $("figures").append(made);
}
const laneRows = (experiment, metric) => lanes.flatMap((lane) => {
  const found = figureOf(experiment, lane, metric);
  return found ? [[labels[lane], lane, found.median, found.low, found.high]] : [];
});
const measured = (metric, among = Object.keys(results.experiments)) => among.filter((name) => lanes.some((lane) => figureOf(name, lane, metric)));

figure("Transport delay", "Share of all chunks (pooled) that arrived within so many ms of being appended to the log: e_i − at_i. Plain REST has no event times.",
  Object.keys(data.delays).filter((name) => Object.keys(data.delays[name]).length && !name.startsWith("cut")), (name) => {
    const curves = Object.entries(data.delays[name]);
    const low = Math.max(0.05, Math.min(...curves.map(([, values]) => values[1])) * 0.8), high = Math.max(...curves.map(([, values]) => values.at(-1))) * 1.1;
    const { svg, sx, sy } = axes({ x: [low, high], y: [0, 100], xTitle: "ms (logarithmic)", yTitle: "% of chunks", xLog: true });
    for (const [lane, values] of curves) svg.append(line(values.map((value, i) => [sx(value), sy((100 * i) / (values.length - 1))]), lane));
    return svg;
  });
figure("Gaps over time", "Each point is a chunk of one turn: when it arrived, and e_i − e_(i−1) before it. Points at the bottom arrived together.",
  Object.keys(data.gaps), (name) => {
    const series = Object.entries(data.gaps[name]);
    const all = series.flatMap(([, pairs]) => pairs);
    const { svg, sx, sy } = axes({ x: [0, Math.max(...all.map(([ms]) => ms)) / 1000], y: [0.02, Math.max(...all.map(([, gap]) => gap)) * 1.3], xTitle: "s after the request", yTitle: "gap, ms (log.)", yLog: true });
    for (const [lane, pairs] of series) for (const [ms, gap] of pairs) svg.append(element("circle", { cx: sx(ms / 1000), cy: sy(Math.max(gap, 0.02)), r: 2.6, style: `fill:${colour(lane)};opacity:.75` }));
    return svg;
  });
if (Object.keys(data.bytes).length)
  figure("Bytes a token", "TCP payload to the client / tokens, counted at the relay; dark: the text itself (UTF-8), light: fields, encoding and framing.", ["bytes"],
    () => bars({ unit: "B", rows: lanes.filter((lane) => data.bytes[lane]).map((lane) => { const { text, rest } = data.bytes[lane]; return [labels[lane], lane, text + rest, undefined, undefined, [[text, 1], [rest, 0.45]]]; }) }));
figure("First token", "TTFT: first non-empty chunk − t0; the model itself answers at once. The line is the 95 % interval.", measured("ttft", ["1 stream", "16 streams", "64 streams", "256 streams", "network lan", "network wan", "network mobile", "network lossy"]), (name) => bars({ unit: "ms", rows: laneRows(name, "ttft") }));
const scaling = [["1 stream", 1], ["16 streams", 16], ["64 streams", 64], ["256 streams", 256]].filter(([name]) => results.experiments[name]);
if (scaling.length > 1)
  for (const [metric, what] of [["delay_p99", "Delay p99 with more streams"]])
    figure(what, "Median over rounds of the p99 of e_i − at_i; one client a stream, all in one process, so at many streams the client's own queue is in it.", [scaling.at(-1)[0]], () => {
      const values = scaling.flatMap(([name]) => lanes.map((lane) => figureOf(name, lane, metric)?.median)).filter((value) => value > 0);
      const { svg, sx, sy } = axes({ x: [1, scaling.at(-1)[1]], y: [Math.min(...values) * 0.7, Math.max(...values) * 1.4], xTitle: "streams at once", yTitle: "ms (log.)", xLog: true, yLog: true, xTicks: scaling.map(([, count]) => [count, count]) });
      for (const lane of lanes) {
        const points = scaling.flatMap(([name, count]) => { const found = figureOf(name, lane, metric); return found ? [[sx(count), sy(found.median), sy(Math.max(found.low, 1e-3)), sy(found.high)]] : []; });
        if (!points.length) continue;
        svg.append(line(points, lane));
        for (const [x, y, low, high] of points) svg.append(element("line", { x1: x, x2: x, y1: low, y2: high, style: `stroke:${colour(lane)}` }), element("circle", { cx: x, cy: y, r: 3, style: `fill:${colour(lane)}` }));
      }
      return svg;
    });
figure("What the server pays", "User and system time of the server / events, while these streams ran. Where the client pays more, the client is the limit of throughput.", measured("server_us"), (name) => bars({ unit: "µs an event", rows: laneRows(name, "server_us") }));
figure("What the client pays", "User and system time of the client's process / events: the price of each library in Python.", measured("client_us"), (name) => bars({ unit: "µs an event", rows: laneRows(name, "client_us") }));
figure("An open stream", "Resident memory of the server with N waiting streams minus without, / N.", measured("stream_kib"), (name) => bars({ unit: "KiB", rows: laneRows(name, "stream_kib") }));
const shades = { tcp: 0.95, tls: 0.8, opened: 0.65, sent: 0.5, first_byte: 0.38, first_event: 0.28, first_token: 0.2 };
figure("The ladder to the first token", "Median time since the wish to ask; from left to right, dark to light, where they are told: TCP, TLS, opened (101 or SETTINGS), request sent, first byte, first event, first token.",
  measured("phase_first_token", ["phases, cold", "phases, cold, TLS", "phases, warm"]), (name) => bars({ unit: "ms", rows: lanes.filter((lane) => figureOf(name, lane, "phase_first_token")).map((lane) => {
    let last = 0;
    const parts = Object.entries(shades).flatMap(([phase, shade]) => {
      const found = figureOf(name, lane, `phase_${phase}`);
      if (!found) return [];
      const length = Math.max(0, found.median - last);
      last += length;
      return [[length, shade]];
    });
    return [labels[lane], lane, last, undefined, undefined, parts];
  }) }));
for (const [name, [title, svg]] of Object.entries(results.pictures))
  figure(title, results.experiments.packets?.verdicts.join(" ") ?? "", [name], () => element("img", { src: `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`, alt: title, style: "width:100%" }));
for (const [metric, title, unit, caption] of [
  ["back", "What a cut costs: time", "ms", "First new token after the loss − cut."],
  ["again", "What a cut costs: money", "tokens paid twice", "Tokens generated − tokens of the reply, from the server's log."],
  ["twice", "What a cut costs: patience", "tokens shown twice", "Tokens shown − distinct tokens shown."],
]) figure(title, caption, measured(metric, ["cut, without resume", "cut, with resume"]), (name) => bars({ unit, rows: laneRows(name, metric) }));
figure("Stopping the model", "at of turn_cancelled − cancel pressed: until the model's iterator is closed.", measured("cancel"), (name) => bars({ unit: "ms", rows: laneRows(name, "cancel") }));
figure("A picture", "Picture whole − t0, replayed from the log; previews travel too where the answer streams.", measured("image_ms").reverse(), (name) => bars({ unit: "ms", rows: laneRows(name, "image_ms") }));
figure("Connecting", "connect() and first ping of a new client.", measured("connect_cold"), (name) => bars({ unit: "ms", rows: laneRows(name, "connect_cold") }));

// The guide: the functions of shared/web/guide.js stand above this script.
show(data.guide, $("needs"), $("verdict"), ["tokens", "browser"], (name, { text, className, ...attributes } = {}, ...children) =>
  element(name, { ...(className ? { class: className } : {}), ...attributes }, ...(text === undefined ? [] : [text]), ...children));

// Your numbers: the functions of numbers.js stand above this script.
if (Object.keys(data.numbers.coefficients).length) {
  showNumbers(data.numbers, labels, $("fields"), $("computed"), element, numeral);
  const measured = Object.entries(data.numbers.coefficients);
  const names = Object.keys(measured[0][1]);
  const said = (value) => (value === null ? "–" : Array.isArray(value) ? value.map(([x, y]) => `${number(y)} at ${number(x)} tokens/s`).join("; ") : numeral(value));
  $("coefficients").append(element("table", {}, element("tr", {}, element("td", {}, "measured"), ...measured.map(([word]) => element("th", {}, labels[word]))),
    ...names.map((name) => element("tr", {}, element("td", {}, name), ...measured.map(([, of]) => element("td", {}, said(of[name])))))));
  $("coefficients").append(element("p", { class: "about" }, `Constants: ${Object.entries(data.numbers.constants).map(([name, value]) => `${name} = ${numeral(value)}`).join(", ")}. Servers as they are by default, on SQLite, one process, loopback, no TLS. Beyond the measured load the last measured cost of a token is used.`));
} else {
  $("yours").querySelector("details").remove();
  $("computed").append("This run has no load points. Measure them: python -m compare run --experiments loads,cuts,pictures");
}

// The tables.
function numbers(name, experiment) {
  const found = experiment.metrics.filter((metric) => lanes.some((lane) => figureOf(name, lane, metric)));
  const head = element("tr", {}, element("th", {}, "lane"));
  for (const metric of found) head.append(element("th", { title: metrics[metric].formula }, `${metrics[metric].title}, ${metrics[metric].unit}`));
  const body = element("table", {}, head);
  for (const lane of lanes.filter((lane) => experiment.figures[lane])) {
    const row = element("tr", {}, element("td", { style: `border-left:4px solid ${colour(lane)};padding-left:8px;font-weight:600` }, labels[lane]));
    for (const metric of found) {
      const mine = figureOf(name, lane, metric);
      if (!mine) { row.append(element("td", {}, "–")); continue; }
      const ranked = lanes.filter((other) => !(metrics[metric].of_gaps && together(name, other)));
      const all = ranked.map((other) => figureOf(name, other, metric)).filter(Boolean);
      const better = metrics[metric].better;
      const top = all.length ? all.reduce((a, b) => ((better === "higher" ? b.median > a.median : b.median < a.median) ? b : a)) : mine;
      const best = better !== "neither" && all.length > 1 && ranked.includes(lane) && all.some((other) => matters(metric, top, other)) && !matters(metric, top, mine);
      const cell = element("td", { class: best ? "best" : ranked.includes(lane) ? "" : "together", title: `${metrics[metric].formula}; ${mine.n} values, worst ${shown(metric, mine.worst)}` }, shown(metric, mine.median));
      if (!ranked.includes(lane)) cell.append(element("small", {}, "arrived together"));
      if (mine.low !== mine.high) cell.append(element("small", {}, `${shown(metric, mine.low)} – ${shown(metric, mine.high)}`));
      row.append(cell);
    }
    body.append(row);
  }
  return element("div", { class: "table", tabindex: 0, role: "region", "aria-label": experiment.title }, body);
}
Object.entries(results.experiments).forEach(([name, experiment], i) => {
  const words = element("ul", { class: "words" });
  for (const said of experiment.verdicts) words.append(element("li", {}, said));
  for (const [lane, said] of Object.entries(experiment.findings)) for (const one of said) words.append(element("li", {}, `On the path of ${titles[lane]}: ${one}.`));
  for (const said of experiment.failures) words.append(element("li", { style: "color:var(--bad)" }, `Failed: ${said}`));
  const made = element("details", i ? {} : { open: "" }, element("summary", {}, experiment.title), element("p", { class: "about" }, experiment.about), ...(experiment.metrics.length ? [numbers(name, experiment)] : []), words);
  $("tables").append(made);
});

// Method and set-up.
const rows = (entries) => { const body = element("table"); for (const cells of entries) body.append(element("tr", {}, ...cells.map((cell) => element("td", {}, cell)))); return body; };
const unmeasured = Object.entries(results.unmeasured).map(([what, why]) => [what, why]);
unmeasured.push(["several machines, and networks beyond this machine", "not in this run; lan, wan, mobile and lossy are shaped in the relay"]);
$("methods").append(
  element("h3", {}, "Formulas"),
  element("p", {}, data.how_to_read),
  rows(Object.values(metrics).map((of) => [`${of.title} (${of.unit})`, of.formula, of.points])),
  element("h3", {}, "Set-up"), rows(Object.entries(results.setup)),
  element("h3", {}, "Not measured"), rows(unmeasured));
