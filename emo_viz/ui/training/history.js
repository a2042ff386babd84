const STEP_MS = 1100; // a checkpoint while it plays
const MOVE_MS = 600; // of which points move so long
const POINT = 7; // pixels
const NEAR = 14; // pixels from a point within which it is pointed at

class Steps {
  constructor(root, data) {
    Object.assign(this, { root, data, document: null, group: null });
    this.at = this.shown = data.steps.length - 1;
    this.member = shorts(data.member);
    this.runs = data.runs.map((run) => ({ ...run, places: shorts(run.places) }));
    const logs = data.steps.map((step) => Math.log(Math.max(step, 1)));
    const [low, high] = [Math.min(...logs), Math.max(...logs)];
    this.shares = logs.map((log) => (high > low ? (log - low) / (high - low) : 0.5));
    root.replaceChildren();
    const says = add(root, "div");
    says.setAttribute("role", "status");
    this.says = add(says, "h2", "says");
    this.controls();
    const maps = add(root, "div", "maps");
    this.runs.forEach((run) => this.map(run, maps));
    this.readout = add(root, "div", "readout");
    this.legend();
    this.charts();
    this.watch = new ResizeObserver(() => this.paint());
    this.watch.observe(root);
    this.paint();
  }

  controls() {
    const { steps } = this.data;
    this.player = new Player(this.root, {
      name: "Checkpoint",
      title: "Go through the checkpoints",
      last: steps.length - 1,
      ticks: steps.map((step, place) => [place, step.toLocaleString("en")]),
      moved: (place) => this.go(place),
      begin: () => this.start(),
    });
  }

  start() {
    const last = this.data.steps.length - 1;
    if (this.at === last) this.go(0);
    this.player.play(() => {
      this.go(this.at + 1);
      if (this.at >= last) this.player.stop();
    }, STEP_MS);
  }

  // The points move from where they are; whoever wants less motion sees them jump.
  go(to) {
    this.at = to;
    const from = this.shown, began = performance.now();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    cancelAnimationFrame(this.moving);
    const move = (now) => {
      const done = still ? 1 : Math.min(1, (now - began) / MOVE_MS);
      this.shown = from + (to - from) * (done * done * (3 - 2 * done));
      this.runs.forEach((run) => this.points(run));
      if (done < 1) this.moving = requestAnimationFrame(move);
    };
    this.paint();
    this.moving = requestAnimationFrame(move);
  }

  map(run, place) {
    const box = add(place, "div");
    box.style.setProperty("--colour", run.colour);
    const head = add(box, "h3");
    add(head, "span", "name", run.label);
    run.fact = add(head, "span", "fact");
    run.canvas = add(box, "canvas");
    run.canvas.tabIndex = 0;
    run.canvas.setAttribute("role", "img");
    run.canvas.onpointermove = (event) => this.look(this.nearest(run, event));
    run.canvas.onpointerleave = () => this.look(null);
    run.canvas.onkeydown = (event) => this.walk(event);
  }

  walk(event) {
    const count = this.data.documents.length, now = this.document ?? -1;
    const moves = {
      ArrowRight: (now + 1) % count, ArrowDown: (now + 1) % count,
      ArrowLeft: (now - 1 + count) % count, ArrowUp: (now - 1 + count) % count, Escape: null,
    };
    if (!(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.look(moves[event.key]);
  }

  look(document) {
    if (document === this.document) return;
    this.document = document;
    this.runs.forEach((run) => this.points(run));
    this.told();
  }

  told() {
    const { documents } = this.data;
    if (this.document === null) {
      this.readout.textContent = `Each point is one of ${documents.length.toLocaleString("en")} `
        + "documents; near ones are routed alike. Point at one; click a domain to see it alone.";
      return;
    }
    const [domain, source, opening] = documents[this.document];
    this.readout.textContent = [domain, source, `“${opening}…”`].filter(Boolean).join(" · ");
  }

  // Where a step lies among a run's own: its place, between two while points move.
  place(run, shown) {
    const own = (index) => {
      const step = this.data.steps[index];
      const later = run.steps.findIndex((each) => each > step);
      return Math.max(0, (later < 0 ? run.steps.length : later) - 1);
    };
    const low = Math.floor(shown), part = shown - low;
    const high = Math.min(low + 1, this.data.steps.length - 1);
    return [own(low), own(high), part];
  }

  spots(run) {
    const count = this.data.documents.length;
    const [wide, deep] = [run.canvas.clientWidth, run.canvas.clientHeight];
    const fit = Math.min((wide - 28) / run.wide[0], (deep - 28) / run.wide[1]) / 65535;
    const left = (wide - fit * 65535 * run.wide[0]) / 2, top = (deep - fit * 65535 * run.wide[1]) / 2;
    const [from, to, part] = this.place(run, this.shown);
    const found = new Float32Array(2 * count);
    for (let i = 0; i < 2 * count; i += 1) {
      const one = run.places[2 * count * from + i], other = run.places[2 * count * to + i];
      const at = one + (other - one) * part;
      found[i] = i % 2 ? deep - top - at * fit : left + at * fit;
    }
    return found;
  }

  nearest(run, event) {
    const box = run.canvas.getBoundingClientRect(), spots = this.spots(run);
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, least = NEAR;
    for (let i = 0; i < spots.length / 2; i += 1) {
      const far = Math.hypot(spots[2 * i] - x, spots[2 * i + 1] - y);
      if (far < least && this.lit(i)) [best, least] = [i, far];
    }
    return best;
  }

  lit(document) {
    return this.group === null || this.member[document] === this.group;
  }

  points(run) {
    const c = sized(run.canvas), ratio = window.devicePixelRatio || 1;
    if (!c) return;
    run.sprites ??= this.data.groups.map((group) => sprite(group, POINT / 2, ratio));
    const half = run.sprites[0].width / ratio / 2, spots = this.spots(run);
    for (const lit of [false, true]) {
      for (let i = 0; i < spots.length / 2; i += 1) {
        if (this.lit(i) !== lit) continue;
        c.globalAlpha = lit ? 0.88 : 0.07;
        const [x, y] = [spots[2 * i], spots[2 * i + 1]];
        c.drawImage(run.sprites[this.member[i]], x - half, y - half, 2 * half, 2 * half);
      }
    }
    c.globalAlpha = 1;
    if (this.document === null) return;
    c.strokeStyle = getComputedStyle(run.canvas).color;
    c.lineWidth = 2;
    c.beginPath();
    c.arc(spots[2 * this.document], spots[2 * this.document + 1], POINT + 2, 0, 2 * Math.PI);
    c.stroke();
  }

  legend() {
    const place = add(this.root, "div", "legend");
    place.setAttribute("role", "group");
    place.setAttribute("aria-label", "Domains");
    this.chips = this.data.groups.map((group, index) => {
      const chip = add(place, "button");
      chip.type = "button";
      chip.onclick = () => this.only(this.group === index ? null : index);
      const sign = add(chip, "span", "sign", group.sign);
      sign.style.color = group.colour;
      sign.setAttribute("aria-hidden", "true");
      add(chip, "span", "", group.name);
      return chip;
    });
  }

  only(group) {
    this.group = group;
    this.chips.forEach((chip, index) => chip.setAttribute("aria-pressed", index === group));
    this.runs.forEach((run) => this.points(run));
  }

  charts() {
    const place = add(this.root, "div", "charts");
    const cuts = this.runs.flatMap((run) => run.cuts.flat(2));
    this.cuts = new Frame(place, "Loss added by keeping K experts, nats a token",
      Math.min(0, ...cuts), Math.max(...cuts));
    this.frames = this.data.measures.map((measure) => {
      const values = this.runs.flatMap((run) => run.measures[measure.name].flat());
      const low = measure.least ?? Math.min(...values);
      return { measure, frame: new Frame(place, measure.title, low, Math.max(...values)) };
    });
  }

  chart() {
    const { keeps } = this.data;
    const shares = keeps.map((_, place) => place / Math.max(1, keeps.length - 1));
    this.cuts.clear();
    this.cuts.below(shares, keeps.map(String), "Experts kept in every layer");
    this.runs.forEach((run) => this.cuts.line(run, shares, run.cuts[this.own(run)]));
    this.cuts.svg.setAttribute("aria-label", this.cuts.head.textContent);
    this.frames.forEach(({ measure, frame }) => this.overSteps(measure, frame));
  }

  overSteps(measure, frame) {
    frame.clear();
    frame.below(this.shares, this.data.steps.map((step) => step.toLocaleString("en")), "Step");
    const now = frame.x(this.shares[this.at]);
    node("line", frame.svg, {
      class: "now", x1: now, x2: now, y1: EDGE.top, y2: frame.deep - EDGE.bottom,
    });
    const said = this.runs.map((run) => {
      const spans = run.measures[measure.name];
      const shares = run.steps.map((step) => this.shares[this.data.steps.indexOf(step)]);
      frame.line(run, shares, spans);
      const value = spans[this.own(run)][0];
      frame.dot(run, shares[this.own(run)], value, 5);
      return `${run.label} ${value.toFixed(2)}`;
    });
    frame.svg.setAttribute("aria-label", `${measure.title}: ${said.join(", ")}`);
    frame.head.textContent = measure.title;
    add(frame.head, "span", "fact", `: ${said.join(", ")}`);
  }

  own(run) {
    return this.place(run, this.at)[0];
  }

  paint() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.words();
      this.told();
      this.runs.forEach((run) => this.points(run));
      this.chart();
    });
  }

  words() {
    const step = this.data.steps[this.at], text = `Step ${step.toLocaleString("en")}`;
    this.player.show(this.at, text);
    const parts = [["At step ", ""], [step.toLocaleString("en"), "b"], [", with ", ""],
      [`${this.data.keeps[this.data.notch]} of ${this.data.keeps.at(-1)}`, "b"],
      [" experts of a document's domain, ", ""]];
    this.runs.forEach((run, place) => {
      const cost = run.cuts[this.own(run)][this.data.notch][0];
      if (place) parts.push(["; ", ""]);
      const verb = cost < 0 ? "gains" : "loses";
      const own = run.steps[this.own(run)];
      const when = own === step ? "" : ` (at step ${own.toLocaleString("en")})`;
      parts.push([run.label, run.colour], [`${when} ${verb} ${Math.abs(cost).toFixed(3)} nats a token`, ""]);
    });
    this.says.replaceChildren(...[...parts, [".", ""]].map(([words, kind]) => {
      if (!kind) return document.createTextNode(words);
      const bold = make("b", kind === "b" ? "" : "run", words);
      if (kind !== "b") bold.style.setProperty("--colour", kind);
      return bold;
    }));
    this.runs.forEach((run) => {
      const own = run.steps[this.own(run)];
      run.fact.textContent = (own === step ? "" : ` at step ${own.toLocaleString("en")}`)
        + `: map of routing (${Math.round(100 * run.shown)} % of its variance)`;
      run.canvas.setAttribute("aria-label", `${run.label} at step ${own}: a map of `
        + `${this.data.documents.length} documents by their routing.`);
    });
  }

  end() {
    this.player.stop();
    this.watch.disconnect();
  }
}

const drawn = new WeakMap();

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".history");
  const before = drawn.get(root);
  if (before && before.data.key === data.key) return;
  if (before) before.end();
  drawn.set(root, new Steps(root, data));
}
