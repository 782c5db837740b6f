// What a run says in one sentence, and a run as the end of an address that one can share.

// A difference below this is not felt: 5 ms, or a tenth, whichever is more.
const FELT_MS = 5;
const FELT_SHARE = 0.1;
// A lane came in bursts when its longest gap is longer than this and most of its chunks came within a moment of the chunk before.
const BURST_MS = 300;
const TOGETHER_MS = 2;

const list = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);
const ms = (value) => `${Math.round(value).toLocaleString("en")} ms`;
const gapsIn = (row) => row.arrivals.slice(1).map((at, index) => at - row.arrivals[index]);

const inBursts = (gaps) => Math.max(...gaps) > BURST_MS && gaps.filter((gap) => gap < TOGETHER_MS).length > gaps.length / 2;

/** One sentence on rows `{word, title, arrivals, cuts, end, same}`; `same`: the text has the checksum of the server. */
export function verdict(rows) {
  const whole = rows.filter((row) => row.end !== null);
  if (whole.length < 2) return "Fewer than two lanes came to their end, so there is nothing to compare.";
  if (!whole.every((row) => row.same)) return "The lanes brought DIFFERENT texts: something is wrong.";
  const clauses = [`All ${whole.length} lanes brought the same text`];
  const streaming = whole.filter((row) => row.arrivals.length > 1);
  const cut = whole.filter((row) => row.cuts.length);
  if (cut.length) clauses.push(`${list(cut.map((row) => row.title))} lost the connection, came back, and showed nothing twice`);
  const bursts = streaming.filter((row) => !row.cuts.length && inBursts(gapsIn(row)));
  if (bursts.length) {
    const longest = Math.max(...bursts.flatMap(gapsIn));
    clauses.push(`${list(bursts.map((row) => row.title))} arrived in bursts, with up to ${ms(longest)} of nothing between them`);
  }
  if (streaming.length > 1) {
    const firsts = streaming.map((row) => row.arrivals[0]);
    const [least, most] = [Math.min(...firsts), Math.max(...firsts)];
    const felt = most - least > Math.max(FELT_MS, FELT_SHARE * least);
    const slow = streaming.filter((row) => row.arrivals[0] - least > Math.max(FELT_MS, FELT_SHARE * least)).map((row) => row.title);
    clauses.push(
      felt
        ? `the first token came after ${ms(least)} to ${ms(most)}, ${list(slow)} later than the quickest in this one run`
        : `the first tokens came ${ms(most - least)} apart, which nobody can feel`,
    );
  }
  const rest = whole.find((row) => row.word === "rest" && row.arrivals.length);
  if (rest && streaming.length) clauses.push(`REST showed nothing before ${ms(rest.arrivals[0])}`);
  return `${clauses.length > 1 ? `${clauses.slice(0, -1).join("; ")}; and ${clauses.at(-1)}` : clauses[0]}.`;
}

const VERSION = 1;

/** A run as text for the part of an address behind `#`: what was asked, over which line, and when what arrived, to the millisecond. */
export function packed({ prompt, path, rows }) {
  const lanes = rows.map((row) => {
    let before = 0;
    const gaps = row.arrivals.map((at) => {
      const gap = Math.round(at) - before;
      before += gap;
      return gap;
    });
    return [row.word, gaps, row.cuts.map(Math.round), row.end === null ? null : Math.round(row.end), row.same ? 1 : 0];
  });
  const bytes = new TextEncoder().encode(JSON.stringify([VERSION, prompt, path, lanes]));
  return `run=${btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
}

/** The run of an address's `#` part; null where there is none that this page can read. */
export function unpacked(hash) {
  const found = /^#run=([\w-]+)$/.exec(hash);
  if (!found) return null;
  try {
    const bytes = Uint8Array.from(atob(found[1].replaceAll("-", "+").replaceAll("_", "/")), (character) => character.charCodeAt(0));
    const [version, prompt, path, lanes] = JSON.parse(new TextDecoder().decode(bytes));
    if (version !== VERSION) return null;
    const rows = lanes.map(([word, gaps, cuts, end, same]) => {
      let at = 0;
      return { word: String(word), arrivals: gaps.map((gap) => (at += Number(gap))), cuts: cuts.map(Number), end: end === null ? null : Number(end), same: same === 1 };
    });
    return { prompt: String(prompt), path: String(path), rows };
  } catch {
    return null;
  }
}
