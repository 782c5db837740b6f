// The guide on a page, also in the report: one answer to all needs that are ticked. compare/showing/guide.py combines in the same way.

/** The lanes in the order of their simplicity: where two do equally well, the simpler one comes first. */
const SIMPLEST = ["rest", "ndjson", "sse", "websocket", "grpc", "rest-poll"];

function score(chosen, lane) {
  const judged = chosen.map((need) => need.lanes[lane]);
  return [judged.filter((one) => !one.can).length, judged.reduce((sum, one) => sum + one.price, 0)];
}

function ranking(chosen, lanes) {
  return lanes.map((lane) => [score(chosen, lane), lane]).sort(([a], [b]) => a[0] - b[0] || a[1] - b[1]).map(([, lane]) => lane);
}

/**
 * `needs`: `{name, title, lanes: {lane: {can, price, why, source}}}`; `always`: what each lane costs for any need;
 * `titles`: the names of the lanes in texts; `ticked`: a set of names. The shape is that of `Answer` in Python.
 */
export function answer({ needs, always, titles }, ticked) {
  const chosen = needs.filter((need) => ticked.has(need.name));
  const lanes = SIMPLEST.filter((lane) => lane in titles);
  const [take, ...rest] = ranking(chosen, lanes);
  const same = (lane) => score(chosen, lane).join() === score(chosen, take).join();
  const reasons = chosen.map((need) => [need, need.lanes[take]]);
  const against = (lane) => {
    const cannot = chosen.filter((need) => !need.lanes[lane].can);
    return (cannot.length ? cannot : chosen.filter((need) => need.lanes[lane].price)).map((need) => need.lanes[lane].why).join("; ");
  };
  const changes = needs.flatMap((need) => {
    const other = ranking(needs.filter((one) => ticked.has(one.name) !== (one === need)), lanes)[0];
    return other === take ? [] : [`${ticked.has(need.name) ? "without" : "with"} “${need.title}”: ${titles[other]}`];
  });
  return {
    take,
    also: rest.filter(same),
    cannot: reasons.filter(([, one]) => !one.can).map(([need, one]) => `${need.title}: ${one.why}`),
    gives: reasons.filter(([, one]) => one.can && !one.price).map(([need, one]) => `${need.title}: ${one.why || "yes"}`),
    prices: [...reasons.filter(([, one]) => one.can && one.price).map(([need, one]) => `${need.title}: ${one.why}`), `always: ${always[take]}`],
    others: rest.filter((lane) => !same(lane)).map((lane) => `${titles[lane]}: ${against(lane)}`),
    changes: changes.length ? changes : ["no single need, added or dropped, changes the answer"],
  };
}

/** What a page shows of an answer: a heading and its lines each. */
export function headed(found) {
  return [
    ["It cannot do", found.cannot],
    ["You get", found.gives],
    ["The price", found.prices],
    ["Why not", found.others],
    ["What would change it", found.changes],
  ].filter(([, lines]) => lines.length);
}

/** Boxes for the needs in `boxes`, and the answer to what is ticked in `said`; `ticked` is what is ticked at first. */
export function show(guide, boxes, said, ticked, make) {
  const chosen = new Set(ticked);
  const judge = () => {
    const found = answer(guide, chosen);
    const also = found.also.length ? ` (${found.also.map((lane) => guide.titles[lane]).join(", ")} would do as well)` : "";
    said.replaceChildren(
      make("p", { className: "take", "data-word": found.take }, make("b", { text: `Take ${guide.titles[found.take]}` }), `${also}.`),
      ...headed(found).map(([head, lines]) => make("div", {}, make("h3", { text: head }), make("ul", {}, ...lines.map((text) => make("li", { text }))))),
    );
  };
  for (const need of guide.needs) {
    const box = make("input", { type: "checkbox" });
    box.checked = chosen.has(need.name);
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(need.name);
      else chosen.delete(need.name);
      judge();
    });
    boxes.append(make("label", {}, box, ` ${need.title}`));
  }
  judge();
}
