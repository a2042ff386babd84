function line(name, parts, data) {
  const node = make(name === "all" ? "h2" : "p", name); // the first is the page's answer
  for (const part of parts) {
    if (part.run !== undefined) node.append(runName(data.runs[part.run]));
    else node.append(make("span", part.kind ?? "", part.text));
  }
  return node;
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".lines");
  const all = Object.entries({ ...data.stops, computing: data.computing });
  root.classList.add("stack");
  root.replaceChildren(...all.map(([keep, lines]) => {
    const node = make("div");
    node.dataset.keep = keep;
    node.append(...lines.map(([name, parts]) => line(name, parts, data)));
    return node;
  }));
  return follow(root, (keep) => raise(root, data.stops[keep] ? keep : "computing"));
}
