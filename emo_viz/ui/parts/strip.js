const SEND_AFTER_MS = 120;

function build(strip, tokens) {
  strip.replaceChildren();
  tokens.forEach((token, index) => {
    const node = document.createElement("span");
    node.className = token.text ? "token" : "token rest";
    node.id = `token-${index + 1}`;
    node.setAttribute("role", "option");
    const text = document.createElement("span");
    text.textContent = token.text;
    if (token.sign) text.className = "sign";
    node.append(text);
    strip.append(node);
    for (let i = 0; i < token.breaks; i += 1) strip.append(document.createElement("br"));
  });
  makeFields(strip);
}

function paint(strip, data) {
  strip.style.setProperty("--mark", data.mark_colour);
  strip.style.setProperty("--selection", data.selection_colour);
  const inks = new Map(); // a text has far more tokens than colours
  [...strip.querySelectorAll(".token")].forEach((node, index) => {
    const token = data.tokens[index], face = faceOf(node);
    face.style.setProperty("--fill", token.colour);
    if (!inks.has(token.colour)) inks.set(token.colour, readable(token.colour, strip));
    node.style.color = token.text ? inks.get(token.colour) : "";
    node.title = face.title = token.title;
    face.classList.toggle("marked", token.marked);
    face.classList.toggle("above", token.lean > 0);
    face.classList.toggle("below", token.lean < 0);
  });
}

const lineOf = (strip) => parseFloat(getComputedStyle(strip).lineHeight);

function select(strip, position) {
  strip.dataset.selected = position ?? "";
  strip.removeAttribute("aria-activedescendant");
  const node = position && strip.querySelector(`#token-${position}`);
  choose(strip, node ? [node] : []);
  if (!node) return;
  strip.setAttribute("aria-activedescendant", node.id);
  reveal(strip, node);
}

// Brings a token into the middle of what is seen of the text, if it is not in sight.
function reveal(strip, node) {
  const top = node.offsetTop;
  if (top < strip.scrollTop || top + node.offsetHeight > strip.scrollTop + strip.clientHeight) {
    scrollTo(strip, top - strip.clientHeight / 2);
  }
}

function scrollTo(strip, top) {
  const line = lineOf(strip);
  strip.scrollTop = Math.round(top / line) * line;
}

function beside(strip, position, down) {
  const nodes = [...strip.querySelectorAll(".token")];
  const here = nodes[position - 1].getClientRects()[0];
  if (!here) return position;
  const beyond = nodes
    .map((node, index) => ({ rect: node.getClientRects()[0], position: index + 1 }))
    .filter(({ rect }) => rect && (down ? rect.top > here.top + 4 : rect.top < here.top - 4));
  if (!beyond.length) return position;
  const tops = beyond.map(({ rect }) => rect.top);
  const line = down ? Math.min(...tops) : Math.max(...tops);
  const distance = ({ rect }) => Math.abs(rect.left - here.left);
  return beyond
    .filter(({ rect }) => Math.abs(rect.top - line) <= 4)
    .reduce((best, next) => (distance(next) < distance(best) ? next : best)).position;
}

function target(strip, key, count) {
  const now = Number(strip.dataset.selected) || 0;
  const step = key === onwardIn(strip) ? 1 : -1;
  const along = () => Math.min(count, Math.max(1, now + step));
  const moves = {
    ArrowRight: along,
    ArrowLeft: along,
    ArrowDown: () => (now ? beside(strip, now, true) : 1),
    ArrowUp: () => (now ? beside(strip, now, false) : 1),
    Home: () => 1,
    End: () => count,
    Escape: () => null,
  };
  return key in moves ? moves[key]() : undefined;
}

const lookOf = (group) => (window.emoVizLooks ??= {})[group] ??= {};

const tell = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));

function positionAt(event) {
  const node = tokenAt(event);
  return node ? Number(node.id.slice("token-".length)) : null;
}

// What others of the group choose and point at is shown here too.
function hear(strip) {
  const on = (name, act) => {
    const heard = ({ detail }) => {
      if (!strip.isConnected) document.removeEventListener(name, heard);
      else if (detail.group === strip.dataset.group) act(detail);
    };
    document.addEventListener(name, heard);
  };
  on("emo-viz-look", () => select(strip, lookOf(strip.dataset.group).selected));
  on("emo-viz-hover", ({ from, token }) => {
    strip.querySelector(".pointed")?.classList.remove("pointed");
    const node = from !== strip && token && strip.querySelector(`#token-${token}`);
    if (!node) return;
    faceOf(node).classList.add("pointed");
    reveal(strip, node);
  });
  on("emo-viz-rows", ({ first }) => {
    const node = strip.querySelector(`#token-${first}`);
    if (node) scrollTo(strip, node.offsetTop);
  });
  const point = (token) => {
    if (token !== strip.pointing) {
      strip.pointing = token;
      tell("emo-viz-hover", { group: strip.dataset.group, from: strip, token });
    }
  };
  strip.onpointermove = (event) => point(positionAt(event));
  strip.onpointerleave = () => point(null);
}

export default function ({ data, parentElement, setTriggerValue }) {
  const strip = parentElement.querySelector(".strip");
  const first = strip.dataset.group === undefined;
  strip.dataset.group = data.group;
  if (first) hear(strip);
  strip.dir = "auto";
  strip.classList.toggle("code", data.code);
  strip.style.maxHeight = `${data.pixels}px`; // for whoever does not know the next line
  strip.style.maxHeight = `round(down, ${data.pixels}px, 1lh)`; // of whole lines
  const texts = JSON.stringify(data.tokens.map((token) => [token.text, token.breaks]));
  if (strip.dataset.texts !== texts) {
    build(strip, data.tokens);
    strip.dataset.texts = texts;
    strip.scrollTop = 0;
  }
  paint(strip, data);
  const look = lookOf(data.group);
  select(strip, look.selected);

  // A server answer may arrive while the visitor has already moved on: theirs is the newer one.
  const send = (position, wait) => {
    look.selected = position;
    const n = (look.n += 1);
    tell("emo-viz-look", { group: data.group });
    clearTimeout(look.pending);
    look.pending = setTimeout(() => setTriggerValue("picked", { token: position, n }), wait);
  };
  strip.onclick = (event) => {
    const position = positionAt(event);
    if (position) send(position, 0);
  };
  strip.onkeydown = (event) => {
    // Shift with an arrow key belongs to the page: it goes to another layer.
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const position = target(strip, event.key, data.tokens.length);
    if (position === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    if (position !== null) window.emoVizWalk?.goesOn();
    send(position, SEND_AFTER_MS);
  };
}
