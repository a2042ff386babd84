const SEND_AFTER_MS = 600;

function build(root, data) {
  root.replaceChildren(...data.runs.map((run, i) => {
    const pane = make("div", "pane");
    const head = make("div", "head");
    head.append(runName(run), make("span", "numbers"));
    const strip = make("div", "strip");
    Object.assign(strip, { tabIndex: 0, dir: "auto" });
    strip.setAttribute("role", "listbox");
    strip.setAttribute("aria-label", `Tokens of the text in ${run.label}`);
    strip.style.maxHeight = strip.style.minHeight = `${data.pixels}px`;
    data.tokens.forEach((token, index) => strip.append(...tokenNodes(token, i, index)));
    pane.append(head, strip);
    return pane;
  }), Object.assign(make("div", "said"), { ariaLive: "polite" }));
  root.querySelectorAll(".strip").forEach(makeFields);
}

function tokenNodes(token, run, index) {
  const node = make("span", token.text ? "token" : "token rest");
  node.id = `token-${run}-${index + 1}`;
  node.dataset.token = index + 1;
  node.setAttribute("role", "option");
  if (!token.text.trim()) node.setAttribute("aria-label", token.label);
  node.append(make("span", token.sign ? "sign" : "", token.text));
  return [node, ...Array.from({ length: token.breaks }, () => document.createElement("br"))];
}

function signed(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
}

function change(run, keep, token) {
  const [full, cut] = [run.full[token - 1], run.cut[keep][token - 1]];
  return `${full.toFixed(2)} → ${cut.toFixed(2)} nats (${signed(cut - full)})`;
}

function paint(root, data, keep) {
  root.keep = keep;
  root.querySelectorAll(".pane").forEach((pane, i) => {
    const run = data.runs[i];
    const known = run.cut[keep];
    pane.classList.toggle("waiting", !known);
    raise(pane.querySelector(".numbers"), run.numbers[keep] ? keep : "computing");
    if (!known) return;
    const middle = (data.palette.length - 1) / 2;
    pane.querySelectorAll(".token").forEach((node, index) => {
      const rise = known[index] - run.full[index];
      const step = Math.round(middle + (rise / data.reach) * middle);
      const fill = data.palette[Math.min(data.palette.length - 1, Math.max(0, step))];
      const face = faceOf(node);
      face.style.setProperty("--fill", fill);
      face.classList.toggle("worse", rise > data.marked);
      face.classList.toggle("better", rise < -data.marked);
    });
  });
  say(root, data);
}

function say(root, data) {
  const said = root.querySelector(".said"), now = saidOf(root, data);
  if (said.textContent !== now) said.textContent = now; // what is written anew is spoken
}

function saidOf(root, data) {
  const token = Number(root.dataset.selected);
  if (!token) return data.hint;
  const known = data.runs.filter((run) => run.cut[root.keep]);
  const words = known.map((run) => `${run.label}: ${change(run, root.keep, token)}`);
  const label = data.tokens[token - 1].label;
  return `Token ${token} of ${data.tokens.length}, “${label}”. ${words.join(" · ")}`;
}

function select(root, data, token) {
  root.dataset.selected = token ?? "";
  const nodes = root.querySelectorAll(`[data-token="${token}"]`);
  choose(root, nodes);
  for (const node of nodes) {
    const strip = node.parentElement;
    strip.setAttribute("aria-activedescendant", node.id);
    const top = node.offsetTop;
    if (top < strip.scrollTop || top + node.offsetHeight > strip.scrollTop + strip.clientHeight) {
      strip.scrollTop = top - strip.clientHeight / 2;
    }
  }
  say(root, data);
}

function target(root, key, count) {
  const now = Number(root.dataset.selected) || 0;
  const step = key === onwardIn(root.querySelector(".strip")) ? 1 : -1;
  const along = () => Math.min(count, Math.max(1, now + step));
  const moves = {
    ArrowRight: along, ArrowLeft: along,
    Home: () => 1, End: () => count, Escape: () => null,
  };
  return moves[key]?.();
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".tokens");
  root.classList.toggle("code", data.code);
  const shown = JSON.stringify([data.tokens, data.runs.map((run) => run.label)]);
  if (root.dataset.shown !== shown) {
    build(root, data);
    root.dataset.shown = shown;
  }
  root.querySelectorAll(".numbers").forEach((numbers, i) => {
    stack(numbers, { ...data.runs[i].numbers, computing: "computing …" });
  });
  root.n = Math.max(root.n ?? 0, data.heard);
  if (data.heard === root.n) select(root, data, data.selected);
  const unfollow = follow(root, (keep) => paint(root, data, keep));

  const send = (token, wait) => {
    select(root, data, token);
    const n = (root.n += 1);
    clearTimeout(root.pending);
    root.pending = setTimeout(() => setTriggerValue("picked", { token, n }), wait);
  };
  root.onclick = (event) => {
    const node = tokenAt(event);
    if (node) send(Number(node.dataset.token), 0);
  };
  root.onmouseover = (event) => {
    const node = tokenAt(event);
    if (!node) return;
    const run = data.runs[Number(node.id.split("-")[1])];
    const token = Number(node.dataset.token);
    if (!run.cut[root.keep]) return;
    const label = data.tokens[token - 1].label;
    faceOf(node).title = `Token ${token}: ${label}\nLoss ${change(run, root.keep, token)}`;
  };
  root.onkeydown = (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const token = target(root, event.key, data.tokens.length);
    if (token === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    send(token, SEND_AFTER_MS);
  };
  return unfollow;
}
