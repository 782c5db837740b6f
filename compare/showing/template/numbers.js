// Your numbers: the formulas of compare/showing/numbers.py, evaluated from their own text.

/** The value at `x` of a curve through `points`: straight lines over ln x, and level beyond both ends. */
function curve(points, x) {
  if (x <= points[0][0]) return points[0][1];
  for (let i = 1; i < points.length; i++) {
    const [[x0, y0], [x1, y1]] = [points[i - 1], points[i]];
    if (x <= x1) return y0 + ((y1 - y0) * Math.log(x / x0)) / Math.log(x1 / x0);
  }
  return points.at(-1)[1];
}

/** The wait at `x`, in ms: as `curve`, but straight over ln y too, because a queue grows slowly at first, then fast. */
function queue(points, x) {
  return Math.exp(curve(points.map(([at, wait]) => [at, Math.log(Math.max(wait, 0.1))]), x));
}

/** Every result by its name; null where the run did not measure what its formula needs. The shape is that of `predict` in Python. */
function predict({ formulas, constants }, coefficients, given) {
  const known = { ...constants, ...coefficients, ...given, curve, queue, ceil: Math.ceil };
  const found = {};
  for (const { name, text } of formulas) {
    const names = [...new Set(text.match(/[a-z_]\w*/g))];
    const values = names.map((one) => known[one]);
    // The formulas are part of the program; only numbers come from the form.
    found[name] = known[name] = values.includes(null) || values.includes(undefined) ? null : new Function(...names, `return ${text}`)(...values);
  }
  return found;
}

/** The form in `fields`, and the table in `said`; `labels` are the names of the transports. */
function showNumbers(numbers, labels, fields, said, make, shown) {
  const words = Object.keys(numbers.coefficients);
  const given = Object.fromEntries(numbers.inputs.map((one) => [one.name, one.default]));
  const compute = () => {
    const found = Object.fromEntries(words.map((word) => [word, predict(numbers, numbers.coefficients[word], given)]));
    const head = make("tr", {}, make("td", {}, "per transport"), ...words.map((word) => make("th", { style: `border-bottom:3px solid var(--${word})` }, labels[word])));
    const rows = numbers.formulas.flatMap(({ name, title, unit, text }) => [
      make("tr", {},
        make("td", {}, unit ? `${title}, ${unit}` : title),
        ...words.map((word) => make("td", {}, found[word][name] === null ? "–" : shown(found[word][name])))),
      make("tr", { class: "formula" }, make("td", { colspan: words.length + 1 }, `${name} = ${text}`)),
    ]);
    said.replaceChildren(make("table", {}, head, ...rows));
  };
  for (const one of numbers.inputs) {
    const field = make("input", { type: "number", min: one.least, max: one.most, step: "any", value: one.default, inputmode: "decimal" });
    field.addEventListener("input", () => {
      const value = field.valueAsNumber;
      const valid = value >= one.least && value <= one.most;
      field.setAttribute("aria-invalid", String(!valid));
      if (!valid) return;
      given[one.name] = value;
      compute();
    });
    fields.append(make("label", {}, make("span", {}, one.unit ? `${one.title}, ${one.unit}` : one.title, make("code", {}, one.name)), field));
  }
  compute();
}
