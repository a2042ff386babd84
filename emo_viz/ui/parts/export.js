async function take(root, data, chart, form, say) {
  try {
    const look = lookOf(root), found = await drawn(chart.key, look);
    if (!found) return say(`${chart.title} is not on the page now.`);
    const provenance = lineOf(data.provenance, chart.key);
    const picture = framed(found, { ...data, title: chart.title, provenance }, look);
    const place = data.charts.length > 1 ? `-${data.charts.indexOf(chart) + 1}` : "";
    const name = `${data.name}${place}.${form.toLowerCase()}`;
    const blob = form === "SVG" ? new Blob([picture.text], { type: "image/svg+xml" })
      : await painted(picture);
    save(blob, name);
    return say(`${name} is saved.`);
  } catch (error) {
    return say(`${chart.title} could not be drawn: ${error.message}.`);
  }
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".export"), said = parentElement.querySelector(".said");
  root.setAttribute("aria-label", "Pictures");
  root.replaceChildren();
  for (const chart of data.charts) {
    const title = document.createElement("span");
    title.textContent = chart.title;
    root.append(title);
    for (const form of ["SVG", "PNG"]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = form;
      button.setAttribute("aria-label", `${chart.title} as ${form}`);
      button.onclick = () => take(root, data, chart, form, (text) => { said.textContent = text; });
      root.append(button);
    }
  }
}
