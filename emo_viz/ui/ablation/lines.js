function line(name, parts, data) {
  const node = make(name === "all" ? "h2" : "p", name); // the first is the page's answer
  for (const part of parts) {
    if (part.run !== undefined) node.append(runName(data.runs[part.run]));
    else node.append(make("span", part.kind ?? "", part.text));
  }
  return node;
}

// The lines of every stop lie in one place and one of them is seen: the page never moves.
export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".lines");
  const all = Object.entries({ ...data.stops, computing: data.computing });
  root.replaceChildren(...all.map(([keep, lines]) => {
    const node = make("div", "stop");
    node.dataset.keep = keep;
    node.append(...lines.map(([name, parts]) => line(name, parts, data)));
    return node;
  }));
  return follow(root, (keep) => {
    const shown = data.stops[keep] ? String(keep) : "computing";
    for (const node of root.children) {
      node.classList.toggle("current", node.dataset.keep === shown);
    }
  });
}
