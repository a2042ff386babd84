function bar(row, part, one, reach, send) {
  const line = add(row, "div", "bar"), pieces = add(line, "div", "pieces");
  one.experts.forEach((expert, rank) => {
    const weight = one.weights.length ? one.weights[rank] : reach / one.experts.length;
    const piece = add(pieces, "button", "piece", String(expert));
    piece.style.width = `${(100 * weight) / reach}%`;
    piece.style.backgroundColor = part.colour;
    piece.style.color = readable(part.colour, row);
    piece.tabIndex = -1; // the list of experts is the keyboard's way
    const said = one.weights.length ? `, gate weight ${weight.toFixed(3)}` : "";
    piece.title = `${part.label}, layer ${one.layer}: choice ${rank + 1}, expert ${expert}${said}. `
      + "Click to follow it.";
    piece.setAttribute("aria-label", piece.title);
    piece.onclick = () => send({ run: part.id, layer: one.layer, expert });
  });
  const entropy = one.entropy === null ? "" : one.entropy.toFixed(2);
  add(line, "span", "entropy", entropy);
}

function draw(card, data, send) {
  card.replaceChildren();
  card.tabIndex = 0; // what holds it may scroll, which the keyboard does where the focus is
  card.setAttribute("role", "group");
  card.setAttribute("aria-label", data.title);
  add(card, "div", "title", data.title).setAttribute("role", "status");
  const losses = data.parts.filter((part) => part.loss);
  if (losses.length) {
    const line = add(card, "div", "losses", "Loss (probability): ");
    losses.forEach((part, index) => add(line, "span", "",
      `${index ? ", " : ""}${part.loss} in ${part.label}`));
  }
  const sums = data.parts.flatMap((part) => part.bars.map((one) =>
    one.weights.length ? one.weights.reduce((a, b) => a + b, 0) : 1));
  const reach = Math.max(...sums, 1e-9);
  const head = add(card, "div", "head");
  const weighed = data.parts.some((part) => part.bars.some((one) => one.weights.length));
  add(head, "span", "", weighed ? "Experts by gate weight" : "Experts (no gate weights here)");
  if (data.parts.some((part) => part.bars.some((one) => one.entropy !== null))) {
    add(head, "span", "", "entropy, nats");
  }
  data.parts[0].bars.forEach((one, place) => {
    const row = add(card, "div", "layer");
    add(row, "span", "number", `Layer ${one.layer}`);
    const bars = add(row, "div", "bars");
    for (const part of data.parts) bar(bars, part, part.bars[place], reach, send);
  });
  for (const piece of card.querySelectorAll(".piece")) { // a number that is cut off is another one
    if (piece.scrollWidth > piece.clientWidth) piece.textContent = "";
  }
  const likely = data.parts.filter((part) => part.next.length);
  if (!likely.length) return;
  const columns = add(card, "div", "next");
  for (const part of likely) {
    const column = add(columns, "div", ""), name = add(column, "div", "head");
    const dot = add(name, "span", "dot");
    dot.style.backgroundColor = part.colour;
    add(name, "span", "", `Next in ${part.label}`);
    for (const [token, share] of part.next) {
      const line = add(column, "div", "guess");
      add(line, "bdi", "", token);
      add(line, "span", "", `${(100 * share).toFixed(1)} %`);
    }
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  draw(parentElement.querySelector(".card"), data, (which) => setTriggerValue("picked", which));
}
