// The maps themselves: what the mouse, the keyboard and the legend do with them.
const NEAR = 12, STILL = 4, WIDEST = 40;

const unpack = (text) => new Response(
  new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
const bits = (text, count) => {
  const packed = bytes(text);
  return Uint8Array.from({ length: count }, (_, i) => (packed[i >> 3] >> (7 - (i & 7))) & 1);
};
function pack(flags) {
  const packed = new Uint8Array(Math.ceil(flags.length / 8));
  flags.forEach((flag, i) => { if (flag) packed[i >> 3] |= 128 >> (i & 7); });
  return btoa(String.fromCharCode(...packed));
}

function decode(one) {
  const [x, y] = [shorts(one.x), shorts(one.y)];
  const panel = { ...one, group: shorts(one.group), view: { zoom: 1, x: 0, y: 0 } };
  panel.x = Float32Array.from(x, (step) => one.low[0] + step * one.unit);
  panel.y = Float32Array.from(y, (step) => one.low[1] + step * one.unit);
  panel.box = { low: [], high: [] };
  for (const values of [panel.x, panel.y]) {
    panel.box.low.push(values.reduce((a, b) => Math.min(a, b), Infinity));
    panel.box.high.push(values.reduce((a, b) => Math.max(a, b), -Infinity));
  }
  const below = (row) => Number(!one.groups[panel.group[row]].other);
  panel.order = [...x.keys()].sort((a, b) => below(a) - below(b));
  panel.own = one.own && { ...one.own, codes: shorts(one.own.codes) };
  return panel;
}

function build(host, root) {
  root.replaceChildren();
  root.style.setProperty("--above", host.data.above);
  const grid = make("div", "panels");
  root.append(grid);
  host.panels.forEach((panel, i) => {
    grid.append(frame(host, panel, i));
    if (i && host.data.one_legend) return;
    panel.legend = legend(host, panel.groups);
    (host.data.one_legend ? root : panel.node).append(panel.legend);
  });
  host.heard = make("div", "heard");
  host.heard.setAttribute("aria-live", "polite");
  root.append(host.heard);
}

function frame(host, panel, index) {
  panel.node = make("figure", "panel");
  const head = make("div", "head"), buttons = make("div", "buttons");
  const name = make("span", "name", panel.name);
  name.style.setProperty("--run", panel.colour);
  panel.what = make("span", "what");
  head.append(name, panel.what, buttons);
  const zoom = (by) => () => zoomed(host, panel, by);
  button(buttons, "+", "Zoom in", zoom(1.5));
  button(buttons, "−", "Zoom out", zoom(1 / 1.5));
  button(buttons, "Fit", "Show the whole map", () => fit(host, panel));
  if (index === 0) button(buttons, "Save image", "Save the maps and their legend as an image",
    () => save(host));
  fingerDraws(buttons, panel);
  panel.plot = make("div", "plot");
  panel.plot.tabIndex = 0;
  panel.plot.setAttribute("role", "application");
  panel.plot.setAttribute("aria-label", `${panel.alt}. ${host.data.keys}`);
  panel.base = make("canvas", "base");
  panel.over = make("canvas", "over");
  panel.names = make("div", "labels");
  panel.tip = make("div", "tip");
  panel.tip.hidden = true;
  panel.plot.append(panel.base, panel.names, panel.over, panel.tip);
  panel.over.style.pointerEvents = "none";
  listen(host, panel);
  panel.node.append(head, panel.plot);
  return panel.node;
}

function button(place, text, name, act) {
  const one = make("button", "", text);
  one.type = "button";
  one.title = name;
  one.setAttribute("aria-label", name);
  one.onclick = act;
  place.append(one);
}

// A finger scrolls the page, unless it is asked to draw.
function fingerDraws(buttons, panel) {
  button(buttons, "Lasso", "Draw around points with a finger", () => {
    made.setAttribute("aria-pressed", String(panel.plot.classList.toggle("by-finger")));
  });
  const made = buttons.lastChild;
  made.className = "lasso";
  made.setAttribute("aria-pressed", "false");
}

function legend(host, groups) {
  const list = make("div", "legend"), names = make("div", "names");
  list.append(names);
  list.setAttribute("role", "group");
  list.setAttribute("aria-label", `Groups: select the ${host.data.items} of one`);
  for (const group of groups) {
    const one = make("button", "");
    one.type = "button";
    const sign = make("span", "sign", group.sign);
    sign.setAttribute("aria-hidden", "true");
    sign.style.setProperty("--mark", group.colour);
    const size = make("span", "size", `(${group.size.toLocaleString("en")})`);
    one.append(sign, ` ${group.name.length > WIDEST ? `${group.name.slice(0, WIDEST)}…` : group.name} `, size);
    one.title = `Select ${group.name}; with Shift, add it`;
    one.onmouseenter = one.onfocus = () => hoverGroup(host, group.name);
    one.onmouseleave = one.onblur = () => hoverGroup(host, null);
    one.onclick = (event) => chooseGroup(host, groups, group.name, event.shiftKey);
    one.dataset.group = group.name;
    names.append(one);
  }
  foldable(list, names, groups.length);
  return list;
}

// A legend longer than its room fades at its end, scrolls, and opens whole with a button.
function foldable(list, names, count) {
  button(list, `All ${count}`, `Show all ${count} groups`, () => list.classList.toggle("whole"));
  list.lastChild.className = "all";
  const measure = () => {
    const below = names.scrollHeight - names.clientHeight - names.scrollTop;
    list.classList.toggle("long", names.scrollHeight > names.clientHeight + 2);
    list.classList.toggle("more", below > 2);
    list.lastChild.textContent = list.classList.contains("whole") ? "Fewer" : `All ${count}`;
  };
  names.onscroll = measure;
  new ResizeObserver(measure).observe(names);
}

function ownerOf(host, groups) {
  return host.panels.find((panel) => panel.groups === groups) ?? host.panels[0];
}

function chooseGroup(host, groups, name, more) {
  const panel = ownerOf(host, groups);
  const at = panel.groups.findIndex((group) => group.name === name);
  const rows = [...panel.group.keys()].filter((row) => panel.group[row] === at);
  choose(host, rows, more, true);
}

function choose(host, rows, more, region) {
  const { state } = host;
  const chosen = more && state.selected ? Uint8Array.from(state.selected) : new Uint8Array(host.count);
  rows.forEach((row) => { chosen[row] = 1; });
  state.selected = rows.length || (more && state.count) ? chosen : null;
  state.count = chosen.reduce((sum, flag) => sum + flag, 0);
  state.n += 1;
  host.send({ rows: pack(chosen), region, n: state.n });
  sayCount(host);
  paintAll(host);
}

function sayCount(host) {
  const { state: { count }, data: { items } } = host;
  const what = count === 1 ? items.replace(/s$/, "") : items;
  host.heard.textContent = `${count ? count.toLocaleString("en") : "No"} ${what} selected`;
}

function paintAll(host) {
  host.panels.forEach((panel) => paint(host, panel));
}

function paint(host, panel) {
  const { clientWidth: width, clientHeight: height } = panel.plot, scale = devicePixelRatio || 1;
  if (!width) return;
  for (const canvas of [panel.base, panel.over]) {
    [canvas.width, canvas.height] = [width * scale, height * scale];
  }
  const c = panel.base.getContext("2d");
  c.scale(scale, scale);
  Object.assign(panel, place(panel, width, height));
  paintPoints(c, panel, panel.spots, host.state, host.data.size, scale, host.group);
  const { laid, left } = layLabels(c, host, panel, width, height, larger());
  paintLeaders(c, laid, getComputedStyle(host.root).color);
  showLabels(host, panel, laid);
  panel.what.textContent = `${host.data.method} of routing${leftOut(left)}`;
  ring(host, panel);
  for (const one of panel.legend?.querySelectorAll("[data-group]") ?? []) {
    one.classList.toggle("faded", isFaded(host, panel, { is_group: true, name: one.dataset.group }));
  }
}

function showLabels(host, panel, laid) {
  panel.names.replaceChildren(...laid.map(({ label, text, left, top, faded }) => {
    const node = make("span", "label", text);
    [node.style.left, node.style.top] = [`${left}px`, `${top}px`];
    const named = label.name;
    node.classList.toggle("faded", faded);
    if (!label.is_group) return node;
    node.classList.toggle("bright", !!host.group?.names.has(named));
    node.onpointerenter = () => hoverGroup(host, named);
    node.onpointerleave = () => hoverGroup(host, null);
    node.dataset.group = named;
    return node;
  }));
}

function hoverGroup(host, name) {
  const now = host.group ? [...host.group.names][0] : null;
  if (now === name) return;
  host.group = name === null ? null : { names: new Set([name]) };
  host.frame ??= requestAnimationFrame(() => { host.frame = null; paintAll(host); });
}

// The point under the mouse, in every map, and what is drawn around it.
function ring(host, panel, path = null) {
  const c = panel.over.getContext("2d"), scale = devicePixelRatio || 1;
  c.setTransform(scale, 0, 0, scale, 0, 0);
  c.clearRect(0, 0, panel.over.width, panel.over.height);
  c.strokeStyle = host.data.selection_colour;
  c.lineWidth = 2;
  if (path) {
    c.beginPath();
    path.forEach(([x, y], i) => (i ? c.lineTo(x, y) : c.moveTo(x, y)));
    c.closePath();
    c.stroke();
    c.globalAlpha = 0.12;
    c.fillStyle = host.data.selection_colour;
    c.fill();
    c.globalAlpha = 1;
  }
  const rows = host.state.count && host.state.count <= 3
    ? [...host.state.selected.keys()].filter((row) => host.state.selected[row]) : [];
  if (host.row !== null) rows.push(host.row);
  for (const row of rows) {
    c.beginPath();
    c.arc(panel.spots[2 * row], panel.spots[2 * row + 1], host.data.size + 2, 0, 2 * Math.PI);
    c.stroke();
  }
}

function point(host, panel, row) {
  host.row = row;
  for (const each of host.panels) {
    if (each.spots) ring(host, each);
    each.tip.hidden = each !== panel || row === null;
  }
  if (row !== null) fillTip(host, panel, row);
}

function linesOf(host, panel, row) {
  const facts = host.facts.map(({ name, codes, names }) => [name, names[codes[row]]]);
  if (panel.own) facts.push([panel.own.name, panel.own.names[panel.own.codes[row]]]);
  return { first: facts[0]?.[1] ?? "", rest: facts.slice(1), text: host.texts?.texts[row] ?? "",
    id: host.texts?.ids[row] ?? "" };
}

function fillTip(host, panel, row) {
  const { first, rest, text, id } = linesOf(host, panel, row), { tip } = panel;
  const lines = rest.map(([name, value]) => make("div", "more", `${name}: ${value}`));
  tip.replaceChildren(make("b", "", first), make("div", "", text), ...lines,
    make("div", "more", id));
  const [x, y] = [panel.spots[2 * row], panel.spots[2 * row + 1]];
  const left = x + 12 + tip.offsetWidth < panel.plot.clientWidth ? x + 12 : x - 12 - tip.offsetWidth;
  const top = Math.min(Math.max(4, y + 10), panel.plot.clientHeight - tip.offsetHeight - 4);
  [tip.style.left, tip.style.top] = [`${Math.max(4, left)}px`, `${Math.max(4, top)}px`];
}

function nearest(panel, x, y, least = NEAR * NEAR) {
  let best = null;
  for (let i = 0; i < panel.spots.length / 2; i += 1) {
    const away = (panel.spots[2 * i] - x) ** 2 + (panel.spots[2 * i + 1] - y) ** 2;
    if (away < least) [best, least] = [i, away];
  }
  return best;
}

function inside(panel, path) {
  return [...panel.x.keys()].filter(
    (row) => inPolygon(path, panel.spots[2 * row], panel.spots[2 * row + 1]));
}

const where = (panel, event) => {
  const box = panel.plot.getBoundingClientRect();
  return [event.clientX - box.left - panel.plot.clientLeft, event.clientY - box.top - panel.plot.clientTop];
};

function zoomed(host, panel, by, around = null) {
  const { clientWidth: width, clientHeight: height } = panel.plot, { view } = panel;
  const zoom = Math.min(64, Math.max(1, view.zoom * by));
  const [x, y] = around ?? [width / 2, height / 2];
  const before = panel.fit, after = (before * zoom) / view.zoom;
  view.x += (x - width / 2) * (1 / before - 1 / after);
  view.y -= (y - height / 2) * (1 / before - 1 / after);
  view.zoom = zoom;
  if (zoom === 1) [view.x, view.y] = [0, 0];
  paint(host, panel);
}

function fit(host, panel) {
  panel.view = { zoom: 1, x: 0, y: 0 };
  paint(host, panel);
}

function pan(host, panel, dx, dy) {
  panel.view.x -= dx / panel.fit;
  panel.view.y += dy / panel.fit;
  paint(host, panel);
}

function listen(host, panel) {
  const { plot } = panel;
  let path = null, moving = null, tapped = false, named;
  plot.onpointerdown = (event) => {
    // Told apart here: older Safari's click does not say of what it is.
    tapped = event.pointerType === "touch" && !plot.classList.contains("by-finger");
    if (event.button > 1 || tapped) return;
    named = event.target.dataset.group;  // a lasso may begin on a name; a click there is its group
    plot.setPointerCapture(event.pointerId);
    plot.classList.remove("by-keys");
    if (event.shiftKey || event.button === 1) moving = where(panel, event);
    else path = [where(panel, event)];
    plot.focus({ preventScroll: true });
    event.preventDefault();
  };
  plot.onpointermove = (event) => {
    const [x, y] = where(panel, event);
    if (moving) {
      pan(host, panel, x - moving[0], y - moving[1]);
      moving = [x, y];
    } else if (path) {
      path.push([x, y]);
      if (span(path) > STILL) ring(host, panel, path);
    } else if (panel.spots) {
      point(host, panel, event.target.dataset.group === undefined ? nearest(panel, x, y) : null);
    }
  };
  plot.onpointerup = (event) => {
    const drawn = path;
    path = moving = null;
    if (drawn && span(drawn) > STILL) choose(host, inside(panel, drawn), false, true);
    else if (drawn && named !== undefined) chooseGroup(host, panel.groups, named, false);
    else if (drawn) clicked(host, panel, event);
  };
  plot.onpointercancel = () => {
    path = moving = null;
    point(host, panel, null);
  };
  plot.onclick = (event) => { if (tapped) clicked(host, panel, event); };
  plot.onpointerleave = (event) => { if (!path && leaves(plot, event)) point(host, panel, null); };
  plot.ondblclick = () => fit(host, panel);
  plot.addEventListener("wheel", (event) => {
    // The page scrolls past a map that nobody works on.
    if (!event.ctrlKey && plot.getRootNode().activeElement !== plot) return;
    event.preventDefault();
    zoomed(host, panel, Math.exp(-event.deltaY / 400), where(panel, event));
  }, { passive: false });
  plot.onfocus = () => plot.classList.toggle("by-keys", !path && !moving);
  plot.onkeydown = (event) => pressed(host, panel, event);
  plot.onblur = () => point(host, panel, null);
}

const span = (path) => Math.max(...[0, 1].map((axis) => {
  const values = path.map((spot) => spot[axis]);
  return Math.max(...values) - Math.min(...values);
}));

function clicked(host, panel, event) {
  const row = nearest(panel, ...where(panel, event));
  if (row !== null) choose(host, [row], false, false);
  else if (host.state.count) choose(host, [], false, false);
}

function pressed(host, panel, event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const acts = {
    "+": () => zoomed(host, panel, 1.5), "=": () => zoomed(host, panel, 1.5),
    "-": () => zoomed(host, panel, 1 / 1.5), 0: () => fit(host, panel),
    Enter: () => host.row !== null && choose(host, [host.row], event.shiftKey, false),
  };
  for (const key of ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"]) {
    acts[key] = () => walk(host, panel, key);
  }
  if (!(event.key in acts)) return;
  acts[event.key]();
  event.preventDefault();
  event.stopPropagation();
}

function walk(host, panel, key) {
  const { clientWidth: wide, clientHeight: deep } = panel.plot;
  const row = host.row === null
    ? nearest(panel, wide / 2, deep / 2, Infinity) : beyond(panel.spots, host.row, key);
  point(host, panel, row);
  const { first, rest, text } = linesOf(host, panel, row);
  host.heard.textContent = [first, text, ...rest.map((each) => each.join(": "))].join(". ");
}

function save(host) {
  const style = getComputedStyle(host.root);
  const colours = { back: style.getPropertyValue("--st-background-color") || "#fff",
    text: style.getPropertyValue("--st-text-color") || "#000",
    line: style.getPropertyValue("--st-border-color") || "#888" };
  const link = document.createElement("a");
  link.download = host.data.file;
  link.href = picture(host, colours).toDataURL("image/png");
  link.click();
}

const nothingTold = () => ({ n: 0, selected: null, count: 0, highlight: null, said: "" });

// What the server says is selected and highlighted; an answer to an earlier gesture is no news.
function follow(host) {
  const told = document.emoVizMaps?.[host.data.channel];
  if (!told || told.count !== host.count || told.n < host.state.n) return;
  const before = host.state.count;
  const selected = told.selected ? bits(told.selected, host.count) : null;
  host.state = { n: told.n, selected, count: selected?.reduce((sum, flag) => sum + flag, 0) ?? 0,
    highlight: told.highlight ? bits(told.highlight, host.count) : null, said: told.said };
  if (host.state.count !== before) sayCount(host); // cleared by a button or key of the page
  if (host.panels[0].plot.isConnected) paintAll(host);
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".maps");
  const host = root.emoVizHost ?? { state: nothingTold() };
  root.emoVizHost = host;
  host.send = (event) => setTriggerValue("selected", event);
  if (host.digest !== data.digest) {
    const views = host.data?.places === data.places ? host.panels.map((panel) => panel.view) : null;
    const keep = host.data?.channel === data.channel && host.count === data.count;
    if (!keep) host.state = nothingTold();
    Object.assign(host, { root, data, digest: data.digest, count: data.count, row: null, group: null });
    host.panels = data.panels.map(decode);
    if (views?.length === host.panels.length) {
      host.panels.forEach((panel, i) => { panel.view = views[i]; });
    }
    host.facts = data.facts.map((fact) => ({ ...fact, codes: shorts(fact.codes),
      groups: fact.names.map((name) => ({ name })) }));
    unpack(data.texts).then((texts) => { host.texts = texts; });
    build(host, root);
  }
  follow(host);
  const onState = () => follow(host);
  document.addEventListener("emo-viz-maps", onState);
  const sized = new ResizeObserver(() => paintAll(host));
  host.panels.forEach((panel) => sized.observe(panel.plot));
  return () => {
    document.removeEventListener("emo-viz-maps", onState);
    sized.disconnect();
  };
}
