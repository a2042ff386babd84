// Marks are found in what Plotly has worked out to draw (`calcdata`), places in its axes.
const CHART = '[data-testid="stPlotlyChart"]';
const HELP = "Arrow keys go from mark to mark, Enter chooses, Escape leaves.";
const LABEL_MS = 120; // Plotly draws a label for the pointer so often at most
const WALKED = ["heatmap", "scatter", "scattergl", "bar"];

let entered = null; // the chart of which a mark was chosen last

const plotOf = (chart) => chart.querySelector(".js-plotly-plot");

function prepare() {
  // The figure has a name, and its marks are read one by one: without them its numbers say nothing.
  for (const drawn of document.querySelectorAll(`${CHART}[aria-label] .main-svg:not([aria-hidden])`)) {
    drawn.setAttribute("aria-hidden", "true");
  }
  for (const chart of document.querySelectorAll(CHART)) {
    const plot = plotOf(chart);
    if (chart.tabIndex === 0 || !plot?.calcdata || !walks(plot).length) continue;
    chart.tabIndex = 0;
    chart.setAttribute("aria-description", HELP);
  }
}

// The marks of a trace as rows of {x, y}, in the axes' own numbers: cells of a heatmap, else one row.
function marks(trace, calculated) {
  if (trace.type === "heatmap") return cells(calculated[0]);
  const isThere = ({ x, y }) => [x, y].every((each) => typeof each === "number" && each === each);
  if (trace.type === "scattergl") return [given(trace).filter(isThere)];
  if (trace.type !== "bar") return [calculated.filter(isThere)];
  const bars = calculated.filter((mark) => typeof mark.s === "number");
  // p is the middle of all that stand side by side.
  const ends = bars.map(({ p0, p1, b, s }) => ({ at: (p0 + p1) / 2, end: b + s / 2 }));
  const across = trace.orientation === "h";
  return [ends.map(({ at, end }) => (across ? { x: end, y: at } : { x: at, y: end }))];
}

// What Plotly draws by WebGL it works out elsewhere; the pages give it numbers.
const given = ({ x, y }) => [...y].map((value, i) => ({ x: x ? x[i] : i, y: value }));

function cells({ x, y, z }) {
  const middle = (edges, i) => (edges[i] + (edges[i + 1] ?? edges[i])) / 2;
  return z.map((row, j) => [...row].map((_, i) => ({ x: middle(x, i), y: middle(y, j) })));
}

// All that can be walked in a chart, a trace each. Without a label of its own a trace says nothing.
function walks(plot) {
  return (plot._fullData ?? []).flatMap((trace, i) => {
    const told = trace.visible === true && trace.hoverinfo !== "skip";
    const calculated = plot.calcdata?.[i];
    if (!told || !WALKED.includes(trace.type) || !calculated?.length) return [];
    const rows = marks(trace, calculated).filter((row) => row.length);
    return rows.length ? [{ rows, subplot: trace.xaxis + trace.yaxis, trace }] : [];
  });
}

// Whether a heatmap's first row is its lowest.
function isUpwards(plot, walk) {
  const { y } = axes(plot, walk), { rows } = walk;
  return y.c2p(rows[0][0].y) > y.c2p(rows.at(-1)[0].y);
}

function axes(plot, { trace }) {
  const named = (id) => plot._fullLayout[`${id[0]}axis${id.slice(1)}`];
  return { x: named(trace.xaxis), y: named(trace.yaxis) };
}

// Whether what stands in a row goes down the page: bars that lie, or one point for every name there.
function isUpright(plot, walk) {
  return walk.trace.orientation === "h" || axes(plot, walk).y.type === "category";
}

function place(plot, walk, mark) {
  const { x, y } = axes(plot, walk);
  const box = plot.querySelector(`.nsewdrag[data-subplot="${walk.subplot}"]`);
  if (!box) return null;
  const edges = box.getBoundingClientRect(), at = [x.c2p(mark.x), y.c2p(mark.y)];
  const scale = edges.width / x._length || 1;
  return { box, clientX: edges.left + at[0] * scale, clientY: edges.top + at[1] * scale };
}

function point(plot, walk, mark, kinds) {
  const found = place(plot, walk, mark);
  if (!found || !Number.isFinite(found.clientX + found.clientY)) return;
  const { box, clientX, clientY } = found;
  for (const kind of kinds) {
    const how = { clientX, clientY, bubbles: true, cancelable: true, view: window };
    box.dispatchEvent(new MouseEvent(kind, how));
  }
}

// The nearest mark of another trace, so that a step from run to run stays where it is.
function nearest(row, mark, upright) {
  const along = upright ? "y" : "x";
  const far = (each) => Math.abs(each[along] - mark[along]);
  return row.reduce((best, each, i) => (far(each) < far(row[best]) ? i : best), 0);
}

function stepped(plot, all, now, key) {
  const { rows, subplot } = all[now.walk], last = rows[now.row].length - 1;
  const flip = rows.length > 1 && isUpwards(plot, all[now.walk]) ? -1 : 1;
  const upright = rows.length === 1 && isUpright(plot, all[now.walk]);
  const along = (step) => ({ ...now, column: Math.max(0, Math.min(last, now.column + step)) });
  const across = (step) => {
    if (rows.length > 1) {
      const row = Math.max(0, Math.min(rows.length - 1, now.row + step * flip));
      return { ...now, row };
    }
    const same = all.flatMap((each, i) => (each.subplot === subplot ? [i] : []));
    const walk = same[(same.indexOf(now.walk) + step + same.length) % same.length];
    return { walk, row: 0, column: nearest(all[walk].rows[0], rows[0][now.column], upright) };
  };
  const [forth, back] = upright ? ["ArrowDown", "ArrowUp"] : ["ArrowRight", "ArrowLeft"];
  const [next, before] = upright ? ["ArrowRight", "ArrowLeft"] : ["ArrowDown", "ArrowUp"];
  return {
    [forth]: () => along(1), [back]: () => along(-1),
    [next]: () => across(1), [before]: () => across(-1),
    Home: () => ({ ...now, column: 0 }), End: () => ({ ...now, column: last }),
    PageDown: () => otherWalk(all, now, 1), PageUp: () => otherWalk(all, now, -1),
  }[key]?.();
}

function otherWalk(all, now, step) {
  return { walk: (now.walk + step + all.length) % all.length, row: 0, column: 0 };
}

function there(all, now) {
  const known = now && all[now.walk]?.rows[now.row]?.[now.column];
  return known ? now : null;
}

function read(plot, said) {
  const labels = [...plot.querySelectorAll(".hoverlayer :is(.hovertext, .axistext)")];
  const lines = labels.flatMap((label) => [...label.querySelectorAll("text")]).flatMap((text) => {
    const parts = [...text.querySelectorAll("tspan.line")];
    return (parts.length ? parts : [text]).map((part) => part.textContent);
  });
  said.textContent = lines.filter(Boolean).join("; ");
}

function walk(event, chart, said) {
  const plot = plotOf(chart), all = plot ? walks(plot) : [];
  if (!all.length) return;
  const now = there(all, chart.emoVizMark);
  if (event.key === "Enter" && now) {
    event.preventDefault();
    entered = chart;
    const mark = all[now.walk].rows[now.row][now.column];
    point(plot, all[now.walk], mark, ["mousemove", "mousedown", "mouseup", "click"]);
    return;
  }
  if (event.key === "Escape" && now) {
    leave(chart, all);
    event.preventDefault();
    return;
  }
  const first = { walk: 0, row: 0, column: 0 };
  const next = stepped(plot, all, now ?? first, event.key);
  if (!next) return;
  event.preventDefault();
  event.stopPropagation();
  chart.emoVizMark = now ? next : first;
  show(chart, all, said);
}

// A chart that is gone for what it has opened takes the focus along.
function arrive() {
  if (!entered || entered.isConnected) return;
  entered = null;
  const heading = document.querySelector('[data-testid="stMain"] h1');
  if (!heading || document.activeElement !== document.body) return;
  heading.tabIndex = -1;
  heading.style.outline = "none"; // nothing can be done with it
  heading.focus();
}

function show(chart, all, said) {
  const { walk: which, row, column } = chart.emoVizMark, plot = plotOf(chart);
  const mark = all[which].rows[row][column];
  point(plot, all[which], mark, ["mouseover", "mousemove"]);
  clearTimeout(chart.emoVizRead);
  chart.emoVizRead = setTimeout(() => {
    if (!plot.isConnected || !plot._fullLayout) return;
    point(plot, all[which], mark, ["mousemove"]); // one that came too soon after another is dropped
    requestAnimationFrame(() => read(plot, said));
  }, LABEL_MS);
}

function leave(chart, all) {
  clearTimeout(chart.emoVizRead);
  const { walk: which, row, column } = chart.emoVizMark;
  point(plotOf(chart), all[which], all[which].rows[row][column], ["mouseout"]);
  chart.emoVizMark = null;
}

export default function ({ parentElement }) {
  const said = parentElement.querySelector(".read");
  const onKey = (event) => {
    const chart = event.target instanceof Element && event.target.closest(CHART);
    if (!chart || event.target !== chart || event.defaultPrevented) return;
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    walk(event, chart, said);
  };
  const onBlur = (event) => {
    const chart = event.target instanceof Element && event.target.closest(CHART);
    const plot = chart && chart.emoVizMark && plotOf(chart);
    const all = plot?._fullLayout ? walks(plot) : [];
    if (all.length && there(all, chart.emoVizMark)) leave(chart, all);
  };
  parentElement.emoVizUndo?.(); // of an earlier run of this: Streamlit calls the last one's alone
  prepare();
  const watch = new MutationObserver(() => {
    prepare();
    arrive();
  });
  watch.observe(document.body, { childList: true, subtree: true });
  document.addEventListener("keydown", onKey, true);
  document.addEventListener("focusout", onBlur);
  return (parentElement.emoVizUndo = () => {
    watch.disconnect();
    document.removeEventListener("keydown", onKey, true);
    document.removeEventListener("focusout", onBlur);
  });
}
