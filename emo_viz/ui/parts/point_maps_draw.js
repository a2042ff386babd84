// What the maps look like: markers, points, labels, and the image that is saved.
const DIM = 0.07, FULL = 0.88, OTHERS = 0.4, ROOM = 16;

const SHAPES = {
  circle: (c, r) => c.arc(0, 0, r, 0, 2 * Math.PI),
  square: (c, r) => c.rect(-0.88 * r, -0.88 * r, 1.76 * r, 1.76 * r),
  diamond: (c, r) => corners(c, [[0, -1.25], [1.1, 0], [0, 1.25], [-1.1, 0]], r),
  "triangle-up": (c, r) => corners(c, [[0, -1.2], [1.15, 0.9], [-1.15, 0.9]], r),
  "triangle-down": (c, r) => corners(c, [[0, 1.2], [1.15, -0.9], [-1.15, -0.9]], r),
  cross: (c, r) => corners(c, PLUS, r),
  x: (c, r) => corners(c, PLUS.map(([x, y]) => [0.72 * (x - y), 0.72 * (x + y)]), r),
  star: (c, r) => corners(c, STAR, r),
};
const PLUS = [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4],
  [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]];
const STAR = [...Array(10).keys()].map((i) => {
  const far = i % 2 ? 0.55 : 1.35, angle = -Math.PI / 2 + (i * Math.PI) / 5;
  return [far * Math.cos(angle), far * Math.sin(angle)];
});

function corners(c, points, r) {
  points.forEach(([x, y], i) => (i ? c.lineTo(x * r, y * r) : c.moveTo(x * r, y * r)));
  c.closePath();
}

function marker(c, group, r) {
  c.beginPath();
  SHAPES[group.symbol.replace("-open", "")](c, r);
  if (group.symbol.endsWith("-open")) {
    c.lineWidth = r / 2.2;
    c.strokeStyle = group.colour;
    c.stroke();
  } else {
    c.fillStyle = group.colour;
    c.fill();
  }
}

// One small picture of a group's marker, drawn thousands of times.
function sprite(group, r, scale) {
  const side = Math.ceil(2 * (1.5 * r + 1) * scale);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const c = canvas.getContext("2d");
  c.translate(side / 2, side / 2);
  c.scale(scale, scale);
  marker(c, group, r);
  return canvas;
}

// Where the points are on a plot of so many pixels at this zoom: x, y in turn.
function project(panel, width, height) {
  const { low, high } = panel.box, { zoom, x, y } = panel.view;
  const fit = Math.min((width - 2 * ROOM) / (high[0] - low[0] || 1),
    (height - 2 * ROOM) / (high[1] - low[1] || 1)) * zoom;
  const middle = [(low[0] + high[0]) / 2 + x, (low[1] + high[1]) / 2 + y];
  const at = (px, py) => [width / 2 + (px - middle[0]) * fit, height / 2 - (py - middle[1]) * fit];
  return { at, fit };
}

function place(panel, width, height) {
  const { at, fit } = project(panel, width, height);
  const spots = new Float32Array(2 * panel.x.length);
  for (let i = 0; i < panel.x.length; i += 1) {
    [spots[2 * i], spots[2 * i + 1]] = at(panel.x[i], panel.y[i]);
  }
  return { spots, at, fit };
}

// The group under the mouse is lit whole, whatever is highlighted or selected.
function isLit(state, panel, row, group) {
  if (group) return group.names.has(panel.groups[panel.group[row]].name);
  if (state.highlight && !state.highlight[row]) return false;
  return !state.selected || !state.count || !!state.selected[row];
}

function paintPoints(c, panel, spots, state, size, scale, group) {
  const r = size / 2;
  const sprites = panel.groups.map((each) => sprite(each, r, scale));
  const half = sprites.length ? sprites[0].width / scale / 2 : 0;
  for (const lit of [false, true]) {
    for (const row of panel.order) {
      if (isLit(state, panel, row, group) !== lit) continue;
      const own = panel.groups[panel.group[row]];
      c.globalAlpha = !lit ? DIM : own.other && !state.count ? OTHERS : FULL;
      const image = sprites[panel.group[row]];
      c.drawImage(image, spots[2 * row] - half, spots[2 * row + 1] - half, 2 * half, 2 * half);
    }
  }
  c.globalAlpha = 1;
}

function inPolygon(path, x, y) {
  let inside = false;
  for (let i = 0, j = path.length - 1; i < path.length; j = i, i += 1) {
    const [ax, ay] = path[i], [bx, by] = path[j];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

// The next point in the direction of an arrow key: near, and rather ahead than aside.
function beyond(spots, row, key) {
  const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  let best = row, least = Infinity;
  for (let i = 0; i < spots.length / 2; i += 1) {
    const x = spots[2 * i] - spots[2 * row], y = spots[2 * i + 1] - spots[2 * row + 1];
    const ahead = x * dx + y * dy, aside = Math.abs(x * dy) + Math.abs(y * dx);
    if (ahead < 2 || aside > 2 * ahead) continue;
    if (ahead + 2 * aside < least) [best, least] = [i, ahead + 2 * aside];
  }
  return best;
}

// All maps with labels, legends and a line of where they are from, as one picture.
function picture(host, colours) {
  const { panels, data, state } = host;
  const width = 560, height = 460, top = 34, scale = 2;
  const legends = panels.map((panel, i) => (i && data.one_legend ? [] : panel.groups));
  const canvas = document.createElement("canvas");
  const c = canvas.getContext("2d");
  const across = data.one_legend ? width * panels.length : width;
  const lines = legends.map((groups) => legendLines(c, groups, across - 20));
  const deep = Math.max(...lines.map((each) => each.length)) * 18;
  const said = wrapped(c, [data.provenance, state.said], width * panels.length - 20);
  canvas.width = scale * width * panels.length;
  canvas.height = scale * (top + height + deep + 30 + 14 * said.length);
  c.scale(scale, scale);
  c.fillStyle = colours.back;
  c.fillRect(0, 0, canvas.width, canvas.height);
  panels.forEach((panel, i) => {
    c.save();
    c.translate(i * width, 0);
    drawOne(c, host, panel, colours, width, height, top, scale);
    drawLegend(c, lines[i], colours, top + height + 20);
    c.restore();
  });
  c.fillStyle = colours.text;
  c.font = "11px sans-serif";
  said.forEach((line, i) => c.fillText(line, 10, top + height + deep + 32 + 14 * i));
  return canvas;
}

// Texts as lines of this width, a new one for each text.
function wrapped(c, texts, width) {
  c.font = "11px sans-serif";
  return texts.filter(Boolean).flatMap((text) => text.split(" ").reduce((lines, word) => {
    const longer = lines.length ? `${lines.at(-1)} ${word}` : word;
    return c.measureText(longer).width <= width && lines.length ? [...lines.slice(0, -1), longer] : [...lines, word];
  }, []));
}

function drawOne(c, host, panel, colours, width, height, top, scale) {
  const { data, state } = host;
  c.fillStyle = panel.colour;
  c.fillRect(10, 10, 4, 16);
  c.fillStyle = colours.text;
  c.font = "600 14px sans-serif";
  c.fillText(`${panel.name}: ${data.method} of routing`, 20, 23);
  c.save();
  c.translate(0, top);
  c.beginPath();
  c.rect(0, 0, width, height);
  c.clip();
  const { spots, at } = place(panel, width, height);
  paintPoints(c, panel, spots, state, data.size, scale, null);
  const { laid } = layLabels(c, { ...host, group: null }, { ...panel, spots, at }, width, height);
  paintLeaders(c, laid, colours.text);
  paintLabels(c, laid, colours);
  c.restore();
  c.strokeStyle = colours.line;
  c.strokeRect(8, top, width - 16, height);
}

function legendLines(c, groups, width) {
  c.font = "11px sans-serif";
  const lines = [[]];
  let used = 0;
  for (const group of groups) {
    const text = `${group.name} (${group.size.toLocaleString("en")})`;
    const wide = c.measureText(text).width + 30;
    if (used && used + wide > width) {
      lines.push([]);
      used = 0;
    }
    lines.at(-1).push({ group, text, left: used });
    used += wide;
  }
  return lines;
}

function drawLegend(c, lines, colours, top) {
  c.font = "11px sans-serif";
  c.textBaseline = "middle";
  lines.forEach((line, i) => line.forEach(({ group, text, left }) => {
    c.save();
    c.translate(left + 18, top + 18 * i);
    marker(c, group, 4);
    c.fillStyle = colours.text;
    c.fillText(text, 9, 0);
    c.restore();
  }));
  c.textBaseline = "alphabetic";
}
