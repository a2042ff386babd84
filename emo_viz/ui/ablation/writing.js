function paint(root, data, keep) {
  root.querySelectorAll(".pane").forEach((pane, i) => {
    const run = data.runs[i];
    const parts = run.texts[keep];
    pane.classList.toggle("waiting", !parts);
    raise(pane.querySelector(".state"), parts ? keep : "waiting");
    if (!parts) return;
    const words = parts.map(([text, changed]) => make(changed ? "mark" : "span", "", text));
    pane.querySelector(".written").replaceChildren(...words, ...whole(run, parts));
  });
}

// What all experts write, under a text that is another.
function whole(run, parts) {
  if (!run.whole || !parts.some(([, changed]) => changed)) return [];
  const node = make("div", "whole");
  node.append(make("b", "", `All ${run.most}: `), run.whole);
  return [node];
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".writing");
  const prompt = make("div", "said prompt");
  const given = Object.assign(make("q", "", data.prompt), { dir: data.direction });
  prompt.append(make("span", "", "Next words after "), given);
  root.replaceChildren(prompt, ...data.runs.map((run) => {
    const pane = make("div", "pane");
    const head = make("div", "head");
    head.append(runName(run), make("span", "state"));
    stack(head.lastChild, { ...run.said, waiting: data.waiting });
    pane.append(head, Object.assign(make("div", "written"), { dir: "auto", tabIndex: 0 }));
    return pane;
  }));
  return follow(root, (keep) => paint(root, data, keep));
}
