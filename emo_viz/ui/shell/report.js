// Fills the pictures that only the browser has into the report, and saves it.
function withPlotly(page, source) {
  if (!source) return;
  const script = page.createElement("script");
  script.textContent = source.replaceAll("</script", "<\\/script");
  page.head.append(script);
}

async function filled(data, look) {
  const page = new DOMParser().parseFromString(data.html, "text/html");
  for (const figure of page.querySelectorAll("figure[data-key]")) {
    const found = await drawn(figure.dataset.key, look).catch(() => null);
    if (!found) { figure.remove(); continue; }
    const image = page.createElement("img");
    const blob = await painted(framed(found, { legend: [], provenance: "" }, look));
    image.src = await new Promise((done) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result);
      reader.readAsDataURL(blob);
    });
    image.alt = figure.dataset.name;
    image.width = found.width;
    figure.prepend(image);
  }
  withPlotly(page, data.plotly);
  return `<!doctype html>\n${page.documentElement.outerHTML}`;
}

export default function ({ data, parentElement }) {
  const said = parentElement.querySelector("span");
  if (said.dataset.number === String(data.number)) return;
  said.dataset.number = data.number;
  filled(data, lookOf(said)).then(
    (text) => {
      save(new Blob([text], { type: "text/html" }), `${data.name}.html`);
      said.textContent = `${data.name}.html is saved.`;
    },
    (error) => { said.textContent = `The report could not be made: ${error.message}.`; });
}
