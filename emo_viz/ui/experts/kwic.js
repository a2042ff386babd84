function cell(name, text) {
  const node = document.createElement("span");
  node.className = name;
  const inner = document.createElement("span");
  inner.textContent = text;
  node.append(inner);
  return node;
}

function build(list, lines) {
  list.replaceChildren();
  lines.forEach((line, index) => {
    const node = document.createElement("li");
    node.className = "line";
    node.id = `line-${index}`;
    node.title = line.document;
    node.setAttribute("role", "option");
    node.setAttribute("aria-label", `${line.before}${line.token}${line.after}; ${line.weight}`);
    const words = document.createElement("span");
    words.className = "words";
    words.dir = line.direction;
    words.append(cell("before", line.before), cell("token", line.token), cell("after", line.after));
    node.append(words, cell("weight", line.weight));
    list.append(node);
  });
}

function select(list, index) {
  list.dataset.at = index;
  list.querySelectorAll(".line").forEach((node, place) =>
    node.setAttribute("aria-selected", String(place === index)));
  list.setAttribute("aria-activedescendant", `line-${index}`);
}

export default function ({ data, parentElement }) {
  const list = parentElement.querySelector(".kwic");
  list.setAttribute("aria-label", data.label);
  list.style.setProperty("--mark", data.colour);
  const now = JSON.stringify(data.lines);
  if (list.dataset.lines !== now) {
    build(list, data.lines);
    list.dataset.lines = now;
    select(list, 0);
  }
  const open = (index) => document.querySelector(`.st-key-${data.links}${index} a`)?.click();
  list.onclick = (event) => {
    const node = event.target.closest(".line");
    if (node) open(Number(node.id.slice("line-".length)));
  };
  list.onkeydown = (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const at = Number(list.dataset.at), last = data.lines.length - 1;
    const moves = { ArrowDown: Math.min(last, at + 1), ArrowUp: Math.max(0, at - 1),
      Home: 0, End: last };
    if (event.key === "Enter") open(at);
    else if (event.key in moves) select(list, moves[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
}
