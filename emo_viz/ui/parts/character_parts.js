// The fields lie in a layer over the text and not in its lines, where they would part letters.
const PITCH = 7, EDGE = 5; // pixels: from field to field, and left free beside a line
const FAR = 3 * PITCH; // from its character; fields that would lie farther off stand in two rows
const SCRIPTS = ["Arabic", "Hebrew", "Syriac", "Thaana", "Nko", "Adlam", "Hanifi_Rohingya"];
const FROM_RIGHT = new RegExp(SCRIPTS.map((name) => `\\p{Script=${name}}`).join("|"), "u");

const faceOf = (node) => node.field ?? node;

function tokenAt(event) {
  const face = event.target.closest(".token, .field");
  return face?.token ?? face;
}

// The arrow key of the next token.
const onwardIn = (strip) =>
  (getComputedStyle(strip).direction === "rtl" ? "ArrowLeft" : "ArrowRight");

function choose(root, nodes) {
  for (const old of root.querySelectorAll('[aria-selected="true"]')) {
    old.setAttribute("aria-selected", "false");
    faceOf(old).classList.remove("chosen");
  }
  for (const node of nodes) {
    node.setAttribute("aria-selected", "true");
    faceOf(node).classList.add("chosen");
  }
}

function makeFields(strip) {
  const layer = document.createElement("div");
  layer.className = "fields";
  layer.setAttribute("aria-hidden", "true");
  Object.assign(strip, { characters: [], rows: 0 });
  let letters = null;
  for (const node of strip.querySelectorAll(".token")) {
    if (!node.classList.contains("rest")) letters = node;
    else layer.append(fieldOf(node, strip.characters, letters ?? node));
  }
  if (strip.characters.length) strip.append(layer);
  placeFields(strip);
  if (!strip.watch) followChanges(strip);
}

function fieldOf(node, characters, letters) {
  node.field = Object.assign(document.createElement("span"), { className: "field", token: node });
  if (characters.at(-1)?.letters !== letters) characters.push({ letters, fields: [] });
  characters.at(-1).fields.push(node.field);
  return node.field;
}

// Fonts come when they are loaded, and others while a picture or a report is made.
function followChanges(strip) {
  const sources = [[document, "emo-viz-font"], [document.fonts, "loadingdone"]];
  const changed = () => {
    if (strip.isConnected) placeFields(strip);
    else sources.forEach(([source, name]) => source.removeEventListener(name, changed));
  };
  sources.forEach(([source, name]) => source.addEventListener(name, changed));
  strip.watch = new ResizeObserver(() => requestAnimationFrame(changed));
  strip.watch.observe(strip);
}

// Reads all places, then writes: no layout between two of them.
function placeFields(strip) {
  if (!strip.characters.length) return;
  const width = strip.clientWidth;
  let lines = linesOf(strip);
  if (!lines.length) return;
  const rows = lines.some((line) => farthest(line, arrange(line, 1, width)) > FAR) ? 2 : 1;
  if (strip.rows !== rows) {
    strip.rows = rows;
    for (const { letters } of strip.characters) letters.dataset.rows = rows;
    lines = linesOf(strip);
  }
  for (const line of lines) {
    const { pitch, starts } = arrange(line, rows, width);
    line.forEach((character, i) => putFields(character, starts[i], pitch, rows));
  }
}

// The characters that have fields, line by line, in the order in which they are seen.
function linesOf(strip) {
  const { left, top } = strip.getBoundingClientRect();
  const [x, y] = [left + strip.clientLeft, top + strip.clientTop - strip.scrollTop];
  const seen = strip.characters.flatMap(({ letters, fields }, index) => {
    const box = [...letters.getClientRects()].at(-1);
    if (!box) return [];
    const back = FROM_RIGHT.test(letters.textContent);
    return { index, fields, back, end: (back ? box.left : box.right) - x, bottom: box.bottom - y };
  });
  const order = (a, b) => a.end - b.end || (a.back ? b.index - a.index : a.index - b.index);
  const lines = {};
  for (const one of seen) (lines[Math.round(one.bottom)] ??= []).push(one);
  return Object.values(lines).map((line) => line.sort(order));
}

const columnsOf = ({ fields }, rows) => Math.ceil(fields.length / rows);

const wanted = ({ end, back }, wide) => (back ? end : end - wide);

// Where each character's fields start: at its end, or as near as those beside them let them.
function arrange(line, rows, width) {
  const columns = line.map((character) => columnsOf(character, rows));
  const room = (width - 2 * EDGE) / columns.reduce((sum, each) => sum + each);
  const pitch = Math.min(PITCH, room), wide = columns.map((each) => each * pitch);
  const best = line.map((character, i) => wanted(character, wide[i]));
  const [right, left] = [after(best, wide, -Infinity), before(best, wide, Infinity)];
  const between = right.map((x, i) => (x + left[i]) / 2);
  const starts = before(after(between, wide, EDGE), wide, width - EDGE);
  return { pitch, starts, best };
}

const farthest = (line, { starts, best }) =>
  Math.max(...starts.map((x, i) => Math.abs(x - best[i])));

function after(starts, wide, edge) {
  return starts.map((x, i) => {
    const start = Math.max(x, edge);
    edge = start + wide[i];
    return start;
  });
}

function before(starts, wide, edge) {
  return starts.map((x, i) => [x, wide[i]]).reverse().map(([x, own]) => {
    edge = Math.min(x, edge - own);
    return edge;
  }).reverse();
}

function putFields(character, start, pitch, rows) {
  const { fields, back, bottom } = character, last = columnsOf(character, rows) - 1;
  fields.forEach((field, k) => {
    const column = Math.floor(k / rows), at = back ? last - column : column;
    field.style.left = `${Math.round(start + at * pitch)}px`;
    field.style.top = `${Math.round(bottom) + 1 + (k % rows) * PITCH}px`;
    field.style.width = `${Math.max(2, Math.floor(pitch) - 1)}px`;
  });
}
