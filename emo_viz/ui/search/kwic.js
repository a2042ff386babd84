// The address beside this page's own: a middle click opens it elsewhere, as any link.
function link(address, text, className, title) {
  const node = make("a", className, text);
  node.href = new URL(address, document.baseURI).href;
  if (title) node.title = title;
  return node;
}

// A text of which the end stays in sight.
function kept(text) {
  const node = make("div", "kept");
  node.append(make("span", "", text));
  return node;
}

function context(row) {
  const hit = row.address
    ? link(row.address, row.hit, "hit", row.title) : make("b", "hit", row.hit);
  if (row.direction === "rtl") {
    const cell = make("td", "line"), words = make("div", "words");
    cell.colSpan = 2;
    words.dir = "rtl";
    words.append(kept(row.before), hit, make("div", "", row.after));
    cell.append(words);
    return { cells: [cell], hit };
  }
  const before = make("td", "before");
  before.append(kept(row.before));
  const after = make("td", "after");
  after.append(hit, row.after);
  return { cells: [before, after], hit };
}

function whole(row) {
  const cell = make("td", "line list");
  cell.colSpan = 2;
  const hit = row.address
    ? link(row.address, row.hit, "hit", row.title) : make("b", "hit", row.hit);
  cell.append(hit, "  ", row.after);
  return { cells: [cell], hit };
}

function build(root, data) {
  const table = make("table");
  table.setAttribute("aria-label", data.label);
  const columns = make("colgroup");
  const names = ["where", "before", "after", ...(data.note ? ["note"] : []), "actions"];
  columns.append(...names.map((name) => make("col", name)));
  const head = make("tr");
  const heads = data.whole
    ? [["where", data.where], ["", "Document", 2]]
    : [["where", data.where], ["before", "Before"], ["after", "Hit and after"]];
  if (data.note) heads.push(["note", data.note]);
  heads.push(["actions", ""]);
  heads.forEach(([name, text, span]) => {
    const cell = make("th", name, text);
    cell.scope = "col";
    if (span) cell.colSpan = span;
    if (!text) cell.setAttribute("aria-label", "Open or pin");
    head.append(cell);
  });
  const body = make("tbody");
  data.rows.forEach((row, number) => {
    const line = make("tr");
    const where = make("td", "where");
    where.append(make("b", "", row.domain), row.domain && row.name ? " · " : "");
    where.append(make("span", "", row.name));
    where.title = [row.domain, row.name].filter(Boolean).join(" · ");
    const { cells, hit } = data.whole ? whole(row) : context(row);
    hit.dataset.opens = "routing";
    const actions = make("td", "actions");
    if (row.clusters) {
      const node = link(row.clusters, "Clusters", "", "Read it beside its clusters");
      node.dataset.opens = "clusters";
      actions.append(node);
    }
    if (row.pinned !== null) {
      const pin = make("button", "", row.pinned ? "Pinned" : "Pin");
      pin.type = "button";
      pin.title = "Keep it to compare it with another one";
      pin.setAttribute("aria-pressed", String(row.pinned));
      pin.dataset.pin = "";
      actions.append(pin);
    }
    line.dataset.row = number;
    line.append(where, ...cells);
    if (data.note) line.append(make("td", "note", row.note));
    line.append(actions);
    body.append(line);
  });
  const top = make("thead");
  top.append(head);
  table.append(columns, top, body);
  root.replaceChildren(table);
}

// Which of a row's links and buttons has the focus, so that it has it again once they are new.
function focused(root) {
  const node = root.getRootNode().activeElement;
  const line = node instanceof Element && root.contains(node) && node.closest("tr[data-row]");
  if (!line) return null;
  return [line.dataset.row, [...line.querySelectorAll("a, button")].indexOf(node)];
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".kwic");
  const given = JSON.stringify(data), heard = parentElement.querySelector(".heard");
  if (heard.textContent !== data.said) heard.textContent = data.said;
  if (root.dataset.given !== given) {
    const before = focused(root);
    build(root, data);
    root.dataset.given = given;
    if (before) {
      const line = root.querySelector(`tr[data-row="${before[0]}"]`);
      line?.querySelectorAll("a, button")[before[1]]?.focus();
    }
  }
  root.onclick = (event) => {
    const node = event.target instanceof Element && event.target.closest("a, button");
    if (!node) return;
    const row = Number(node.closest("tr").dataset.row);
    if ("pin" in node.dataset) {
      setTriggerValue("did", { row, what: "pin" });
    } else if (!(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey)) {
      event.preventDefault();
      setTriggerValue("did", { row, what: node.dataset.opens });
    }
  };
  root.onkeydown = (event) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const at = focused(root);
    if (!at || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    const next = Number(at[0]) + (event.key === "ArrowDown" ? 1 : -1);
    const nodes = root.querySelectorAll(`tr[data-row="${next}"] :is(a, button)`);
    nodes[Math.min(at[1], nodes.length - 1)]?.focus();
  };
}
