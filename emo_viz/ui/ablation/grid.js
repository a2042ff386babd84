const [LABEL, HIGH, GAP, NARROWEST, WIDEST] = [56, 15, 2, 5, 26];
const [IDS, EVERY] = [15, 16]; // room below the last row, and which experts are named there
const HINT = "Filled: kept; outlined: switched by hand. Click an expert, or go with the arrow keys "
  + "and press space. ";

const lacking = (run, row) => run.layers[row].kept.length <= run.layers[row].least;
const kept = (run, row, expert) => run.layers[row].kept.includes(expert);
const changed = (run, row, expert) => run.layers[row].changed.includes(expert);

function size(pane, run) {
  const widest = Math.max(1, ...run.layers.map((layer) => layer.routed));
  const room = (pane.clientWidth - LABEL) / widest;
  return Math.max(NARROWEST, Math.min(WIDEST, room));
}

function draw(pane, run, cursor) {
  const [wide, rows] = [size(pane, run), run.layers.length];
  const widest = Math.max(1, ...run.layers.map((layer) => layer.routed));
  const [width, height] = [Math.floor(LABEL + wide * widest), rows * HIGH + 2 + IDS];
  const canvas = pane.querySelector("canvas");
  const scale = window.devicePixelRatio || 1;
  Object.assign(canvas, { width: width * scale, height: height * scale });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const ink = getComputedStyle(pane).color;
  pen.font = `11px ${getComputedStyle(pane).fontFamily}`;
  ids(pen, widest, wide, rows, ink);
  run.layers.forEach((layer, row) => {
    pen.fillStyle = ink;
    pen.fillText(`Layer ${layer.number}`, 2, row * HIGH + 12);
    for (let expert = 0; expert < layer.routed; expert += 1) {
      cell(pen, run, row, expert, wide, ink);
    }
  });
  if (!cursor) return;
  pen.strokeStyle = ink;
  pen.setLineDash([2, 2]);
  pen.strokeRect(LABEL + cursor.expert * wide, cursor.row * HIGH + 0.5, wide, HIGH + 0.5);
}

function ids(pen, widest, wide, rows, ink) {
  pen.fillStyle = ink;
  pen.fillText("Expert", 2, rows * HIGH + 13);
  for (let expert = 0; expert < widest; expert += EVERY) {
    pen.fillText(expert, LABEL + expert * wide + 1, rows * HIGH + 13);
  }
}

// Switched cells have an outline as a second mark, and a stroke through them where they are off.
function cell(pen, run, row, expert, wide, ink) {
  const [x, y, w, h] = [LABEL + expert * wide + 1, row * HIGH + 2, wide - GAP, HIGH - GAP - 1];
  const on = kept(run, row, expert);
  pen.fillStyle = on ? run.colour : "rgba(128, 132, 140, 0.2)";
  pen.fillRect(x, y, w, h);
  if (!changed(run, row, expert)) return;
  pen.strokeStyle = ink;
  pen.lineWidth = 1.5;
  pen.strokeRect(x + 0.75, y + 0.75, w - 1.5, h - 1.5);
  if (on) return;
  pen.beginPath();
  pen.moveTo(x, y + h);
  pen.lineTo(x + w, y);
  pen.stroke();
}

function at(pane, run, event) {
  const box = pane.querySelector("canvas").getBoundingClientRect();
  const row = Math.floor((event.clientY - box.top) / HIGH);
  const expert = Math.floor((event.clientX - box.left - LABEL) / size(pane, run));
  const layer = run.layers[row];
  return layer && expert >= 0 && expert < layer.routed ? { row, expert } : null;
}

function named(run, place) {
  const words = [`Layer ${run.layers[place.row].number}, expert ${place.expert}`];
  words.push(kept(run, place.row, place.expert) ? "kept" : "not kept");
  if (changed(run, place.row, place.expert)) words.push("switched by hand");
  return words.join(", ");
}

function moved(run, place, key) {
  const last = run.layers.length - 1;
  const to = (row, expert) => ({
    row, expert: Math.max(0, Math.min(run.layers[row].routed - 1, expert)),
  });
  const { row, expert } = place;
  return {
    ArrowRight: () => to(row, expert + 1), ArrowLeft: () => to(row, expert - 1),
    ArrowDown: () => to(Math.min(last, row + 1), expert),
    ArrowUp: () => to(Math.max(0, row - 1), expert),
    Home: () => to(row, 0), End: () => to(row, Infinity),
  }[key]?.();
}

// One switch, unless it would leave the layer fewer experts than each of its tokens uses.
function toggle(root, data, run, place, send) {
  const on = !kept(run, place.row, place.expert);
  const layer = run.layers[place.row];
  const said = root.querySelector(".said");
  if (!on && lacking(run, place.row)) {
    said.textContent = `Layer ${layer.number} keeps the ${layer.least} routed experts that each `
      + "token uses; switch another one on first.";
    return;
  }
  if (data.switches >= data.most && !changed(run, place.row, place.expert)) {
    said.textContent = `No more than ${data.most} experts can be switched; reset some first.`;
    return;
  }
  const rest = layer.kept.filter((each) => each !== place.expert);
  layer.kept = on ? [...rest, place.expert] : rest; // drawn at once, measured by the server
  const others = layer.changed.filter((each) => each !== place.expert);
  layer.changed = others.length < layer.changed.length ? others : [...others, place.expert];
  said.textContent = `${run.label}: ${named(run, place)}. Measuring …`;
  send({ run: run.id, layer: layer.layer, expert: place.expert, on });
}

function wire(root, data, run, pane, send) {
  const id = run.id;
  const repaint = () => draw(pane, run, root.cursors[id]);
  const say = (place) => {
    root.querySelector(".said").textContent = `${run.label}: ${named(run, place)}.`;
  };
  pane.onclick = (event) => {
    const place = at(pane, run, event);
    if (!place) return;
    root.cursors[id] = place;
    toggle(root, data, run, place, send);
    repaint();
  };
  pane.onmousemove = (event) => {
    const place = at(pane, run, event);
    pane.title = place ? named(run, place) : "";
  };
  pane.onkeydown = (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const place = root.cursors[id] ?? { row: 0, expert: 0 };
    const flips = event.key === " " || event.key === "Enter";
    const next = flips ? place : moved(run, place, event.key);
    if (!next) return;
    event.preventDefault();
    event.stopPropagation();
    root.cursors[id] = next;
    if (flips) toggle(root, data, run, next, send);
    else say(next);
    repaint();
  };
  repaint();
  return repaint;
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".switches");
  const names = JSON.stringify(data.runs.map((run) => run.id));
  root.cursors ??= {};
  if (root.dataset.runs !== names) {
    root.dataset.runs = names;
    root.replaceChildren(...data.runs.map((run) => {
      const part = make("div");
      const head = make("div", "head");
      head.append(runName(run), make("span", "numbers"));
      const pane = Object.assign(make("div", "experts"), { tabIndex: 0 });
      pane.setAttribute("role", "application");
      pane.setAttribute("aria-roledescription", "grid of experts");
      pane.setAttribute("aria-label", `Experts of ${run.label}, a row a layer: arrow keys go to `
        + "one, space switches it on or off");
      pane.append(make("canvas"));
      part.append(head, pane);
      return part;
    }), Object.assign(make("div", "said"), { ariaLive: "polite" }));
  }
  root.querySelector(".said").textContent = HINT;
  const send = (switched) => setTriggerValue("switched", switched);
  const repaints = data.runs.map((run, i) => {
    root.children[i].querySelector(".numbers").textContent = run.numbers;
    return wire(root, data, run, root.children[i].querySelector(".experts"), send);
  });
  const observer = new ResizeObserver(() => repaints.forEach((repaint) => repaint()));
  observer.observe(root);
  return () => observer.disconnect();
}
