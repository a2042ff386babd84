// A canvas's context as far as heatmaps use one, that draws into an SVG. A canvas whose drawing can be
// done again has it as emoVizPaint(context, ratio); ratio: steps of a pixel that cells are rounded to.
const STEPS = 4;
const ANCHORS = { left: "start", center: "middle", right: "end" };
const MIDDLE = 0.35; // of a letter's size: from the middle of a line down to where its letters stand

class VectorPen {
  constructor(width, height, opacity) {
    this.picture = node("svg", { viewBox: `0 0 ${width} ${height}`, opacity });
    Object.assign(this, { place: this.picture, kept: [], fills: new Map(), scale: 1 / STEPS });
  }

  setTransform(scale) { this.scale = scale / STEPS; }

  save() {
    this.flush();
    this.kept.push({ ...this });
  }

  restore() {
    this.flush();
    Object.assign(this, this.kept.pop());
  }

  beginPath() {}

  rect(...box) { this.box = box; }

  // An SVG in an SVG shows nothing outside of itself.
  clip() {
    const [x, y, width, height] = this.box.map((each) => round(each * this.scale));
    const viewBox = `${x} ${y} ${width} ${height}`;
    this.place = node("svg", { x, y, width, height, viewBox, overflow: "hidden" }, this.place);
  }

  // All of one colour are one path: a picture has thousands of cells, of which none lies on another.
  fillRect(...box) {
    const [x, y, w, h] = box.map((each) => round(each * this.scale));
    if (!this.fills.has(this.fillStyle)) this.fills.set(this.fillStyle, []);
    this.fills.get(this.fillStyle).push(`M${x} ${y}h${w}v${h}h${-w}z`);
  }

  flush() {
    for (const [style, boxes] of this.fills) {
      const [fill, alpha] = plain(style);
      node("path", { d: boxes.join(""), fill, "fill-opacity": round(alpha) }, this.place);
    }
    this.fills.clear();
  }

  strokeRect(...box) {
    this.flush();
    const [x, y, width, height] = box.map((each) => round(each * this.scale));
    const [stroke, alpha] = plain(this.strokeStyle);
    const line = { stroke, "stroke-opacity": round(alpha), "stroke-width": this.lineWidth * this.scale };
    node("rect", { x, y, width, height, fill: "none", ...line }, this.place);
  }

  measureText(text) {
    const [weight, size] = this.letters();
    pen.font = `${weight} ${size}px ${FONT}`;
    return pen.measureText(text);
  }

  fillText(text, x, y) {
    this.flush();
    const [weight, size] = this.letters(), [fill, alpha] = plain(this.fillStyle);
    const down = this.textBaseline === "middle" ? MIDDLE * size : 0;
    node("text", { x: round(x), y: round(y + down), fill, "fill-opacity": round(alpha),
      "font-size": size, "font-weight": weight, "font-family": FONT,
      "text-anchor": ANCHORS[this.textAlign], "xml:space": "preserve" }, this.place)
      .textContent = text.replace(NOT_XML, "\ufffd");
  }

  letters() {
    const [, weight = "400", size] = this.font.match(/^(\d+ )?([\d.]+)px/);
    return [weight.trim(), Number(size)];
  }
}

function ofPaint(canvas, opacity) {
  const drawn = new VectorPen(canvas.clientWidth, canvas.clientHeight, opacity);
  canvas.emoVizPaint(drawn, STEPS);
  drawn.flush();
  return drawn.picture;
}
