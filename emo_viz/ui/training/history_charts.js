// The small charts beside the maps: lines over steps, and what a cut costs at one step.
const SVG = "http://www.w3.org/2000/svg";
const EDGE = { left: 40, right: 12, top: 8, bottom: 34 };

function node(kind, parent, given = {}, text = "") {
  const made = document.createElementNS(SVG, kind);
  Object.entries(given).forEach(([name, value]) => made.setAttribute(name, value));
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

// About four round numbers between two.
function rounds(low, high) {
  const rough = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(at);
  return found.map((each) => Math.round(each * 1e6) / 1e6);
}

// A frame with a grid: `x` and `y` are functions from values to pixels.
class Frame {
  constructor(place, title, low, high) {
    const box = add(place, "div");
    this.head = add(box, "h3", "", title);
    this.svg = node("svg", box);
    this.svg.setAttribute("role", "img");
    [this.low, this.high] = [low, high];
  }

  clear() {
    this.svg.replaceChildren();
    this.wide = this.svg.clientWidth || 300;
    this.deep = this.svg.clientHeight || 200;
    this.span = this.wide - EDGE.left - EDGE.right;
    rounds(this.low, this.high).forEach((value) => {
      const y = this.y(value);
      node("line", this.svg, { class: "grid", x1: EDGE.left, x2: this.wide - EDGE.right, y1: y, y2: y });
      node("text", this.svg, { x: EDGE.left - 6, y: y + 4, "text-anchor": "end" }, String(value));
    });
  }

  x(share) {
    return EDGE.left + share * this.span;
  }

  y(value) {
    const share = (value - this.low) / (this.high - this.low || 1);
    return this.deep - EDGE.bottom - share * (this.deep - EDGE.top - EDGE.bottom);
  }

  // Texts below the axis; those without room are left out.
  below(shares, texts, title) {
    let free = -Infinity;
    shares.forEach((share, i) => {
      const x = this.x(share), half = 4 * texts[i].length;
      if (x - half < free) return;
      free = x + half + 4;
      node("text", this.svg, { x, y: this.deep - EDGE.bottom + 15, "text-anchor": "middle" }, texts[i]);
    });
    const middle = EDGE.left + this.span / 2;
    node("text", this.svg, { x: middle, y: this.deep - 3, "text-anchor": "middle" }, title);
  }

  line(run, shares, spans) {
    const up = shares.map((x, i) => `${this.x(x)},${this.y(spans[i][2])}`);
    const down = shares.map((x, i) => `${this.x(x)},${this.y(spans[i][1])}`).reverse();
    node("polygon", this.svg, { points: [...up, ...down].join(" "), fill: run.colour, opacity: 0.18 });
    const points = shares.map((x, i) => `${this.x(x)},${this.y(spans[i][0])}`).join(" ");
    node("polyline", this.svg, {
      points, fill: "none", stroke: run.colour, "stroke-width": 2, "stroke-dasharray": run.dash,
    });
    shares.forEach((x, i) => this.dot(run, x, spans[i][0], 2.5));
  }

  dot(run, share, value, r) {
    const [x, y] = [this.x(share), this.y(value)];
    if (!run.dash) node("circle", this.svg, { cx: x, cy: y, r, fill: run.colour });
    else {
      const points = `${x},${y - 1.3 * r} ${x + 1.3 * r},${y} ${x},${y + 1.3 * r} ${x - 1.3 * r},${y}`;
      node("polygon", this.svg, { points, fill: run.colour });
    }
  }
}
