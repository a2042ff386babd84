// What is seen of a component, part by part: its boxes, drawings and lines of text, each where it
// stands. What only a hand needs is left out.
const SVG = "http://www.w3.org/2000/svg";
// A saved picture has none of the page's fonts: it is laid out in those that it has.
const FONT = "sans-serif";
const CODE_FONT = "monospace";
const PAINT = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity",
  "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "opacity", "font-family", "font-size",
  "font-weight", "text-anchor", "dominant-baseline", "visibility", "display"];
const SIDES = ["top", "right", "bottom", "left"];
const NOT_XML = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g;
const UNSEEN = "style, script, template, select, textarea, input:not([type=range]), [hidden], "
  + "[role=radiogroup], .tip, .hint, .play, .buttons, .foot button, [data-pin]";

const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const paints = new Map();

// Any colour of CSS as every program knows it: [#rrggbb, opacity].
function plain(colour) {
  if (!paints.has(colour)) {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    const hex = [r, g, b].map((each) => each.toString(16).padStart(2, "0")).join("");
    paints.set(colour, [`#${hex}`, a / 255]);
  }
  return paints.get(colour);
}

const number = (pixels) => parseFloat(pixels) || 0;
const round = (value) => Math.round(value * 100) / 100;
const family = (style) => (/mono/i.test(style.fontFamily) ? CODE_FONT : FONT);

function node(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
}

function isSeen(element) {
  if (element.matches(UNSEEN)) return false;
  const style = getComputedStyle(element), box = element.getBoundingClientRect();
  if (style.display === "contents") return true;
  if (style.visibility === "hidden" || style.display === "none") return false;
  const heardAlone = style.clipPath !== "none" || (box.width <= 1 && box.height <= 1);
  return number(style.opacity) > 0 && !heardAlone;
}

// The element that holds what is seen, and the nodes in it.
const within = (element) => [...(element.shadowRoot ?? element).childNodes];

// A slider as a line with a mark on it.
function ofRange(input) {
  const box = input.getBoundingClientRect(), style = getComputedStyle(input);
  const share = (input.value - input.min) / (input.max - input.min || 1), y = box.height / 2;
  const [colour] = plain(style.accentColor === "auto" ? style.color : style.accentColor);
  const at = 8 + share * (box.width - 16);
  const picture = node("svg", { width: box.width, height: box.height });
  const rail = { y1: y, y2: y, "stroke-width": 5, "stroke-linecap": "round" };
  node("line", { ...rail, x1: 3, x2: box.width - 3, stroke: "#80848c", opacity: 0.4 }, picture);
  node("line", { ...rail, x1: 3, x2: at, stroke: colour }, picture);
  node("circle", { cx: at, cy: y, r: 8, fill: colour }, picture);
  return picture;
}

const ofCanvas = (canvas, opacity) => (canvas.emoVizPaint ? ofPaint(canvas, opacity)
  : node("image", { href: canvas.toDataURL("image/png"), opacity }));

function ofSvg(source) {
  const picture = source.cloneNode(true);
  const [from, to] = [source, picture].map((root) => [root, ...root.querySelectorAll("*")]);
  from.forEach((one, at) => {
    const style = getComputedStyle(one);
    const said = Object.fromEntries(PAINT.map((key) => [key, style.getPropertyValue(key)]));
    for (const key of ["fill", "stroke"]) {
      if (said[key] === "none" || said[key].startsWith("url")) continue;
      const [colour, opacity] = plain(said[key]);
      said[key] = colour;
      said[`${key}-opacity`] = round(opacity * said[`${key}-opacity`]);
    }
    said["font-family"] = family(style);
    to[at].setAttribute("style", Object.entries(said).map((each) => each.join(":")).join(";"));
  });
  picture.querySelectorAll("script, foreignObject").forEach((one) => one.remove());
  return picture;
}

// [text, box] of each line on which a text node stands. Words of a line are one text.
function linesOf(text, clip) {
  const range = document.createRange(), lines = [];
  const add = (from, to, box) => {
    if (!inside(box, clip)) return;
    const last = lines.at(-1);
    const on = last && Math.abs(last.box.top - box.top) < 2 && box.left >= last.box.right - 1;
    const { left, top, right, bottom } = box;
    if (!on) lines.push({ from, to, box: { left, top, right, bottom } });
    else Object.assign(last, { to, box: { ...last.box, right: box.right } });
  };
  const boxes = (from, to) => {
    range.setStart(text, from);
    range.setEnd(text, to);
    return [...range.getClientRects()].filter((box) => box.width);
  };
  for (const { 0: word, index } of text.data.matchAll(/\S+/g)) {
    const found = boxes(index, index + word.length);
    if (found.length === 1) add(index, index + word.length, found[0]);
    else { // broken over lines
      for (const { 0: letter, index: at } of word.matchAll(/./gsu)) {
        const [box] = boxes(index + at, index + at + letter.length);
        if (box) add(index + at, index + at + letter.length, box);
      }
    }
  }
  const keeps = getComputedStyle(text.parentElement).whiteSpace.startsWith("pre");
  return lines.map(({ from, to, box }) => {
    const said = text.data.slice(from, to).replace(NOT_XML, "\ufffd");
    return [keeps ? said : said.replace(/\s+/g, " "), box];
  });
}

const inside = ({ left, top, right, bottom }, clip) => {
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  return !clip || (x >= clip.left && x <= clip.right && y >= clip.top && y <= clip.bottom);
};

function clipOf(element, style, clip) {
  if (style.overflowX === "visible" && style.overflowY === "visible") return clip;
  const { left, top, right, bottom } = element.getBoundingClientRect();
  return clip ? { left: Math.max(left, clip.left), top: Math.max(top, clip.top),
    right: Math.min(right, clip.right), bottom: Math.min(bottom, clip.bottom) }
    : { left, top, right, bottom };
}

// One side of an element's border, if it is seen.
function edgeOf(style, side) {
  const wide = number(style.getPropertyValue(`border-${side}-width`)), half = wide / 2;
  const [stroke, alpha] = plain(style.getPropertyValue(`border-${side}-color`));
  const kind = style.getPropertyValue(`border-${side}-style`);
  if (!wide || !alpha || kind === "none") return null;
  const line = ({ left, top, right, bottom }) => ({
    top: { x1: left, y1: top + half, x2: right, y2: top + half },
    bottom: { x1: left, y1: bottom - half, x2: right, y2: bottom - half },
    left: { x1: left + half, y1: top, x2: left + half, y2: bottom },
    right: { x1: right - half, y1: top, x2: right - half, y2: bottom },
  })[side];
  const dash = { dashed: `${3 * wide} ${2 * wide}`, dotted: `${wide} ${wide}` }[kind] ?? "none";
  return { wide, stroke, alpha, dash, line };
}

const strokeOf = ({ wide, stroke, alpha, dash }, opacity) => ({ stroke, "stroke-width": wide,
  "stroke-dasharray": dash, "stroke-opacity": round(alpha * opacity) });

// How the line under a text is drawn: old programs know no more than that there is one.
const underline = ({ textDecorationLine, textDecorationStyle, textDecorationThickness }) =>
  textDecorationLine === "none" ? "" : `text-decoration-style: ${textDecorationStyle}; `
    + `text-decoration-thickness: ${textDecorationThickness}`;

// Draws an element and what is in it into an SVG, in the window's pixels, and tells their boxes.
class Seen {
  constructor() {
    this.picture = node("svg", {});
    this.boxes = [];
  }

  draw(element, clip = null, opacity = 1) {
    if (!isSeen(element)) return;
    const style = getComputedStyle(element), box = element.getBoundingClientRect();
    const own = opacity * number(style.opacity), name = element.localName;
    if (!inside(box, clip) && !within(element).length) return;
    if (["svg", "canvas", "input"].includes(name) && !inside(box, clip)) return;
    if (name === "svg") return this.put(ofSvg(element), box);
    if (name === "input") return this.put(ofRange(element), box);
    if (name === "canvas") this.put(ofCanvas(element, own), box);
    for (const part of element.getClientRects()) {
      if (inside(part, clip)) this.ground(style, part, own);
    }
    const inner = clipOf(element, style, clip);
    for (const child of within(element)) {
      if (child.nodeType === Node.TEXT_NODE) this.text(child, inner, own);
      else if (child.nodeType === Node.ELEMENT_NODE) this.draw(child, inner, own);
    }
  }

  put(part, { left, top, width, height }) {
    for (const [key, value] of Object.entries({ x: left, y: top, width, height })) {
      part.setAttribute(key, round(value));
    }
    this.picture.append(part);
    this.boxes.push({ left, top, right: left + width, bottom: top + height });
  }

  // What an element has behind its content and around it.
  ground(style, box, opacity) {
    const { left, top, right, bottom, width, height } = box, radius = style.borderTopLeftRadius;
    const rx = round(number(radius) * (radius.endsWith("%") ? width / 100 : 1));
    const [fill, alpha] = plain(style.backgroundColor);
    const drawn = alpha ? [fill, alpha] : this.ramp(style);
    const edges = SIDES.map((side) => edgeOf(style, side)).filter(Boolean);
    const kinds = new Set(edges.map((one) => one.stroke + one.wide));
    const frame = edges.length === 4 && kinds.size === 1;
    const inset = frame ? edges[0].wide / 2 : 0;
    const place = { x: left + inset, y: top + inset, width: width - 2 * inset,
      height: height - 2 * inset, rx };
    for (const key of Object.keys(place)) place[key] = round(place[key]);
    const add = (name, own) => node(name, own, this.picture);
    if (drawn) add("rect", { ...place, fill: drawn[0], "fill-opacity": round(drawn[1] * opacity) });
    if (frame) add("rect", { ...place, fill: "none", ...strokeOf(edges[0], opacity) });
    else edges.forEach((edge) => add("line", { ...edge.line(box), ...strokeOf(edge, opacity) }));
    if (drawn || edges.length) this.boxes.push({ left, top, right, bottom });
  }

  // The fill of a scale of colours.
  ramp(style) {
    const colours = style.backgroundImage.match(/[a-z]+\([^()]*\)|#[0-9a-f]+/gi);
    if (!style.backgroundImage.startsWith("linear-gradient") || !colours) return null;
    const id = `ramp-${this.boxes.length}`, made = node("linearGradient", { id }, this.picture);
    colours.forEach((colour, place) => {
      const [paint, opacity] = plain(colour);
      const offset = round(place / (colours.length - 1));
      node("stop", { offset, "stop-color": paint, "stop-opacity": opacity }, made);
    });
    return [`url(#${id})`, 1];
  }

  text(text, clip, opacity) {
    if (!text.data.trim()) return;
    const style = getComputedStyle(text.parentElement), size = number(style.fontSize);
    const [fill, alpha] = plain(style.color);
    pen.font = `${style.fontStyle} ${style.fontWeight} ${size}px ${family(style)}`;
    const { fontBoundingBoxAscent: up, fontBoundingBoxDescent: down } = pen.measureText("x");
    const look = { fill, "fill-opacity": round(alpha * opacity), "font-size": size,
      "font-family": family(style), "font-weight": style.fontWeight,
      "text-decoration": style.textDecorationLine, style: `white-space: pre; ${underline(style)}` };
    for (const [said, box] of linesOf(text, clip)) {
      const rest = (box.bottom - box.top - up - down) / 2;
      const made = node("text", { ...look, x: round(box.left), y: round(box.top + rest + up),
        textLength: round(box.right - box.left), lengthAdjust: "spacingAndGlyphs" }, this.picture);
      if (style.fontStyle !== "normal") made.setAttribute("font-style", style.fontStyle);
      made.textContent = said;
      this.boxes.push(box);
    }
  }
}

const FONT_CHANGES = "emo-viz-font"; // heard by what stands where letters end

// Has a component stand in the fonts of the picture while something is done, which nobody sees.
function inFont(place, act) {
  const roots = deep(place, "*").filter((one) => one.parentNode instanceof ShadowRoot && one.style);
  const fonts = { "--st-font": FONT, "--st-code-font": CODE_FONT, "font-family": FONT };
  const before = roots.map((one) => one.style.cssText);
  roots.forEach((one) => Object.entries(fonts).forEach((font) => one.style.setProperty(...font)));
  document.dispatchEvent(new Event(FONT_CHANGES));
  try {
    return act();
  } finally {
    roots.forEach((one, at) => { one.style.cssText = before[at]; });
    document.dispatchEvent(new Event(FONT_CHANGES));
  }
}

function deep(root, selector) {
  const found = [...root.querySelectorAll(selector)];
  for (const one of root.querySelectorAll("*")) {
    if (one.shadowRoot) found.push(...deep(one.shadowRoot, selector));
  }
  return found;
}
