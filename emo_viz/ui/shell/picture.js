// A picture is an SVG around what the page draws: below its title, above the legend and the line of
// provenance.
const PAD = 16, LINE = 18, SIZE = 12, TITLE = 15, PNG_SCALE = 2, NARROWEST = 320;

const copy = (value) => JSON.parse(JSON.stringify(value ?? {}));

// Plotly's figures are arrays of numbers and texts; typed arrays must stay what they are.
function unhidden(plot) {
  const named = plot._fullData.filter((one) => one.visible === true && one.name
    && one.showlegend !== false && !/^trace \d+$/.test(one.name));
  const layout = copy(plot.layout);
  if (named.length > 1 && !plot._fullLayout.showlegend) layout.showlegend = true;
  return layout;
}

// Every font of a figure is the picture's: Plotly lays texts out by how wide they are.
function inItsFont(value) {
  if (!value || typeof value !== "object" || ArrayBuffer.isView(value)) return value;
  if (Array.isArray(value)) return value.map(inItsFont);
  return Object.fromEntries(Object.entries(value).map(
    ([key, own]) => [key, key === "family" ? FONT : inItsFont(own)]));
}

async function ofPlot(plot, look) {
  const box = plot.getBoundingClientRect();
  const width = Math.round(box.width), height = Math.round(box.height);
  const own = inItsFont(unhidden(plot));
  const layout = { ...own, font: { ...own.font, family: FONT }, width, height, autosize: false,
    paper_bgcolor: look.back, plot_bgcolor: "rgba(0, 0, 0, 0)" };
  const size = { format: "svg", width, height };
  const url = await window.Plotly.toImage({ data: plot.data.map(inItsFont), layout }, size);
  const text = decodeURIComponent(url.slice(url.indexOf(",") + 1));
  const picture = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  asOnThePage(picture, plot);
  return { picture: document.importNode(picture, true), width, height };
}

// The page's own style makes readable what Streamlit draws in too faint a grey.
function asOnThePage(picture, plot) {
  const inks = new Map([...plot.querySelectorAll("text")].map(
    (text) => [text.style.fill, getComputedStyle(text).fill]));
  for (const { style } of picture.querySelectorAll("text")) {
    style.fill = inks.get(style.fill) ?? style.fill;
  }
}

function around(boxes) {
  const of = (side, most) => most(...boxes.map((box) => box[side]));
  const left = of("left", Math.min), right = of("right", Math.max);
  const top = of("top", Math.min), bottom = of("bottom", Math.max);
  return { left: left - PAD, top: top - PAD / 2, width: Math.ceil(right - left + 2 * PAD),
    height: Math.ceil(bottom - top + PAD) };
}

// What a component shows, each part in its place.
function ofComponent(place) {
  const seen = new Seen();
  inFont(place, () => seen.draw(place));
  if (!seen.boxes.length) return null;
  const { left, top, width, height } = around(seen.boxes);
  seen.picture.setAttribute("viewBox", [left, top, width, height].map(round).join(" "));
  return { picture: seen.picture, width, height, titled: true };
}

async function drawn(key, look) {
  const place = document.querySelector(`.st-key-${CSS.escape(key)}`);
  if (!place) return null;
  const plot = place.querySelector(".js-plotly-plot");
  return plot ? ofPlot(plot, look) : ofComponent(place);
}

function wrapped(text, width, font) {
  pen.font = font;
  const lines = [""], fits = (words) => pen.measureText(words).width <= width;
  for (const word of text.split(" ")) {
    const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
    if (lines.at(-1) && !fits(longer)) lines.push(word);
    else lines[lines.length - 1] = longer;
    while (!fits(lines.at(-1))) { // a word wider than the picture
      let end = lines.at(-1).length - 1;
      while (end > 1 && !fits(lines.at(-1).slice(0, end))) end -= 1;
      lines.splice(-1, 1, lines.at(-1).slice(0, end), lines.at(-1).slice(end));
    }
  }
  return lines;
}

function addText(svg, text, width, y, look, own = {}) {
  const size = own["font-size"] ?? SIZE, font = `${own["font-weight"] ?? 400} ${size}px ${FONT}`;
  for (const line of wrapped(text.replace(NOT_XML, "\ufffd"), width - 2 * PAD, font)) {
    y += size * 1.5;
    node("text", { x: PAD, y, fill: look.text, "font-size": size, "font-family": FONT, ...own },
      svg).textContent = line;
  }
  return y;
}

function addLegend(svg, legend, width, y, look) {
  let x = PAD, line = y + LINE;
  pen.font = `${SIZE}px ${FONT}`;
  for (const { sign, text, colour } of legend) {
    const wide = pen.measureText(`${sign} ${text}`).width + 20;
    if (x > PAD && x + wide > width) [x, line] = [PAD, line + LINE];
    const said = node("text", { x, y: line, "font-size": SIZE, "font-family": FONT }, svg);
    node("tspan", { fill: colour }, said).textContent = sign;
    node("tspan", { fill: look.text }, said).textContent = ` ${text}`;
    x += wide;
  }
  return legend.length ? line + LINE / 2 : y;
}

// What controls hold that a component shows, by their names in the address: the page is told only
// once a hand has come to rest.
function movedIn(key) {
  const place = document.querySelector(`.st-key-${CSS.escape(key)}`);
  return Object.assign({}, ...deep(place ?? document.head, "[data-shows]")
    .map((one) => JSON.parse(one.dataset.shows)));
}

// The line of provenance of one picture, from its parts.
function lineOf(parts, key) {
  const moved = movedIn(key);
  return parts.filter(({ only, apart }) => (!only || only === key) && apart !== key)
    .map(({ said, name, form }) => (name in moved ? form.replace("{}", () => moved[name]) : said))
    .filter(Boolean).join("; ");
}

// The whole picture, and its size in pixels. title: of what has none of its own.
function framed({ picture, width, height, titled }, { title, legend, provenance }, look) {
  const svg = node("svg", { xmlns: SVG }), wide = Math.max(width, NARROWEST);
  const back = node("rect", { x: 0, y: 0, fill: look.back }, svg);
  const bold = { "font-size": TITLE, "font-weight": 600, class: "title" };
  const top = titled ? addText(svg, title, wide, PAD / 2, look, bold) + PAD / 2 : 0;
  Object.entries({ y: top, width, height }).forEach((each) => picture.setAttribute(...each));
  svg.append(picture);
  const under = addLegend(svg, titled ? [] : legend, wide, top + height, look);
  const y = addText(svg, provenance, wide, under, look, { class: "provenance" });
  const size = { width: wide, height: Math.ceil(y + LINE / 2 + 2) };
  for (const one of [svg, back]) {
    one.setAttribute("width", size.width);
    one.setAttribute("height", size.height);
  }
  svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  return { text: new XMLSerializer().serializeToString(svg), ...size };
}

function painted({ text, width, height }) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = width * PNG_SCALE;
      canvas.height = height * PNG_SCALE;
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error("too large"))), "image/png");
    };
    image.onerror = () => failed(new Error("the browser cannot draw it"));
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  });
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function lookOf(root) {
  const style = getComputedStyle(root);
  const of = (name) => style.getPropertyValue(`--st-${name}`).trim();
  return { back: of("background-color"), text: of("text-color") };
}
