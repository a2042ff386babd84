const NONE = 65535;
// What Escape closes first.
const OPENED = '[role="dialog"], [data-baseweb="popover"], [data-testid="stPopoverBody"]';
const STEP_MS = 420; // of the notches while it plays
const SEND_AFTER_MS = 300; // of rest: a drag is one choice
const REVEAL_MS = 1500; // from the first row to the last
const MOST_EXPERTS = 4; // of a token that are named
const FULL_WEIGHT = 0.35; // the share of a token's routing from which on a cell is as dark as it gets

function unpack(run) {
  return {
    ...run,
    places: shorts(run.places),
    ids: shorts(run.ids),
    weights: bytes(run.weights),
    change: run.change && new Int8Array(bytes(run.change).buffer),
  };
}

// Whether a picture has not been seen on this visit, and may move.
function isNew(key) {
  const seen = (window.emoVizRevealed ??= new Set());
  if (seen.has(key)) return false;
  seen.add(key);
  return !matchMedia("(prefers-reduced-motion: reduce)").matches;
}

class First {
  constructor(root, data, send) {
    this.root = root;
    this.data = data;
    this.send = send;
    this.n = 0;
    this.runs = data.runs.map(unpack);
    this.notch = data.start;
    this.layer = data.layer;
    this.token = this.kept = null; // the one that is looked at, and the one that a click keeps
    this.looked = this.runs[0];
    root.replaceChildren();
    const says = add(root, "div");
    says.setAttribute("role", "status");
    this.says = add(says, "h2", "says");
    this.controls();
    const both = add(root, "div", data.map ? "both mapped" : "both");
    const place = add(both, "div", "runs");
    this.runs.forEach((run) => this.build(run, place));
    const map = data.map && new SmallMap(both, data.map, this.runs);
    this.below();
    this.watch = new ResizeObserver(() => {
      this.paint();
      map?.paint();
    });
    this.watch.observe(place);
    this.shown = 1; // the share of the rows that is drawn
    this.hear = () => {
      map?.leads(window.emoVizFirst?.slots ?? {});
      this.take(window.emoVizFirst);
    };
    document.addEventListener("emo-viz-first", this.hear);
    this.letGo = (event) => {
      if (event.key !== "Escape" || event.defaultPrevented || this.kept === null) return;
      if (document.querySelector(OPENED)) return;
      event.preventDefault();
      this.keep(null, this.runs[0]);
    };
    document.addEventListener("keydown", this.letGo);
    this.hear();
    this.paint();
    if (isNew(data.key)) this.reveal();
  }

  // Row by row, as the models read: once a picture, and whoever acts has it whole.
  reveal() {
    const begun = performance.now();
    const acts = ["pointerdown", "keydown", "input"];
    const step = (now) => {
      this.shown = Math.min(1, Math.max(0, now - begun) / REVEAL_MS);
      this.paint();
      if (this.shown < 1) this.revealing = requestAnimationFrame(step);
      else this.whole();
    };
    this.whole = () => {
      cancelAnimationFrame(this.revealing);
      acts.forEach((name) => document.removeEventListener(name, this.whole, true));
      this.shown = 1;
      this.paint();
    };
    acts.forEach((name) => document.addEventListener(name, this.whole, true));
    this.shown = 0;
    this.revealing = requestAnimationFrame(step);
  }

  // Where the address puts it; the visitor may have moved on while the server answered.
  take(place) {
    if (place?.of !== this.data.key) return;
    this.n = Math.max(this.n, place.heard);
    if (place.heard < this.n || this.player.timer) return;
    this.notch = place.notch;
    this.layer = place.layer;
    if (this.kept === place.token) return this.paint();
    this.kept = place.token;
    this.look(place.token, this.runs[0]);
  }

  tell() {
    const n = (this.n += 1);
    clearTimeout(this.pending);
    this.pending = setTimeout(() => {
      const { notch, layer, kept: token } = this;
      this.send({ notch, layer, token, n });
    }, SEND_AFTER_MS);
  }

  keep(token, run) {
    // The address counts the tokens of the first run.
    this.kept = token !== null && this.shows(this.runs[0], run) ? token : null;
    this.look(token, run);
    this.tell();
  }

  controls() {
    const { slider: name, notches } = this.data;
    const ticks = notches.map(({ tick }, place) => [place, tick]).filter(([, tick]) => tick);
    this.player = new Player(this.root, {
      name,
      title: "Take experts away, notch by notch",
      last: notches.length - 1,
      ticks,
      moved: (notch) => {
        this.notch = notch;
        this.paint();
        this.tell();
      },
      begin: () => this.start(),
      ended: () => this.tell(),
    });
    this.layerButtons(this.player.row);
  }

  layerButtons(row) {
    this.choices = [];
    const layers = this.data.layers;
    if (layers.length < 2) return;
    const group = add(row, "div", "layers");
    group.setAttribute("role", "radiogroup");
    group.setAttribute("aria-label", "Layer shown");
    add(group, "span", "", "Layer");
    const few = layers.length <= 8;
    const shown = layers.map((name, index) => ({ name, index }))
      .filter(({ index }) => few || index % Math.ceil(layers.length / 8) === 0
        || index === layers.length - 1);
    this.choices = shown.map(({ name, index }) => {
      const button = add(group, "button", "", String(name));
      button.type = "button";
      button.setAttribute("role", "radio");
      button.setAttribute("aria-label", `Layer ${name}`);
      button.onclick = () => this.show(index);
      button.onkeydown = (event) => this.layerKey(event);
      return { button, index };
    });
  }

  layerKey(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const count = this.choices.length;
    const now = this.choices.findIndex(({ index }) => index === this.layer);
    const next = this.choices[(now + step + count) % count];
    this.show(next.index);
    next.button.focus();
  }

  show(layer) {
    this.layer = layer;
    this.paint();
    this.tell();
  }

  build(run, place) {
    const box = add(place, "div", "run");
    box.style.setProperty("--colour", run.colour);
    const head = add(box, "h3");
    add(head, "span", "name", run.label);
    run.fact = add(head, "span", "fact");
    run.canvas = add(box, "canvas");
    run.canvas.tabIndex = 0;
    run.canvas.setAttribute("role", "application");
    run.canvas.setAttribute("aria-roledescription", "heatmap");
    run.canvas.onpointermove = (event) => this.point(run, event);
    run.canvas.onpointerleave = () => this.look(this.kept, this.runs[0]);
    run.canvas.onclick = (event) => this.toggle(this.row(run, event), run);
    run.canvas.onkeydown = (event) => this.walk(run, event);
    const axis = add(box, "div", "axis");
    add(axis, "span", "", this.data.axis[0]);
    add(axis, "span", "", this.data.axis[1]);
    run.text = add(box, "p", "text");
    run.spans = run.tokens.map((token, index) => {
      const span = add(run.text, "span", "", token);
      span.onpointerenter = () => this.look(index, run);
      span.onclick = () => this.toggle(index, run);
      return span;
    });
    run.text.onpointerleave = () => this.look(this.kept, this.runs[0]);
  }

  below() {
    const place = add(this.root, "div", "below");
    this.readout = add(place, "div", "readout");
    this.readout.setAttribute("role", "status");
    if (!this.runs.some((run) => run.change)) return;
    const { palette, reach, legend: words } = this.data;
    const legend = add(place, "div", "legend");
    add(legend, "span", "", `Loss against the whole model: −${reach} `);
    const scale = add(legend, "span", "scale");
    scale.style.background = `linear-gradient(to right, ${palette.join(",")})`;
    add(legend, "span", "", ` +${reach} nats a token. ${words}`);
  }

  start() {
    this.notch = this.data.notches.length - 1;
    this.paint();
    this.player.play(() => {
      this.notch -= 1;
      this.paint();
      if (this.notch <= 0) this.player.stop();
    }, STEP_MS);
  }

  toggle(token, run) {
    this.keep(this.kept === token ? null : token, run);
  }

  row(run, event) {
    const box = run.canvas.getBoundingClientRect();
    const place = (event.clientY - box.top) / box.height;
    return Math.min(run.tokens.length - 1, Math.max(0, Math.floor(place * run.tokens.length)));
  }

  point(run, event) {
    this.look(this.row(run, event), run);
  }

  walk(run, event) {
    const last = run.tokens.length - 1;
    const now = this.token ?? -1;
    const moves = {
      ArrowDown: Math.min(last, now + 1), ArrowUp: Math.max(0, now - 1),
      Home: 0, End: last, Escape: null,
    };
    if (!(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.keep(moves[event.key], run);
  }

  look(token, run) {
    this.token = token;
    this.looked = run;
    this.paint();
    if (token !== null) this.scroll(token);
  }

  scroll(token) {
    this.runs.filter((run) => this.shows(run)).forEach((run) => {
      const span = run.spans[token];
      if (!span || run.text.matches(":hover")) return;
      const top = span.offsetTop - run.text.offsetTop;
      const { scrollTop, clientHeight } = run.text;
      if (top < scrollTop || top + span.offsetHeight > scrollTop + clientHeight) {
        run.text.scrollTop = top - clientHeight / 2;
      }
    });
  }

  shows(run, looked = this.looked) {
    return this.data.linked || run === looked;
  }

  paint() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.words();
      this.runs.forEach((run) => {
        this.cells(run);
        this.letters(run);
      });
    });
  }

  words() {
    const notch = this.data.notches[this.notch];
    const shown = { home_k: notch.label, home_layer: String(this.data.layers[this.layer]) };
    this.root.dataset.shows = JSON.stringify(shown);
    this.headline(notch.says);
    this.player.show(this.notch, notch.label);
    this.choices.forEach(({ button, index }) => {
      button.setAttribute("aria-checked", index === this.layer);
      button.tabIndex = index === this.layer ? 0 : -1;
    });
    this.say();
  }

  // What is written anew is spoken anew, though it be the same.
  headline(parts) {
    if (this.spoken === parts) return;
    this.spoken = parts;
    this.says.replaceChildren(...parts.map((part) => {
      if (!part.strong) return document.createTextNode(part.text);
      const bold = make("b", part.colour && "run", part.text);
      if (part.colour) bold.style.setProperty("--colour", part.colour);
      return bold;
    }));
  }

  layerOf(run) {
    return run.at[this.layer];
  }

  // A line for each run that has the token; without one, what is shown.
  say() {
    const runs = this.token === null ? [] : this.runs.filter((run) => this.shows(run));
    const lines = runs.map((run) => ({ run, text: this.saidOf(run) }));
    const now = lines.map(({ run, text }) => run.label + text).join();
    if (this.told === now) return;
    this.told = now;
    this.readout.replaceChildren(...(runs.length ? [] : [this.data.hint]));
    lines.forEach(({ run, text }) => {
      const line = add(this.readout, "div");
      const name = add(line, "span", "name", run.label);
      name.style.setProperty("--colour", run.colour);
      add(line, "span", "", text);
    });
  }

  saidOf(run) {
    const layer = this.layerOf(run), { tokens } = run;
    const first = (layer * tokens.length + this.token) * run.slots;
    const experts = [];
    for (let slot = first; slot < first + run.slots; slot += 1) {
      if (run.ids[slot] !== NONE) {
        experts.push(`${run.ids[slot]} (${Math.round(run.weights[slot] / 2.55)} %)`);
      }
    }
    const more = experts.length > MOST_EXPERTS ? ` +${experts.length - MOST_EXPERTS}` : "";
    const change = run.change && this.changeOf(run, this.token);
    const loss = change === null ? "" : `; loss ${change < 0 ? "−" : "+"}`
      + `${Math.abs(change).toFixed(2)} nats`;
    return ` Token ${this.token + 1} of ${tokens.length} “${tokens[this.token]}”, layer `
      + `${run.layers[layer]}: experts ${experts.slice(0, MOST_EXPERTS).join(", ")}${more}${loss}`;
  }

  changeOf(run, token) {
    return run.change[this.notch * run.tokens.length + token] * this.data.unit;
  }

  cells(run) {
    const { canvas } = run;
    const layer = this.layerOf(run);
    const draw = sized(canvas);
    if (!draw) return;
    const { clientWidth: wide, clientHeight: high } = canvas;
    const kept = run.kept[this.notch][layer];
    const column = wide / run.routed[layer];
    const row = high / run.tokens.length;
    this.ground(run, draw, column * kept, wide, high);
    const [cellWide, cellHigh] = [Math.max(2, column * 0.95), Math.max(1.4, row * 0.95)];
    const from = layer * run.tokens.length * run.slots;
    const rows = Math.ceil(this.shown * run.tokens.length);
    for (let token = 0, slot = from; token < rows; token += 1) {
      for (let choice = 0; choice < run.slots; choice += 1, slot += 1) {
        const place = run.places[slot];
        if (place === NONE) continue;
        draw.fillStyle = place < kept ? run.colour : run.lost;
        const least = place < kept ? 0.3 : 0.5; // a lost one is rarely heavy, and must be seen
        const weight = run.weights[slot] / (255 * FULL_WEIGHT);
        draw.globalAlpha = Math.min(1, least + (1 - least) * weight);
        draw.fillRect(place * column, token * row, cellWide, cellHigh);
      }
    }
    draw.globalAlpha = 1;
    this.marks(run, draw, column * kept, row, wide, high);
    this.fact(run, kept, layer);
  }

  ground(run, draw, line, wide, high) {
    if (line >= wide - 0.5) return;
    draw.fillStyle = run.lost;
    draw.globalAlpha = 0.09;
    draw.fillRect(line, 0, wide - line, high);
    draw.globalAlpha = 1;
  }

  marks(run, draw, line, row, wide, high) {
    const ink = getComputedStyle(run.canvas).color;
    draw.strokeStyle = ink;
    if (line < wide - 0.5) {
      draw.lineWidth = 1.5;
      draw.setLineDash([5, 3]);
      draw.beginPath();
      draw.moveTo(line, 0);
      draw.lineTo(line, high);
      draw.stroke();
      draw.setLineDash([]);
    }
    if (this.token === null || !this.shows(run)) return;
    draw.lineWidth = 1;
    draw.strokeRect(0.5, this.token * row - 1, wide - 1, Math.max(row, 2) + 2);
  }

  fact(run, kept, layer) {
    const share = run.share[this.notch][layer];
    const lost = run.worse ? `; ${run.worse[this.notch]} of ${run.tokens.length} tokens worse` : "";
    const fact = kept >= run.routed[layer]
      ? "all experts kept" : `${share} % of its routing kept${lost}`;
    run.fact.textContent = run.aside[this.layer] + fact;
    const label = `${run.label}, layer ${run.layers[layer]}: ${run.tokens.length} tokens by `
      + `${run.routed[layer]} experts. ${fact}.`;
    run.canvas.setAttribute("aria-label", label);
  }

  letters(run) {
    const { palette, reach, marked } = this.data;
    const middle = (palette.length - 1) / 2;
    run.spans.forEach((span, index) => {
      const change = run.change ? this.changeOf(run, index) : 0;
      const shade = Math.max(-1, Math.min(1, change / reach));
      span.style.setProperty("--fill", palette[Math.round(middle + shade * middle)]);
      span.classList.toggle("worse", change > marked);
      span.classList.toggle("better", change < -marked);
      span.classList.toggle("later", index >= this.shown * run.spans.length);
      span.classList.toggle("here", this.shows(run) && index === this.token);
    });
  }

  end() {
    this.player.stop();
    this.whole?.();
    clearTimeout(this.pending);
    document.removeEventListener("emo-viz-first", this.hear);
    document.removeEventListener("keydown", this.letGo);
    this.watch.disconnect();
  }
}

const drawn = new WeakMap();

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".first");
  const send = (event) => setTriggerValue("moved", event);
  const before = drawn.get(root);
  if (before && before.data.key === data.key) before.send = send;
  else {
    before?.end();
    drawn.set(root, new First(root, data, send));
  }
  return () => {
    drawn.get(root)?.end();
    drawn.delete(root);
  };
}
