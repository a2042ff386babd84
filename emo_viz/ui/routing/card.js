function add(kind, name, parent, text) {
  const node = document.createElement(kind);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function bar(row, part, one, reach, send) {
  const line = add("div", "bar", row), pieces = add("div", "pieces", line);
  one.experts.forEach((expert, rank) => {
    const weight = one.weights.length ? one.weights[rank] : reach / one.experts.length;
    const piece = add("button", "piece", pieces, String(expert));
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
  add("span", "entropy", line, entropy);
}

function draw(card, data, send) {
  card.replaceChildren();
  card.tabIndex = 0; // what holds it may scroll, which the keyboard does where the focus is
  card.setAttribute("role", "group");
  card.setAttribute("aria-label", data.title);
  add("div", "title", card, data.title).setAttribute("role", "status");
  const losses = data.parts.filter((part) => part.loss);
  if (losses.length) {
    const line = add("div", "losses", card, "Loss (probability): ");
    losses.forEach((part, index) => add("span", "", line,
      `${index ? ", " : ""}${part.loss} in ${part.label}`));
  }
  const sums = data.parts.flatMap((part) => part.bars.map((one) =>
    one.weights.length ? one.weights.reduce((a, b) => a + b, 0) : 1));
  const reach = Math.max(...sums, 1e-9);
  const head = add("div", "head", card);
  const weighed = data.parts.some((part) => part.bars.some((one) => one.weights.length));
  add("span", "", head, weighed ? "Experts by gate weight" : "Experts (no gate weights here)");
  if (data.parts.some((part) => part.bars.some((one) => one.entropy !== null))) {
    add("span", "", head, "entropy, nats");
  }
  data.parts[0].bars.forEach((one, place) => {
    const row = add("div", "layer", card);
    add("span", "number", row, `Layer ${one.layer}`);
    const bars = add("div", "bars", row);
    for (const part of data.parts) bar(bars, part, part.bars[place], reach, send);
  });
  for (const piece of card.querySelectorAll(".piece")) { // a number that is cut off is another one
    if (piece.scrollWidth > piece.clientWidth) piece.textContent = "";
  }
  const likely = data.parts.filter((part) => part.next.length);
  if (!likely.length) return;
  const columns = add("div", "next", card);
  for (const part of likely) {
    const column = add("div", "", columns), name = add("div", "head", column);
    const dot = add("span", "dot", name);
    dot.style.backgroundColor = part.colour;
    add("span", "", name, `Next in ${part.label}`);
    for (const [token, share] of part.next) {
      const line = add("div", "guess", column);
      add("bdi", "", line, token);
      add("span", "", line, `${(100 * share).toFixed(1)} %`);
    }
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  draw(parentElement.querySelector(".card"), data, (which) => setTriggerValue("picked", which));
}
