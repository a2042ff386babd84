// Fills what only the browser has into the report: components, whole addresses; and saves it.
function withPlotly(page, source) {
  if (!source) return;
  const script = page.createElement("script");
  script.textContent = source.replaceAll("</script", "<\\/script");
  page.head.append(script);
}

// Links lead to the app, wherever the file lies; those that lead to no page are text, and links
// that the page hides are gone.
function withAddresses(page) {
  const shown = new Set([...document.querySelectorAll("a[href]")]
    .filter((link) => link.checkVisibility()).map((link) => link.href));
  for (const one of page.querySelectorAll("[data-link]")) {
    const address = new URL(one.firstChild.getAttribute("href"), document.baseURI);
    if (!shown.has(address.href)) one.remove();
  }
  for (const link of page.querySelectorAll("a[href]")) {
    const address = new URL(link.getAttribute("href"), document.baseURI);
    if (/^https?:$/.test(address.protocol)) link.setAttribute("href", address.href);
    else link.removeAttribute("href");
  }
}

function filled(data, look) {
  const page = new DOMParser().parseFromString(data.html, "text/html");
  page.documentElement.style.setProperty("--paper", look.back);
  page.documentElement.style.setProperty("--ink", look.text);
  for (const figure of page.querySelectorAll("figure[data-key]")) {
    const copy = copyOf(figure.dataset.key, page);
    if (copy) figure.replaceChildren(copy);
    else figure.remove();
  }
  withAddresses(page);
  withPlotly(page, data.plotly);
  return `<!doctype html>\n${page.documentElement.outerHTML}`;
}

export default function ({ data, parentElement }) {
  const said = parentElement.querySelector("span");
  if (said.dataset.number === String(data.number)) return;
  said.dataset.number = data.number;
  try {
    const text = filled(data, lookOf(said));
    save(new Blob([text], { type: "text/html" }), `${data.name}.html`);
    said.textContent = `${data.name}.html is saved.`;
  } catch (error) {
    said.textContent = `The report could not be made: ${error.message}.`;
  }
}
