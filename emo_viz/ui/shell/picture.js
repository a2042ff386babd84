// A picture is an SVG around what the page draws: above the legend and the line of provenance.
const SVG = "http://www.w3.org/2000/svg", PAD = 16, LINE = 18, SIZE = 12, PNG_SCALE = 2;
const PAINT = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity",
  "stroke-dasharray", "opacity", "font-family", "font-size", "font-weight", "text-anchor",
  "dominant-baseline", "visibility", "display"];

function deep(root, selector) {
  const found = [...root.querySelectorAll(selector)];
  for (const node of root.querySelectorAll("*")) {
    if (node.shadowRoot) found.push(...deep(node.shadowRoot, selector));
  }
  return found;
}

function node(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
}

const copy = (value) => JSON.parse(JSON.stringify(value ?? {}));

// Plotly's figures are arrays of numbers and texts; typed arrays must stay what they are.
function unhidden(plot) {
  const named = plot._fullData.filter((one) => one.visible === true && one.name
    && one.showlegend !== false && !/^trace \d+$/.test(one.name));
  const layout = copy(plot.layout);
  if (named.length > 1 && !plot._fullLayout.showlegend) layout.showlegend = true;
  return layout;
}

async function ofPlot(plot, look) {
  const box = plot.getBoundingClientRect();
  const width = Math.round(box.width), height = Math.round(box.height);
  const layout = { ...unhidden(plot), width, height, autosize: false,
    paper_bgcolor: look.back, plot_bgcolor: "rgba(0, 0, 0, 0)" };
  const size = { format: "svg", width, height };
  const url = await window.Plotly.toImage({ data: plot.data, layout }, size);
  const text = decodeURIComponent(url.slice(url.indexOf(",") + 1));
  const picture = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  return { picture: document.importNode(picture, true), width, height };
}

function ofSvg(source) {
  const box = source.getBoundingClientRect(), picture = source.cloneNode(true);
  const [from, to] = [source, picture].map((root) => [root, ...root.querySelectorAll("*")]);
  from.forEach((one, at) => {
    const style = getComputedStyle(one);
    to[at].setAttribute("style", PAINT.map((key) => `${key}:${style.getPropertyValue(key)}`).join(";"));
  });
  return { picture, box };
}

function ofCanvas(source) {
  const box = source.getBoundingClientRect();
  const picture = document.createElementNS(SVG, "image");
  picture.setAttribute("href", source.toDataURL("image/png"));
  return { picture, box };
}

function around(boxes) {
  const left = Math.min(...boxes.map((box) => box.left)), top = Math.min(...boxes.map((box) => box.top));
  const right = Math.max(...boxes.map((box) => box.right));
  const bottom = Math.max(...boxes.map((box) => box.bottom));
  return { left, top, width: Math.ceil(right - left), height: Math.ceil(bottom - top) };
}

// Every canvas and SVG that a component shows, each in its place.
function ofComponent(place) {
  const seen = (one) => one.getBoundingClientRect().width > 24 && !one.parentElement?.closest("svg")
    && !one.closest("button");
  const parts = [...deep(place, "canvas").filter(seen).map(ofCanvas),
    ...deep(place, "svg").filter(seen).map(ofSvg)];
  if (!parts.length) return null;
  const frame = around(parts.map((part) => part.box)), picture = node("svg", {});
  for (const { picture: part, box } of parts) {
    part.setAttribute("x", box.left - frame.left);
    part.setAttribute("y", box.top - frame.top);
    part.setAttribute("width", box.width);
    part.setAttribute("height", box.height);
    picture.append(part);
  }
  return { picture, width: frame.width, height: frame.height };
}

async function drawn(key, look) {
  const place = document.querySelector(`.st-key-${CSS.escape(key)}`);
  if (!place) return null;
  const plot = place.querySelector(".js-plotly-plot");
  return plot ? ofPlot(plot, look) : ofComponent(place);
}

const pen = document.createElement("canvas").getContext("2d");

function wrapped(text, width, font) {
  pen.font = font;
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
    if (lines.at(-1) && pen.measureText(longer).width > width) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}

function addLegend(svg, legend, width, y, look) {
  let x = PAD, line = y + LINE;
  pen.font = `${SIZE}px ${look.font}`;
  for (const { sign, text, colour } of legend) {
    const wide = pen.measureText(`${sign} ${text}`).width + 20;
    if (x > PAD && x + wide > width) [x, line] = [PAD, line + LINE];
    const said = node("text", { x, y: line, "font-size": SIZE, "font-family": look.font }, svg);
    const mark = node("tspan", { fill: colour }, said), words = node("tspan", { fill: look.text }, said);
    mark.textContent = sign;
    words.textContent = ` ${text}`;
    x += wide;
  }
  return legend.length ? line + LINE / 2 : y;
}

// The whole picture, and its size in pixels.
function framed({ picture, width, height }, data, look) {
  const svg = node("svg", { xmlns: SVG });
  const back = node("rect", { x: 0, y: 0, fill: look.back }, svg);
  picture.setAttribute("width", width);
  picture.setAttribute("height", height);
  svg.append(picture);
  let y = addLegend(svg, data.legend, width, height, look);
  for (const line of wrapped(data.provenance, width - 2 * PAD, `${SIZE}px ${look.font}`)) {
    y += LINE;
    node("text", { x: PAD, y, fill: look.text, "font-size": SIZE, "font-family": look.font,
      class: "provenance" }, svg).textContent = line;
  }
  const size = { width, height: Math.ceil(y + LINE / 2 + 2) };
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
  const style = getComputedStyle(root), of = (name) => style.getPropertyValue(`--st-${name}`).trim();
  return { back: of("background-color"), text: of("text-color"),
    font: of("font").replaceAll('"', "'") || "sans-serif" };
}
