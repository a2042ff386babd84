// What the heatmap shows and where: decoding, places, painting. heatmap.js adds hands to it.
const LOWEST = 260, BELOW = 8; // pixels: of the picture, and between its foot and the window's edge
const ROW = 15, SHORTEST = 9, HEAD = 22, AXIS = 34, FEW = 16, GAP = 16, MAP = 40, FAINTEST = 0.32;

function decoded(data) {
  data.byExpert = data.columns === "expert";
  const sides = data.sides.map((side) => ({
    ...side,
    colours: colours(data, side.scale),
    layers: side.layers.map((layer) => {
      const order = shorts(layer.order), place = new Uint16Array(order.length);
      order.forEach((expert, column) => (place[expert] = column));
      const ids = layer.wide ? shorts(layer.ids) : bytes(layer.ids);
      return { ...layer, ids, levels: bytes(layer.levels), order, place };
    }),
  }));
  const widest = Math.max(...sides.flatMap((side) => side.layers.map((one) => one.order.length)));
  const many = sides[0].layers.length > 1;
  return { ...data, sides, widest, many, count: data.tokens.length };
}

// In even steps from the lowest value to the highest.
function colours(data, scale) {
  const stops = scale.map((stop) => stop.match(/[\d.]+/g).map(Number));
  return Array.from({ length: 256 }, (_, level) => {
    const low = data.differences || !data.byExpert ? 0 : FAINTEST;
    const share = data.differences ? Math.max(0, level - 1) / 254 : level / 255;
    const at = (low + (1 - low) * share) * (stops.length - 1);
    const from = Math.min(Math.floor(at), stops.length - 2);
    const mixed = stops[from].map((part, i) => part + (stops[from + 1][i] - part) * (at - from));
    return `rgba(${mixed.slice(0, 3).map(Math.round).join(",")},${mixed[3].toFixed(3)})`;
  });
}

// A panel for each side and layer: one layer side by side, several in lines, the sides below each
// other in every line.
function places(shown, width, height, whole) {
  const { many } = shown, large = larger(), head = HEAD * large;
  const gutter = large * (width < 520 || (many && whole) ? 74 : 112), map = whole ? 0 : MAP;
  const inner = width - gutter - map;
  const layers = shown.sides[0].layers.length, sides = shown.sides.length;
  const most = Math.max(1, Math.floor(inner / 110)), groups = Math.ceil(layers / most);
  const inLine = many ? Math.ceil(layers / groups) : sides, lines = many ? groups * sides : 1;
  const gap = many ? 8 : GAP, axis = (many ? FEW : AXIS) * large;
  const w = (inner - gap * (inLine - 1)) / inLine, h = height / lines - head - axis;
  const panels = shown.sides.flatMap((side, s) => side.layers.map((layer, l) => {
    const column = many ? l % inLine : s;
    const line = many ? Math.floor(l / inLine) * sides + s : 0;
    const x = gutter + column * (w + gap), y = head + line * (h + head + axis);
    return { side, layer, s, l, x, y, w, h, first: column === 0 };
  }));
  const rail = { x: width - MAP + 12, y: head, w: MAP - 14, h: height - head - axis };
  return { many, large, gutter, panels, rail: whole ? null : rail };
}

const rowAt = (panel, view, y) => view.top + ((y - panel.y) / panel.h) * (view.bottom - view.top);
const columnAt = (panel, view, x) =>
  view.left + ((x - panel.x) / panel.w) * (view.right - view.left);
const yOf = (panel, view, row) => panel.y + ((row - view.top) / (view.bottom - view.top)) * panel.h;
const xOf = (panel, view, column) =>
  panel.x + ((column - view.left) / (view.right - view.left)) * panel.w;

function cells(context, shown, panel, view, ratio) {
  const { ids, levels, slots, place } = panel.layer;
  const last = Math.min(shown.count, Math.ceil(view.bottom));
  for (let row = Math.max(0, Math.floor(view.top)); row < last; row += 1) {
    const y = Math.round(yOf(panel, view, row) * ratio);
    const h = Math.max(1, Math.round(yOf(panel, view, row + 1) * ratio) - y);
    for (let slot = row * slots; slot < (row + 1) * slots; slot += 1) {
      if (!levels[slot]) continue;
      const column = place[ids[slot]];
      if (column + 1 <= view.left || column >= view.right) continue;
      const x = Math.round(xOf(panel, view, column) * ratio);
      const w = Math.max(1, Math.round(xOf(panel, view, column + 1) * ratio) - x);
      context.fillStyle = panel.side.colours[levels[slot]];
      // Below zero a cell has a slit, so that the two ends differ without their colours too.
      if (shown.differences && levels[slot] < 128 && h > 5) {
        context.fillRect(x, y, w, Math.floor(h / 3));
        context.fillRect(x, y + h - Math.floor(h / 3), w, Math.floor(h / 3));
      } else context.fillRect(x, y, w, h);
    }
  }
}

// Whether the part that is shown has no cell: what the experts in sight are not used there.
function isEmpty(shown, panel, view) {
  const { ids, levels, slots, place } = panel.layer;
  const last = Math.min(shown.count, Math.ceil(view.bottom)) * slots;
  for (let slot = Math.max(0, Math.floor(view.top)) * slots; slot < last; slot += 1) {
    const column = place[ids[slot]];
    if (levels[slot] && column + 1 > view.left && column < view.right) return false;
  }
  return true;
}

function clipped(context, box, ratio, paint) {
  context.save();
  context.beginPath();
  context.rect(box.x * ratio, box.y * ratio, box.w * ratio, box.h * ratio);
  context.clip();
  paint();
  context.restore();
}

function shortened(context, text, most) {
  if (context.measureText(text).width <= most) return text;
  const letters = [...text];
  while (letters.length > 1 && context.measureText(`${letters.join("")}…`).width > most) letters.pop();
  return `${letters.join("")}…`;
}

function labels(context, shown, at, view, theme) {
  context.textAlign = "right";
  context.textBaseline = "middle";
  context.fillStyle = theme.text;
  for (const panel of at.panels.filter((one) => one.first)) {
    const step = panel.h / (view.bottom - view.top);
    const usual = 12 * at.large, some = step < SHORTEST * at.large; // not every row has room
    const size = some ? usual : Math.min(usual, step);
    const stride = some ? Math.ceil((size + 1) / step) : 1;
    context.font = `${size}px ${theme.font}`;
    const from = Math.ceil(Math.max(0, view.top - 0.5) / stride) * stride;
    for (let row = from; row < Math.min(shown.count, view.bottom - 0.5); row += stride) {
      const number = stride > 1 ? `${row + 1}  ` : "";
      const text = shortened(context, `${number}${shown.tokens[row]}`, at.gutter - 12);
      context.fillText(text, at.gutter - 8, yOf(panel, view, row + 0.5));
    }
  }
}

// What stands above a panel; short: "L3" for "layer 3".
function headOf(shown, at, { side, layer, first }, short) {
  if (!shown.byExpert) return side.label;
  return `${at.many && !first ? "" : `${side.label}, `}${short ? "L" : "layer "}${layer.number}`;
}

function heads(context, shown, at, view, theme) {
  context.textAlign = "left";
  const font = `600 ${(at.many ? 12 : 14) * at.large}px ${theme.font}`;
  context.font = font;
  // One form for all of a picture.
  const short = at.panels.some((panel) =>
    context.measureText(headOf(shown, at, panel, false)).width > panel.w - 14);
  for (const panel of at.panels) {
    const dot = panel.x + 5, middle = panel.y - 11 * at.large;
    context.fillStyle = panel.side.colour;
    context.fillRect(dot - 4, middle - 4, 8, 8);
    context.font = font;
    const said = shortened(context, headOf(shown, at, panel, short), panel.w - 14);
    context.fillStyle = theme.text;
    context.fillText(said, panel.x + 14, middle);
    ticks(context, panel, view, theme, at);
  }
}

const nameOf = (layer, expert) => layer.names[expert] ?? String(expert);

// Of many pictures few ids, and what they are where the tokens stand.
function ticks(context, panel, view, theme, { large, many, gutter }) {
  const widest = large * (panel.layer.names.length ? 54 : 26); // pixels of a label
  const step = panel.w / (view.right - view.left), stride = Math.max(1, Math.ceil(widest / step));
  context.font = `${11 * large}px ${theme.font}`;
  context.textAlign = "center";
  context.fillStyle = theme.faint;
  const order = panel.layer.order, end = Math.min(order.length, Math.ceil(view.right));
  for (let column = Math.ceil(view.left); column < end; column += 1) {
    const x = xOf(panel, view, column + 0.5);
    if (column % stride || x > panel.x + panel.w) continue;
    context.fillText(nameOf(panel.layer, order[column]), x, panel.y + panel.h + 10 * large);
  }
  if (many) {
    context.textAlign = "right";
    if (panel.first) context.fillText("expert", gutter - 12, panel.y + panel.h + 10 * large);
  } else {
    context.fillText(panel.layer.axis, panel.x + panel.w / 2, panel.y + panel.h + 25 * large);
  }
  context.textAlign = "left";
}

function rail(context, shown, at, view, theme, ratio) {
  const { x, y, w, h } = at.rail, all = { top: 0, bottom: shown.count, left: 0, right: shown.widest };
  const each = w / shown.sides.length;
  shown.sides.forEach((side, s) => {
    const box = { side, layer: side.layers[0], x: x + s * each, y, w: each - 1, h };
    context.fillStyle = theme.panel;
    context.fillRect(box.x * ratio, box.y * ratio, box.w * ratio, box.h * ratio);
    clipped(context, box, ratio, () => cells(context, shown, box, all, ratio));
  });
  const [top, bottom] = [view.top, view.bottom].map((row) => y + (row / shown.count) * h);
  context.lineWidth = 1.5 * ratio;
  context.strokeStyle = theme.text;
  context.strokeRect((x - 2) * ratio, top * ratio, (w + 3) * ratio, (bottom - top) * ratio);
}

// Paints a canvas; who saves its picture paints it again, with a pen for a drawing.
function onCanvas(canvas, paint) {
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  paint(context, window.devicePixelRatio || 1);
  canvas.emoVizPaint = paint;
}

function picture(context, ratio, shown, at, view, theme) {
  for (const panel of at.panels) {
    const own = (panel.w * (Math.min(panel.layer.order.length, view.right) - view.left))
      / (view.right - view.left);
    context.fillStyle = theme.panel;
    context.fillRect(panel.x * ratio, panel.y * ratio, Math.max(0, own) * ratio, panel.h * ratio);
    clipped(context, panel, ratio, () => cells(context, shown, panel, view, ratio));
  }
  if (at.rail) rail(context, shown, at, view, theme, ratio);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  labels(context, shown, at, view, theme);
  heads(context, shown, at, view, theme);
}

function band(context, panel, view, row, stroke, fill) {
  const y = Math.max(panel.y, yOf(panel, view, row));
  const below = Math.min(panel.y + panel.h, Math.max(yOf(panel, view, row + 1), y + 2));
  if (below <= y) return;
  context.fillStyle = fill;
  context.fillRect(panel.x, y, panel.w, below - y);
  context.strokeStyle = stroke;
  context.strokeRect(panel.x + 0.5, y + 0.5, panel.w - 1, Math.max(1, below - y - 1));
}

function pole(context, panel, view, column, stroke) {
  const x = Math.max(panel.x, xOf(panel, view, column));
  const right = Math.min(panel.x + panel.w, xOf(panel, view, column + 1));
  if (right <= x) return;
  context.strokeStyle = stroke;
  context.strokeRect(x - 0.5, panel.y + 0.5, right - x + 1, panel.h - 1);
}

// Chosen token, followed expert, and what the pointer, the keys or another picture point at.
function marks(context, ratio, shown, at, view, theme, seen) {
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  for (const panel of at.panels) {
    context.lineWidth = 1;
    if (seen.row !== null) band(context, panel, view, seen.row, theme.faint, theme.veil);
    const there = shown.sameIds || panel.s === seen.side;
    if (seen.expert !== null && panel.l === seen.layer && there) {
      const column = panel.layer.place[seen.expert];
      if (column !== undefined) pole(context, panel, view, column, theme.faint);
    }
    context.lineWidth = 1.5;
    if (seen.selected) band(context, panel, view, seen.selected - 1, shown.mark, `${shown.mark}22`);
    const follow = seen.followed;
    if (follow && follow.run === panel.side.id && follow.layer === panel.layer.number) {
      pole(context, panel, view, panel.layer.place[follow.expert], shown.mark);
    }
  }
  const rows = [[seen.row, theme.text], [seen.selected ? seen.selected - 1 : null, shown.mark]];
  if (at.rail) for (const [row, colour] of rows) {
    if (row === null) continue;
    context.fillStyle = colour;
    context.fillRect(at.rail.x - 6, at.rail.y + ((row + 0.5) / shown.count) * at.rail.h - 1, 5, 2);
  }
  if (seen.drag) {
    const { x, y, w, h } = seen.drag;
    context.fillStyle = theme.veil;
    context.fillRect(x, y, w, h);
    context.strokeStyle = theme.text;
    context.strokeRect(x, y, w, h);
  }
}
