function paint(root, data, keep) {
  root.querySelectorAll(".pane").forEach((pane, i) => {
    const parts = data.runs[i].texts[keep];
    const text = pane.querySelector(".written");
    pane.classList.toggle("waiting", !parts);
    pane.querySelector(".state").textContent = parts ? data.runs[i].said[keep] : data.waiting;
    if (!parts) return;
    text.replaceChildren(...parts.map(([words, changed]) => make(changed ? "mark" : "span", "", words)));
  });
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".writing");
  const prompt = make("div", "said prompt");
  prompt.append(make("span", "", "Next words after "), make("q", "", data.prompt));
  root.replaceChildren(prompt, ...data.runs.map((run) => {
    const pane = make("div", "pane");
    const head = make("div", "head");
    head.append(runName(run), make("span", "state"));
    pane.append(head, Object.assign(make("div", "written"), { dir: "auto", tabIndex: 0 }));
    return pane;
  }));
  return follow(root, (keep) => paint(root, data, keep));
}
