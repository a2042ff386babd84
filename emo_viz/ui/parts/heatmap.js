// The heatmap's hands: pointer, wheel, keys, and what it tells others of its group and the server.
const WHOLE = "A double click shows the whole text.";
const HINT = "Drag zooms, a double click shows the whole text, a click chooses.";
const MORE = "Ctrl and the wheel zooms. The arrow keys walk, Enter chooses, Escape clears, plus and "
  + "minus zoom, 0 shows the whole text.";

function build(root) {
  const stage = add(root, "div", "stage");
  stage.tabIndex = 0;
  stage.setAttribute("role", "application");
  stage.setAttribute("aria-roledescription", "heatmap");
  const foot = add(root, "div", "foot"), key = add(foot, "div", "key");
  const parts = {
    stage, foot, key, cells: add(stage, "canvas", "cells"), marks: add(stage, "canvas", "marks"),
    tip: add(stage, "div", "tip"), rows: add(foot, "button", "rows"),
    all: add(foot, "button", "all"), hint: add(foot, "span", "hint"),
    heard: add(root, "div", "heard"),
  };
  parts.tip.hidden = true;
  parts.rows.textContent = "Readable rows";
  parts.all.textContent = "Whole text";
  parts.hint.textContent = HINT;
  parts.hint.title = MORE;
  parts.heard.setAttribute("aria-live", "polite");
  return parts;
}

function themeOf(root) {
  const style = getComputedStyle(root);
  const of = (name) => style.getPropertyValue(`--st-${name}`).trim();
  const text = of("text-color") || style.color;
  return { text, faint: `color-mix(in srgb, ${text} 65%, transparent)`, font: style.fontFamily,
    veil: `color-mix(in srgb, ${text} 12%, transparent)`,
    panel: of("secondary-background-color") };
}

class Heatmap {
  constructor(root) {
    this.root = root;
    this.parts = build(root);
    this.cursor = null; // {row, column, panel}: column and panel are null beside the panels
    this.guest = null; // a row that another picture points at
    this.drag = null;
    this.listen();
  }

  take(data, send) {
    this.send = send;
    const before = this.shown;
    this.shown = decoded(data);
    this.keep(before);
    this.key();
    const names = data.sides.map((side) => side.label).join(" and ");
    const what = data.columns === "expert"
      ? `Experts that each of ${data.tokens.length} tokens uses in ${names}`
      : `${names}, of each of ${data.tokens.length} tokens by ${data.columns}`;
    this.parts.stage.setAttribute("aria-label", `${what}. Arrow keys walk through tokens and `
      + `${data.columns}s, Enter picks, Escape clears, plus and minus zoom, 0 shows the whole text.`);
    this.size();
    this.follow(before === undefined);
  }

  // Rows that were zoomed to stay in another picture of the same text.
  keep(before) {
    const { tokens, widest, many, differences } = this.shown;
    const same = before && JSON.stringify(before.tokens) === JSON.stringify(tokens);
    const alike = same && before.many === many && before.widest === widest
      && before.differences === differences;
    if (!same || (!this.moved && before.many !== many)) this.view = null;
    else if (!alike) Object.assign(this.view, { left: 0, right: widest });
    if (!alike) this.cursor = null;
  }

  get look() { return (window.emoVizLooks ??= {})[this.shown.group] ??= {}; }

  key() {
    const { key } = this.parts, { sides, top, low: least, beyond, what, differences } = this.shown;
    key.replaceChildren();
    key.hidden = !what;
    const low = add(key, "span", ""), ramp = add(key, "span", "ramp");
    const high = add(key, "span", ""), form = (value) => Number(value.toPrecision(2));
    low.textContent = differences ? `−${form(top)}` : least ? `${beyond[0] ? "≤ " : ""}${form(least)}` : "0";
    high.textContent = least !== null ? `${beyond[1] ? "≥ " : ""}${form(top)} ${what}`
      : `${differences ? "+" : ""}${form(top)} ${what} (square-root scale)`;
    const levels = [1, 32, 64, 96, 128, 160, 192, 224, 255];
    for (const { colours } of sides) { // a stripe for each
      const stops = levels.map((level) => colours[level]).join(", ");
      add(ramp, "span", "stripe").style.background = `linear-gradient(to right, ${stops})`;
    }
  }

  around(name) { return this.root.getRootNode().host?.closest(`[data-testid="${name}"]`); }

  // The picture, what its colours mean and its buttons end above the window's edge, unless they
  // begin so far down that one has to scroll anyway.
  height() {
    const { stage, foot } = this.parts, main = this.around("stMain");
    const top = stage.getBoundingClientRect().top + (main?.scrollTop ?? 0);
    const room = window.innerHeight - top - foot.offsetHeight - BELOW;
    return room < LOWEST ? this.shown.pixels : Math.round(Math.min(this.shown.pixels, room));
  }

  size() {
    const width = this.parts.stage.clientWidth;
    if (!width) return;
    const height = (this.pixels = this.height());
    const ratio = window.devicePixelRatio || 1;
    this.parts.stage.style.height = `${height}px`;
    for (const canvas of [this.parts.cells, this.parts.marks]) {
      if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
      if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    }
    this.width = width;
    if (!this.view) this.readable(this.shown.whole);
    this.settle();
  }

  // Rows whose texts can be read; the whole text where it is short or there are many pictures.
  readable(whole = false) {
    const large = larger(), height = this.pixels - (HEAD + AXIS) * large;
    const { count, widest, many } = this.shown;
    const rows = many || whole || height / count >= SHORTEST * large
      ? count : Math.floor(height / (ROW * large));
    const middle = (this.look.selected ?? 1) - 1;
    const top = Math.max(0, Math.min(count - rows, middle - Math.floor(rows / 2)));
    this.view = { top, bottom: top + rows, left: 0, right: widest };
    this.moved = false;
  }

  whole() { this.go({ top: 0, bottom: this.shown.count, left: 0, right: this.shown.widest }); }

  // To what the visitor asks for.
  go(view) {
    Object.assign(this.view, view);
    this.moved = true;
    this.arrive();
  }

  // The text beside the picture begins with its first row.
  arrive() {
    this.settle();
    document.dispatchEvent(new CustomEvent("emo-viz-rows",
      { detail: { group: this.shown.group, first: Math.floor(this.view.top) + 1 } }));
  }

  settle() {
    const { count, widest } = this.shown, view = this.view;
    const into = (low, high, end, least) => {
      const size = Math.min(Math.max(high - low, least), end);
      const from = Math.min(Math.max(0, low), end - size);
      return [from, from + size];
    };
    [view.top, view.bottom] = into(view.top, view.bottom, count, Math.min(count, 3));
    [view.left, view.right] = into(view.left, view.right, widest, Math.min(widest, 3));
    const whole = view.bottom - view.top >= count;
    this.at = places(this.shown, this.width, this.pixels, whole);
    this.theme = themeOf(this.root);
    const rows = [Math.floor(view.top) + 1, Math.ceil(view.bottom)];
    this.root.dataset.rows = rows.join(" ");
    this.root.dataset.shows = JSON.stringify({ [this.shown.rows]: rows.join(" to ") });
    const none = this.shown.byExpert && this.at.panels.find((one) => isEmpty(this.shown, one, view));
    const of = none && `${none.side.label}, layer ${none.layer.number}`;
    this.parts.hint.textContent = none
      ? `Nothing in ${of}: these tokens use none of these experts. ${WHOLE}` : HINT;
    this.later();
  }

  later() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => {
      onCanvas(this.parts.cells, (context, ratio) =>
        picture(context, ratio, this.shown, this.at, this.view, this.theme));
      this.mark();
    });
  }

  mark() {
    const { cursor, look } = this;
    const row = cursor ? cursor.row : this.guest;
    const over = cursor && cursor.panel !== null ? this.at.panels[cursor.panel] : null;
    const expert = over ? over.layer.order[cursor.column] : null;
    const seen = { row, expert, layer: over?.l, side: over?.s, selected: look.selected,
      followed: look.followed, drag: this.drag?.box };
    onCanvas(this.parts.marks, (context, ratio) =>
      marks(context, ratio, this.shown, this.at, this.view, this.theme, seen));
    this.root.dataset.selected = look.selected ?? "";
  }

  // The chosen token, wherever it was chosen, comes into sight.
  follow(first) {
    const { selected } = this.look;
    if (selected && selected !== this.shownToken && !first) this.show(selected - 1, true);
    this.shownToken = selected;
    this.mark();
  }

  show(row, inTheMiddle = false) {
    const { top, bottom } = this.view, rows = bottom - top;
    if (row >= top && row + 1 <= bottom) return;
    const least = row < top ? row : row + 1 - rows;
    this.view.top = inTheMiddle ? row - Math.floor(rows / 2) : least;
    this.view.bottom = this.view.top + rows;
    this.settle();
  }

  hit(x, y) {
    const { panels, gutter } = this.at, { count } = this.shown;
    const inside = (one) => y >= one.y && y < one.y + one.h;
    const panel = panels.findIndex((one) => inside(one) && x >= one.x && x < one.x + one.w);
    const beside = panels.find((one) => inside(one) && one.first && x < gutter);
    const one = panel < 0 ? beside : panels[panel];
    if (!one) return null;
    const row = Math.min(count - 1, Math.floor(rowAt(one, this.view, y)));
    const column = Math.floor(columnAt(one, this.view, x));
    if (panel < 0 || column >= one.layer.order.length) return { row, column: null, panel: null };
    return { row, column, panel };
  }

  point(cursor, x, y) {
    this.cursor = cursor;
    const row = cursor ? cursor.row : null;
    if (row !== this.told) {
      this.told = row;
      document.dispatchEvent(new CustomEvent("emo-viz-hover",
        { detail: { group: this.shown.group, from: this.root, token: row === null ? null : row + 1 } }));
    }
    this.say(x, y);
    this.mark();
  }

  lines({ row, column, panel }) {
    const { tokens, sides, count, what, differences, byExpert, columns, sameIds } = this.shown;
    const said = [`Token ${row + 1} of ${count}: “${tokens[row]}”`];
    if (panel === null) return said;
    const over = this.at.panels[panel], expert = over.layer.order[column];
    for (const side of sides) {
      if (!sameIds && side !== over.side) continue; // an id there is another expert
      const layer = side.layers[over.l];
      if (!layer || expert >= layer.order.length) continue;
      const here = layer.ids.subarray(row * layer.slots, (row + 1) * layer.slots);
      const slot = here.findIndex(
        (id, i) => id === expert && layer.levels[row * layer.slots + i] > 0);
      const level = slot < 0 ? 0 : layer.levels[row * layer.slots + slot];
      if (!byExpert) {
        const value = level ? `${what} ${this.value(level)}` : "not compared";
        said.push(`${columns} ${nameOf(layer, expert)}: ${value}`);
        continue;
      }
      const where = `${side.label}, layer ${layer.number}: expert ${nameOf(layer, expert)}`;
      const value = what ? `, ${what} ${this.value(level)}` : "";
      const rank = differences ? "" : `, choice ${slot + 1} of ${layer.slots}`;
      said.push(slot < 0 ? `${where} is not used here` : `${where}${value}${rank}`);
    }
    return said;
  }

  value(level) {
    const { top, low, beyond, differences } = this.shown;
    if (low !== null) {
      const sign = level === 1 && beyond[0] ? "≤ " : level === 255 && beyond[1] ? "≥ " : "";
      return `${sign}${Number((low + ((top - low) * (level - 0.5)) / 254.5).toPrecision(2))}`;
    }
    if (!differences) return ((top * (level - 0.5) ** 2) / 255 ** 2).toPrecision(2);
    const root = (level - 128) / 127;
    return `${root < 0 ? "−" : "+"}${(top * root * root).toPrecision(2)}`;
  }

  say(x, y) {
    const { tip, heard, stage } = this.parts;
    tip.hidden = !this.cursor;
    if (!this.cursor) return;
    const said = this.lines(this.cursor);
    tip.replaceChildren();
    for (const line of said) add(tip, "div", "", line);
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => (heard.textContent = said.join(". ")), 250);
    const width = tip.offsetWidth, height = tip.offsetHeight;
    const left = x + 16 + width > stage.clientWidth ? x - width - 12 : x + 16;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${y + 18 + height > stage.clientHeight ? y - height - 10 : y + 18}px`;
  }

  pick(cursor) {
    const over = cursor.panel === null ? null : this.at.panels[cursor.panel];
    let follow = null;
    if (over) {
      const { order, ids, levels, slots, number } = over.layer, expert = order[cursor.column];
      const from = cursor.row * slots;
      const used = Array.from({ length: slots }, (_, slot) => from + slot)
        .some((slot) => ids[slot] === expert && levels[slot] > 0);
      if (used && this.shown.byExpert && !this.shown.differences) follow = { run: over.side.id, layer: number, expert };
    }
    this.choose({ token: cursor.row + 1, follow });
  }

  choose(picked) {
    const look = this.look, before = { token: look.selected ?? null, follow: look.followed ?? null };
    const same = picked.token === look.selected && (!picked.follow
      || JSON.stringify(picked.follow) === JSON.stringify(look.followed));
    look.selected = this.shownToken = picked.token;
    this.sayChosen(picked.token);
    if (picked.follow || picked.token === null) look.followed = picked.follow ?? null;
    document.dispatchEvent(new CustomEvent("emo-viz-look", { detail: { group: this.shown.group } }));
    if (same && picked.token !== null) return;
    Object.assign(this, { before, from: location.href });
    look.n += 1;
    this.send({ ...picked, n: look.n });
  }

  sayChosen(token) {
    clearTimeout(this.speaking);
    this.parts.heard.textContent = token === null ? "No token is chosen."
      : `Token ${token} is chosen; its experts are listed layer by layer.`;
  }

  // A double click only shows the whole text: what its first click has chosen is taken back.
  takeBack() {
    const { look, before } = this;
    this.whole();
    if (!before) return;
    this.before = null;
    look.selected = this.shownToken = before.token;
    look.followed = before.follow;
    look.n += 1;
    window.emoVizWalk?.takesBack(this.from);
    document.dispatchEvent(new CustomEvent("emo-viz-look", { detail: { group: this.shown.group } }));
    this.send({ ...before, back: true, n: look.n });
  }

  zoom(factor, x, y) {
    const view = this.view, over = this.at.panels.find(
      (one) => y >= one.y && y < one.y + one.h && x >= one.x && x < one.x + one.w);
    const panel = over ?? this.at.panels[0];
    const row = over ? rowAt(panel, view, y) : (view.top + view.bottom) / 2;
    const column = over ? columnAt(panel, view, x) : view.left;
    this.go({
      top: row - (row - view.top) * factor, bottom: row + (view.bottom - row) * factor,
      left: column - (column - view.left) * factor, right: column + (view.right - column) * factor,
    });
  }

  scrollTo(y) {
    const { rail: one } = this.at, rows = this.view.bottom - this.view.top;
    const middle = ((y - one.y) / one.h) * this.shown.count;
    this.go({ top: middle - rows / 2, bottom: middle + rows / 2 });
  }

  listen() {
    const { stage, rows, all } = this.parts;
    const at = (event) => {
      const box = stage.getBoundingClientRect();
      return [event.clientX - box.x, event.clientY - box.y];
    };
    stage.onpointerdown = (event) => event.button === 0 && this.down(event, ...at(event));
    stage.onpointermove = (event) => this.move(event, ...at(event));
    stage.onpointerup = (event) => this.up(...at(event));
    stage.onpointercancel = () => { this.drag = null; this.mark(); };
    stage.onpointerleave = (event) => !this.drag && leaves(stage, event) && this.point(null, 0, 0);
    stage.onclick = (event) => this.clicked(event, ...at(event));
    stage.ondblclick = () => this.takeBack();
    stage.onkeydown = (event) => this.typed(event);
    stage.onblur = () => this.point(null, 0, 0);
    stage.addEventListener("wheel", (event) => {
      const [x, y] = at(event), onRail = this.at.rail && x >= this.at.rail.x - 8;
      if (!event.ctrlKey && !onRail) return; // the wheel is the page's
      event.preventDefault();
      if (event.ctrlKey) this.zoom(event.deltaY > 0 ? 1.25 : 0.8, x, y);
      else this.shift(Math.sign(event.deltaY) * 3);
    }, { passive: false });
    rows.onclick = () => { this.readable(); this.arrive(); };
    all.onclick = () => this.whole();
    new ResizeObserver(() => this.shown && this.size()).observe(stage);
    // What comes or goes above the picture, or the window's edge, moves its foot.
    const moved = () => this.shown && this.height() !== this.pixels && this.size();
    const page = this.around("stMainBlockContainer");
    if (page) new ResizeObserver(moved).observe(page);
    const resized = () => {
      if (!this.root.isConnected) window.removeEventListener("resize", resized);
      else moved();
    };
    window.addEventListener("resize", resized);
    matchMedia("(prefers-color-scheme: dark)").onchange = () =>
      setTimeout(() => this.shown && this.settle(), 300);
    const hear = (name, act) => {
      const heard = (event) => {
        if (!this.root.isConnected) document.removeEventListener(name, heard);
        else if (event.detail.group === this.shown?.group && this.at) act(event.detail);
      };
      document.addEventListener(name, heard);
    };
    hear("emo-viz-look", () => this.follow(false));
    hear("emo-viz-hover", ({ from, token }) => {
      if (from === this.root) return;
      this.guest = token === null ? null : token - 1;
      this.mark();
    });
  }

  shift(rows) {
    this.go({ top: this.view.top + rows, bottom: this.view.bottom + rows });
  }

  down(event, x, y) {
    const onRail = this.at.rail && x >= this.at.rail.x - 8;
    const cursor = this.hit(x, y);
    if (!onRail && !cursor) return;
    this.parts.stage.setPointerCapture(event.pointerId);
    this.drag = { x, y, onRail, touch: event.pointerType === "touch", panel: cursor?.panel ?? null };
    if (onRail) this.scrollTo(y);
  }

  move(event, x, y) {
    const drag = this.drag;
    if (drag?.onRail) return this.scrollTo(y);
    if (!drag || drag.touch) return this.point(this.hit(x, y), x, y);
    if (Math.hypot(x - drag.x, y - drag.y) > 5 || drag.box) {
      this.parts.tip.hidden = true;
      drag.box = { x: Math.min(x, drag.x), y: Math.min(y, drag.y),
        w: Math.abs(x - drag.x), h: Math.abs(y - drag.y) };
      this.mark();
    }
  }

  up(x, y) {
    const drag = this.drag;
    this.drag = null;
    this.dragged = drag;
    if (drag?.box) this.zoomInto(drag);
  }

  clicked(event, x, y) {
    const { dragged } = this, cursor = this.hit(x, y);
    if (event.detail > 1 || !dragged || dragged.onRail || dragged.box) return;
    this.before = null;
    if (cursor) this.pick(cursor);
  }

  // To whole rows and columns. A flat drag zooms along one axis, and one beside the panels along
  // the rows.
  zoomInto({ box, panel, y }) {
    const one = panel === null
      ? this.at.panels.find((each) => y >= each.y && y < each.y + each.h) : this.at.panels[panel];
    const view = {};
    if (box.h > 8) {
      view.top = Math.floor(rowAt(one, this.view, box.y));
      view.bottom = Math.ceil(rowAt(one, this.view, box.y + box.h));
    }
    if (box.w > 8 && panel !== null) {
      view.left = Math.floor(columnAt(one, this.view, box.x));
      view.right = Math.ceil(columnAt(one, this.view, box.x + box.w));
    }
    this.go(view);
  }

  typed(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.shiftKey && event.key.startsWith("Arrow")) return; // the page's: another layer
    const { count } = this.shown, page = Math.max(1, Math.floor(this.view.bottom - this.view.top) - 1);
    const steps = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -count, End: count };
    const across = { ArrowLeft: -1, ArrowRight: 1 };
    const acts = {
      Enter: () => this.cursor && this.pick(this.cursor), " ": () => this.cursor && this.pick(this.cursor),
      Escape: () => this.choose({ token: null, follow: null }),
      "+": () => this.zoom(0.8, -1, -1), "-": () => this.zoom(1.25, -1, -1),
      0: () => this.whole(),
    };
    if (event.key in steps) this.walk(steps[event.key], 0);
    else if (event.key in across) this.walk(0, across[event.key]);
    else if (event.key in acts) acts[event.key]();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  walk(down, across) {
    const { panels } = this.at, { count } = this.shown;
    const from = this.cursor ?? { row: (this.look.selected ?? 1) - 1, column: 0, panel: 0 };
    let panel = from.panel ?? 0, column = (from.column ?? 0) + (this.cursor ? across : 0);
    const row = Math.min(count - 1, Math.max(0, from.row + (this.cursor ? down : 0)));
    const width = panels[panel].layer.order.length;
    if (column >= width && panel + 1 < panels.length) { panel += 1; column = 0; }
    if (column < 0 && panel > 0) { panel -= 1; column = panels[panel].layer.order.length - 1; }
    column = Math.min(Math.max(0, column), panels[panel].layer.order.length - 1);
    this.show(row);
    if (column < this.view.left || column + 1 > this.view.right) {
      const columns = this.view.right - this.view.left;
      this.view.left = column < this.view.left ? column : column + 1 - columns;
      this.view.right = this.view.left + columns;
      this.settle();
    }
    const one = this.at.panels[panel];
    this.point({ row, column, panel }, xOf(one, this.view, column + 1), yOf(one, this.view, row + 1));
  }
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".heatmap");
  root.map ??= new Heatmap(root);
  root.map.take(data, (picked) => setTriggerValue("picked", picked));
}
