function paint(root, data, keep) {
  root.querySelectorAll(".pane").forEach((pane, i) => {
    const run = data.runs[i];
    const text = run.texts[keep];
    pane.classList.toggle("waiting", !text);
    raise(pane.querySelector(".state"), text ? keep : "waiting");
    if (!text) return;
    pane.querySelector(".written").replaceChildren(...words(run, text, data), ...whole(run, text));
  });
}

// Unlikely parts in the colour of their loss; a bar where the text parts from that of all experts.
function words(run, { parts, parting }, data) {
  const nodes = parts.map(([text, loss]) => {
    const node = make("span", loss < data.unlikely ? "" : "unlikely", text);
    const last = data.colours.length - 1;
    const step = Math.min(last, Math.round((loss / data.reach) * last));
    node.style.setProperty("--fill", data.colours[step]);
    if (loss) node.title = `${loss.toFixed(2)} nats with all ${run.most} experts`;
    return node;
  });
  if (parting !== null) nodes.splice(parting, 0, make("span", "parting"));
  return nodes;
}

// What all experts write, under a text that is another.
function whole(run, { parting }) {
  if (!run.whole || parting === null) return [];
  const node = make("div", "whole");
  node.append(make("b", "", `All ${run.most}: `), run.whole);
  return [node];
}

function legend(text) {
  const node = make("div", "said note", `${text}; `);
  node.append(make("span", "parting"), "\u00a0the texts part.");
  return node;
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".writing");
  root.classList.toggle("code", data.code);
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
  }), legend(data.legend));
  return follow(root, (keep) => paint(root, data, keep));
}
