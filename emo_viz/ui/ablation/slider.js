const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 52, right: 22, top: 10, bottom: 12 };
const HEIGHT = 300;
const SEND_AFTER_MS = 300;
const STEP_MS = 1400;

function shape(tag, attributes, title) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (title) node.append(Object.assign(document.createElementNS(SVG, "title"), {}));
  if (title) node.lastChild.textContent = title;
  return node;
}

function scales(data, width) {
  const places = data.stops.map((stop) => stop.place);
  const [low, high] = [Math.log(Math.min(...places)), Math.log(Math.max(...places))];
  const span = high - low || 1;
  const right = Math.max(MARGIN.left + 50, width - MARGIN.right);
  const [least, most] = data.range;
  return {
    right,
    x: (place) => MARGIN.left + ((Math.log(place) - low) / span) * (right - MARGIN.left),
    place: (x) => Math.exp(low + ((x - MARGIN.left) / (right - MARGIN.left)) * span),
    y: (value) =>
      HEIGHT - MARGIN.bottom
      - ((value - least) / (most - least)) * (HEIGHT - MARGIN.bottom - MARGIN.top),
  };
}

function path(points, s) {
  return points.map(([place, value], i) => `${i ? "L" : "M"}${s.x(place)},${s.y(value)}`).join("");
}

function band(points, s) {
  const tops = points.map(([place, , , high]) => [place, high]);
  const lows = points.map(([place, , low]) => [place, low]).reverse();
  return path([...tops, ...lows], s) + "Z";
}

// A second mark beside the colour: circles for the first run, diamonds for the second.
function dot(run, x, y, size, open, title) {
  const paint = open
    ? { fill: "var(--st-background-color)", stroke: run.colour, "stroke-width": 2 }
    : { fill: run.colour };
  if (run.mark === "●") return shape("circle", { cx: x, cy: y, r: size, ...paint }, title);
  const d = size * 1.25;
  const corners = `${x - d},${y} ${x},${y - d} ${x + d},${y} ${x},${y + d}`;
  return shape("polygon", { points: corners, ...paint }, title);
}

function drawAxis(svg, data, s) {
  for (const [value, text] of data.ticks) {
    const y = s.y(value);
    svg.append(shape("line", { x1: MARGIN.left, x2: s.right, y1: y, y2: y, class: "grid" }));
    const label = shape("text", { x: MARGIN.left - 8, y: y + 4, "text-anchor": "end" });
    label.textContent = text;
    svg.append(label);
  }
}

function drawRun(svg, run, s) {
  if (run.random.length) {
    svg.append(shape("path", { d: band(run.random, s), class: "drawn" }));
    const d = path(run.random, s);
    svg.append(shape("path", { d, class: "line", stroke: run.colour, "stroke-dasharray": "6 5" }));
  }
  if (run.points.length) {
    svg.append(shape("path", { d: band(run.points, s), fill: run.colour, opacity: 0.2 }));
    const d = path(run.points, s);
    svg.append(shape("path", { d, class: "line main", stroke: run.colour }));
  }
  if (run.document.length) {
    const d = path(run.document, s);
    svg.append(shape("path", { d, class: "line own", stroke: run.colour }));
  }
  for (const [place, value, , , title] of run.points) {
    svg.append(dot(run, s.x(place), s.y(value), 4.5, false, title));
  }
}

function draw(root, data) {
  const chart = root.querySelector(".chart");
  const width = root.clientWidth;
  if (!width) return;
  const s = (root.scales = scales(data, width));
  const svg = shape("svg", { width, height: HEIGHT, role: "img", "aria-label": data.alt });
  drawAxis(svg, data, s);
  for (const run of data.runs) drawRun(svg, run, s);
  svg.append(shape("line", { y1: 0, y2: HEIGHT, class: "here" }));
  svg.append(shape("g", { class: "shown" }));
  chart.replaceChildren(svg);
  drawTrack(root, data, s);
}

function drawTrack(root, data, s) {
  const track = root.querySelector(".track");
  const rail = make("div", "rail");
  rail.style.left = `${MARGIN.left}px`;
  rail.style.width = `${s.right - MARGIN.left}px`;
  const marks = data.stops.filter((stop) => stop.notch).flatMap((stop) => {
    const [tick, label] = [make("div", "notch"), make("div", "label", stop.label)];
    tick.style.left = label.style.left = `${s.x(stop.place)}px`;
    return [tick, label];
  });
  track.replaceChildren(rail, ...thin(marks), make("div", "thumb"));
}

// Labels that would touch the one before them are left out; their notches stay.
function thin(marks) {
  let last = -Infinity;
  return marks.filter((node) => {
    if (node.className !== "label") return true;
    const x = parseFloat(node.style.left);
    if (x - last < 26) return false;
    last = x;
    return true;
  });
}

function placeOf(data, keep) {
  return data.stops.find((stop) => stop.keep === keep)?.place ?? keep * data.per_expert;
}

function paint(root, data, keep, x) {
  const s = root.scales;
  root.dataset.shows = JSON.stringify({ k: String(keep) });
  if (!s) return;
  const at = s.x(placeOf(data, keep));
  root.querySelector(".thumb").style.left = `${x ?? at}px`;
  const here = root.querySelector(".here");
  here.setAttribute("x1", at);
  here.setAttribute("x2", at);
  const shown = data.runs.flatMap((run) => {
    const found = run.document.find((point) => point[2] === keep);
    return found ? [dot(run, at, s.y(found[1]), 6, true, `${run.label}, this document`)] : [];
  });
  root.querySelector(".shown").replaceChildren(...shown);
  const track = root.querySelector(".track");
  track.setAttribute("aria-valuenow", keep);
  track.setAttribute("aria-valuetext", data.said[keep] ?? `${keep} experts`);
  paintFacts(root, data, keep);
}

function paintFacts(root, data, keep) {
  const body = root.querySelector("tbody");
  const rows = data.facts[keep];
  if (!rows || body.dataset.keep === String(keep)) return;
  body.dataset.keep = keep;
  body.replaceChildren(...rows.map((cells) => {
    const row = make("tr");
    row.append(...cells.map((text, i) => make(i ? "td" : "th", "", text)));
    return row;
  }));
}

function nearest(data, place) {
  const distance = (stop) => Math.abs(Math.log(stop.place / place));
  return data.stops
    .filter((stop) => stop.notch)
    .reduce((best, next) => (distance(next) < distance(best) ? next : best)).keep;
}

function beside(data, keep, step) {
  const notches = data.stops.filter((stop) => stop.notch).map((stop) => stop.keep);
  const beyond = notches.filter((each) => (step > 0 ? each > keep : each < keep));
  if (!beyond.length) return keep;
  return step > 0 ? Math.min(...beyond) : Math.max(...beyond);
}

function moved(data, keep, event) {
  const keeps = data.stops.map((stop) => stop.keep);
  const [least, most] = [Math.min(...keeps), Math.max(...keeps)];
  const one = (step) =>
    event.shiftKey ? Math.min(most, Math.max(least, keep + step)) : beside(data, keep, step);
  const keys = {
    ArrowRight: () => one(1), ArrowUp: () => one(1), PageUp: () => beside(data, keep, 1),
    ArrowLeft: () => one(-1), ArrowDown: () => one(-1), PageDown: () => beside(data, keep, -1),
    Home: () => least, End: () => most,
  };
  return keys[event.key]?.();
}

function legend(root, data) {
  const items = data.runs.map(runName);
  const entry = (name, text) => {
    const item = make("span", "entry");
    item.append(make("span", `sample ${name}`), text);
    return item;
  };
  if (data.runs.some((run) => run.points.length)) items.push(entry("solid", data.of));
  if (data.runs.some((run) => run.document.length)) items.push(entry("dotted", "this document"));
  if (data.runs.some((run) => run.random.length)) items.push(entry("dashed", "random subsets"));
  root.querySelector(".legend").replaceChildren(...items);
}

function play(root, data, go, send) {
  const button = root.querySelector(".play");
  const notches = data.stops.filter((stop) => stop.notch).map((stop) => stop.keep).reverse();
  const name = `Play from all experts to ${notches.at(-1)}`;
  const stop = () => {
    clearInterval(root.playing);
    root.playing = null;
    button.textContent = `▶ ${name}`;
  };
  root.stop = () => root.playing && stop();
  if (!root.playing) stop();
  button.onclick = () => {
    if (root.playing) {
      stop();
      send(bus.keep, 0);
      return;
    }
    let at = 0;
    go(notches[0]);
    root.prepare();
    button.textContent = "■ Stop";
    root.playing = setInterval(() => {
      at += 1;
      go(notches[at]);
      if (at < notches.length - 1) return;
      stop();
      send(notches[at], 0);
    }, STEP_MS);
  };
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".cut");
  const track = root.querySelector(".track");
  root.n = Math.max(root.n ?? 0, data.heard);
  const busy = () => root.dragging || root.playing || data.heard < root.n;
  root.querySelector(".y-title").textContent = data.y_title;
  root.querySelector(".x-title").textContent = data.x_title;
  root.querySelector("table").hidden = !Object.keys(data.facts).length;
  root.querySelector("tbody").dataset.keep = "";
  root.prepare = () => setTriggerValue("played", { on: true });
  const keeps = data.stops.map((stop) => stop.keep);
  track.setAttribute("aria-valuemin", Math.min(...keeps));
  track.setAttribute("aria-valuemax", Math.max(...keeps));

  const go = (keep, x) => {
    root.x = x;
    announce(keep);
  };
  const send = (keep, wait) => {
    const n = (root.n += 1);
    clearTimeout(root.pending);
    root.pending = setTimeout(() => setTriggerValue("moved", { keep, n }), wait);
  };
  const unfollow = follow(root, (keep) => paint(root, data, keep, root.x));
  legend(root, data);
  draw(root, data);
  play(root, data, go, send);
  if (!busy()) go(data.position);
  else paint(root, data, bus.keep, root.x);

  root.observer?.disconnect();
  root.observer = new ResizeObserver(() => {
    draw(root, data);
    paint(root, data, bus.keep);
  });
  root.observer.observe(root);

  const drag = (event) => {
    const left = root.getBoundingClientRect().left;
    const s = root.scales;
    const x = Math.min(s.right, Math.max(MARGIN.left, event.clientX - left));
    go(nearest(data, s.place(x)), x);
  };
  for (const area of [track, root.querySelector(".chart")]) {
    area.onpointerdown = (event) => {
      if (event.button) return;
      root.stop();
      root.dragging = true;
      area.setPointerCapture(event.pointerId);
      track.focus({ preventScroll: true });
      event.preventDefault();
      drag(event);
    };
    area.onpointermove = (event) => root.dragging && drag(event);
    area.onpointerup = area.onpointercancel = () => {
      if (!root.dragging) return;
      root.dragging = false;
      go(bus.keep);
      send(bus.keep, 0);
    };
  }
  track.onkeydown = (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const keep = moved(data, bus.keep, event);
    if (keep === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    root.stop();
    go(keep);
    send(keep, SEND_AFTER_MS);
  };
  return () => {
    unfollow();
    root.observer.disconnect();
    clearInterval(root.playing);
  };
}
