// Where the names of groups stand on a map: near their place, over no other name, and rather where
// few points of others lie. A name that is not at its place has a line that leads to it.
const LABEL = 11; // pixels of a label's letters, in the page's usual type
const CELL = 8, EDGE = 9, RECEDES = 0.25, BESIDE = 7, FAR_APART = 12;
const RINGS = [BESIDE, 18, 32, 50, 72, 100, 135, 175];
const DIRECTIONS = [...Array(12).keys()].map((i) => (i * Math.PI) / 6)
  .map((angle) => [Math.sin(angle), -Math.cos(angle)]);
// What counts against a place: a pixel of distance, more the longer the way; a point of another
// group under the name, or of its own; a line across a name or a line; a name that is cut short.
const COST = { far: 0.4, farther: 1 / 150, other: 0.7, own: 0.12, crossed: 150, short: 12 };

const leftOut = (count) => (count ? `, ${count} ${count === 1 ? "label" : "labels"} without room` : "");

// How many of some points lie in any box: sums over cells of a net that moves with the map.
function crowd(panel, rows, width, height) {
  const [x0, y0] = panel.at(0, 0).map((at) => ((at % CELL) + CELL) % CELL - CELL);
  const across = Math.ceil(width / CELL) + 2, down = Math.ceil(height / CELL) + 2;
  const sums = new Uint32Array(across * down);
  for (const row of rows) {
    const i = Math.floor((panel.spots[2 * row] - x0) / CELL), j = Math.floor((panel.spots[2 * row + 1] - y0) / CELL);
    if (i >= 0 && j >= 0 && i < across - 1 && j < down - 1) sums[(j + 1) * across + i + 1] += 1;
  }
  for (let j = 1; j < down; j += 1) {
    for (let i = 1, line = 0; i < across; i += 1) {
      line += sums[j * across + i];
      sums[j * across + i] = line + sums[(j - 1) * across + i];
    }
  }
  const cell = (at, from, most) => Math.min(Math.max(0, Math.round((at - from) / CELL)), most - 1);
  return ({ left, top, wide, high }) => {
    const [a, b] = [cell(left, x0, across), cell(left + wide, x0, across)];
    const [u, v] = [cell(top, y0, down) * across, cell(top + high, y0, down) * across];
    return sums[v + b] - sums[v + a] - sums[u + b] + sums[u + a];
  };
}

// The points of a name: of a map's group, or of what is first told of every point.
function rowsOf(host, panel, { is_group, name }) {
  const [groups, codes] = is_group ? [panel.groups, panel.group] : [host.facts[0].groups, host.facts[0].codes];
  const key = `${is_group} ${name}`, at = groups.findIndex((group) => group.name === name);
  panel.rows ??= {};
  panel.rows[key] ??= [...codes.keys()].filter((row) => codes[row] === at);
  return panel.rows[key];
}

// Whether a name recedes: another one is under the mouse, or none of its points is highlighted.
function isFaded(host, panel, named) {
  const { highlight } = host.state;
  if (host.group) return named.is_group && !host.group.names.has(named.name);
  return !!highlight && !rowsOf(host, panel, named).some((row) => highlight[row]);
}

// Labels as they stand: label, text, left, top and where a line leads to; and how many have no room.
function layLabels(c, host, panel, width, height, large = 1) {
  c.font = `600 ${LABEL * large}px sans-serif`;
  const every = crowd(panel, panel.group.keys(), width, height), laid = [];
  let left = 0;
  const spots = panel.labels.map((label) => panel.at(label.x, label.y));
  for (const [i, label] of panel.labels.entries()) {
    const [x, y] = spots[i], later = spots.slice(i + 1);
    if (x < 0 || y < 0 || x > width || y > height) continue;
    const own = crowd(panel, rowsOf(host, panel, label), width, height);
    const boxes = label.texts.flatMap((text, short) =>
      places(c, text, x, y, width, height, large).map((box) => Object.assign(box, { text, cost:
        box.away * (COST.far + box.away * COST.farther) + short * short * COST.short
        + every(box) * COST.other - own(box) * (COST.other - COST.own)
        + later.filter((spot) => holds(box, spot)).length * COST.crossed })));
    const found = cheapest(boxes, laid);
    if (found) laid.push({ ...found, label, faded: isFaded(host, panel, label) });
    else left += 1;
  }
  return { laid, left };
}

// Boxes for a text around its place, each with its distance from there.
function places(c, text, x, y, width, height, large) {
  const wide = c.measureText(text).width + 6, high = 14 * large;
  const boxes = RINGS.flatMap((ring) => DIRECTIONS.map(([dx, dy]) =>
    [x + dx * (ring + wide / 2) - wide / 2, y + dy * (ring + high / 2) - high / 2]));
  return [[x - wide / 2, y - high / 2], ...boxes].map(([at, above]) => {
    const left = Math.min(Math.max(EDGE, at), width - wide - EDGE);
    const top = Math.min(Math.max(EDGE, above), height - high - EDGE);
    const to = [Math.min(Math.max(x, left), left + wide), Math.min(Math.max(y, top), top + high)];
    return { left, top, wide, high, from: [x, y], to, away: Math.hypot(to[0] - x, to[1] - y) };
  });
}

function cheapest(boxes, laid) {
  let best = null, least = Infinity;
  for (const box of boxes.sort((one, other) => one.cost - other.cost)) {
    if (box.cost >= least) break;
    if (laid.some((other) => touch(box, other))) continue;
    const cost = box.cost + COST.crossed * crossings(box, laid);
    if (cost < least) [best, least] = [box, cost];
  }
  return best;
}

// A line from there would begin under the label.
const holds = ({ left, top, wide, high }, [x, y]) =>
  x > left && x < left + wide && y > top && y < top + high;

const touch = (one, other) => one.left < other.left + other.wide && other.left < one.left + one.wide
  && one.top < other.top + other.high && other.top < one.top + one.high;

// How often a label's line meets other labels and their lines, and theirs this label.
function crossings(one, laid) {
  return laid.filter((other) => strikes(one, other) || strikes(other, one) || cross(one, other)).length;
}

// Whether any of a label's line lies between the left and right and between the top and bottom.
function strikes(line, box) {
  if (line.away <= FAR_APART) return false;
  let [first, last] = [0, 1];
  [[box.left, box.wide], [box.top, box.high]].forEach(([low, size], i) => {
    const from = line.from[i], way = line.to[i] - from;
    const inside = from > low && from < low + size ? [0, 1] : [1, 0];
    const parts = way ? [(low - from) / way, (low + size - from) / way] : inside;
    first = Math.max(first, way ? Math.min(...parts) : parts[0]);
    last = Math.min(last, way ? Math.max(...parts) : parts[1]);
  });
  return first < last;
}

function cross(one, other) {
  if (one.away <= FAR_APART || other.away <= FAR_APART) return false;
  const side = ([ax, ay], [bx, by], [x, y]) => (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0;
  return side(one.from, one.to, other.from) !== side(one.from, one.to, other.to)
    && side(other.from, other.to, one.from) !== side(other.from, other.to, one.to);
}

// A thin line with a dot at its end, for each label that does not stand at its place.
function paintLeaders(c, laid, colour) {
  [c.strokeStyle, c.fillStyle, c.lineWidth] = [colour, colour, 0.8];
  for (const { from, to, away, faded } of laid) {
    if (away <= FAR_APART) continue;
    c.globalAlpha = faded ? RECEDES : 1;
    c.beginPath();
    c.moveTo(...from);
    c.lineTo(...to);
    c.stroke();
    c.beginPath();
    c.arc(...from, 1.8, 0, 2 * Math.PI);
    c.fill();
  }
  c.globalAlpha = 1;
}

function paintLabels(c, laid, colours) {
  c.font = `600 ${LABEL}px sans-serif`;
  c.textBaseline = "top";
  [c.lineWidth, c.strokeStyle, c.fillStyle] = [3, colours.back, colours.text];
  for (const { text, left, top, faded } of laid) {
    c.globalAlpha = faded ? RECEDES : 1;
    c.strokeText(text, left + 3, top + 1);
    c.fillText(text, left + 3, top + 1);
  }
  c.globalAlpha = 1;
}
