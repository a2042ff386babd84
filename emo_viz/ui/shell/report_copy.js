// What is seen of a component as plain HTML: every text, with the colours and the layout that the
// page gives it, and every drawing. A list that scrolls is as long as it is.
const KEPT_TAGS = ["table", "thead", "tbody", "tfoot", "tr", "th", "td", "caption", "br", "a"];
const KEPT_ATTRIBUTES = ["title", "dir", "lang", "colspan", "rowspan", "scope"];
const HANDED_DOWN = ["color", "font-size", "font-weight", "font-style", "line-height", "text-align",
  "white-space", "overflow-wrap", "direction", "font-variant-numeric", "border-collapse"];
const SPACED = SIDES.flatMap((side) => [[`margin-${side}`, "0px"], [`padding-${side}`, "0px"]]);
const EDGES = SIDES.map((side) => [`border-${side}`, "0px none"]);
// And what of an element is not handed down, by how it is where nothing is said.
const OF_ITSELF = [["float", "none"], ["box-sizing", "content-box"], ["border-radius", "0px"],
  ["background-color", "rgba(0, 0, 0, 0)"], ["background-image", "none"], ["opacity", "1"],
  ["transform", "none"], ["vertical-align", "baseline"], ["unicode-bidi", "normal"],
  ["grid-template-columns", "none"], ["grid-column", "auto"], ["grid-row", "auto"],
  ["flex-wrap", "nowrap"], ["flex-direction", "row"], ["flex", "0 1 auto"],
  ["justify-content", "normal"], ["align-items", "normal"], ["column-gap", "normal"],
  ["row-gap", "normal"], ["text-overflow", "clip"], ["table-layout", "auto"],
  ["box-shadow", "none"], ["mask-image", "none"],
  ...SPACED, ...EDGES];

// Not as one: WebKit has no such property of more than a line.
const UNDERLINE = ["line", "style", "thickness", "color"].map((each) => `text-decoration-${each}`);

// What can be done on the page, as words.by_hand marks it: not in the report.
const BY_HAND = /\u2063[^\u2063]*\u2063/g;

const tagOf = (element, style) => {
  if (KEPT_TAGS.includes(element.localName)) return element.localName;
  return style.display.startsWith("inline") ? "span" : "div";
};
const isPlaced = (style) => ["absolute", "fixed", "sticky"].includes(style.position);

function lookOfCopy(element, tag, style, above) {
  const said = {}, own = KEPT_TAGS.includes(tag);
  const say = (name, value, usual) => {
    if (value !== usual && !value.startsWith(`${usual} `)) said[name] = value;
  };
  const of = (name) => style.getPropertyValue(name);
  HANDED_DOWN.forEach((name) => say(name, of(name), above?.getPropertyValue(name)));
  OF_ITSELF.forEach(([name, usual]) => say(name, of(name), own ? null : usual));
  if (!own) say("display", style.display, tag === "span" ? "inline" : "block");
  if (/mono/i.test(style.fontFamily)) said["font-family"] = CODE_FONT;
  if (style.textDecorationLine !== "none") UNDERLINE.forEach((name) => { said[name] = of(name); });
  if (style.outlineStyle !== "none") said.outline = style.outline;
  if (style.overflowX === "hidden") said.overflow = "hidden";
  if (style.minWidth !== "auto") said["min-width"] = style.minWidth;
  return { ...said, ...sizeOf(element, tag, style) };
}

// Where an element stands, and how large it is where its content does not say so.
function sizeOf(element, tag, style) {
  const size = {}, children = within(element);
  const { left, top } = style;
  if (isPlaced(style)) Object.assign(size, { position: "absolute", left, top });
  const raised = style.position === "relative" && number(top);
  if (raised) Object.assign(size, { position: "relative", top });
  const holds = children.some((one) => one.localName && isPlaced(getComputedStyle(one)));
  if (holds && !isPlaced(style)) size.position = "relative";
  const empty = !children.some((one) => one.localName || one.data?.trim());
  if (holds || empty) size["min-height"] = style.height;
  const flexes = getComputedStyle(element.parentElement ?? element).display.includes("flex");
  if (flexes && number(style.flexGrow)) size.flex = "none"; // beside it, something may be left out
  const fixed = element.style.width || (holds && style.overflowY === "auto");
  const wide = ["th", "table"].includes(tag) || size.flex || (empty && tag !== "br") || fixed;
  if (wide) size.width = style.width;
  return size;
}

function imageOf(element, page) {
  const { width, height } = element.getBoundingClientRect(), image = page.createElement("img");
  image.src = element.toDataURL("image/png");
  image.alt = element.closest("[aria-label]")?.ariaLabel ?? "";
  Object.assign(image, { width, height });
  return image;
}

function drawingOf(element, page) {
  const made = element.localName === "input" ? ofRange(element) : ofSvg(element);
  const { width, height } = element.getBoundingClientRect();
  Object.entries({ width, height }).forEach((each) => made.setAttribute(...each));
  return page.importNode(made, true);
}

// What is said of an element beside its text.
function meaningOf(element) {
  const given = KEPT_ATTRIBUTES.filter((key) => element.hasAttribute(key));
  const meant = Object.fromEntries(given.map((key) => [key, element.getAttribute(key)]));
  const level = /^h([1-6])$/.exec(element.localName)?.[1];
  return { ...meant, ...(element.localName === "a" && { href: element.href }),
    ...(level && { role: "heading", "aria-level": level }) };
}

function copied(element, page, above = null) {
  if (!isSeen(element)) return null;
  const style = getComputedStyle(element), name = element.localName;
  const drawn = { canvas: imageOf, svg: drawingOf, input: drawingOf }[name]?.(element, page);
  const made = drawn ?? page.createElement(tagOf(element, style));
  const tag = drawn ? "div" : made.localName;
  const look = name === "input" ? {} : lookOfCopy(element, tag, style, above);
  const said = Object.entries(look).map((each) => each.join(":"));
  made.setAttribute("style", [made.getAttribute("style"), ...said].filter(Boolean).join(";"));
  if (drawn) return made;
  for (const [key, value] of Object.entries(meaningOf(element))) made.setAttribute(key, value);
  for (const child of within(element)) {
    if (child.nodeType === Node.TEXT_NODE) made.append(child.data.replace(BY_HAND, ""));
    else if (child.nodeType === Node.ELEMENT_NODE) made.append(copied(child, page, style) ?? "");
  }
  return made;
}

// A component by its key; null where nothing of it is seen.
function copyOf(key, page) {
  const place = document.querySelector(`.st-key-${CSS.escape(key)}`);
  const made = place && inFont(place, () => copied(place, page));
  if (!made || !(made.textContent.trim() || made.querySelector("img, svg"))) return null;
  made.style.width = `${place.getBoundingClientRect().width}px`;
  made.style.fontFamily = FONT;
  return made;
}
