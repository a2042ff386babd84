const PAGE_LINKS = '[data-testid="stPageLink"] a';

// A plain click goes by the page's own link to the same place, which keeps the visit.
function follow(link, event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const own = [...document.querySelectorAll(PAGE_LINKS)].find((one) => one.href === link.href);
  if (!own) return;
  event.preventDefault();
  own.click();
}

// A map of tokens for each run, in one link. It does not change with the slider: drawn once a size.
class SmallMap {
  constructor(parent, data, runs) {
    const { title, says, does } = data;
    const link = add(parent, "a", "map");
    Object.assign(this, { link, data });
    this.leads({});
    link.title = does;
    link.onclick = (event) => follow(link, event);
    add(link, "span", "head", title);
    this.maps = runs.map((run, index) => {
      const name = add(link, "span", "name", run.label);
      name.style.setProperty("--colour", run.colour);
      const canvas = add(link, "canvas");
      canvas.setAttribute("aria-hidden", "true");
      return { canvas, run, places: bytes(data.places[index]) };
    });
    add(link, "span", "told", says);
    add(link, "span", "does", `${does} →`);
    this.own = [...shorts(data.own)];
  }

  // slots: of this visitor, which a link to another page carries.
  leads(slots) {
    const { page, way } = this.data;
    this.link.href = new URL(`${page}?${new URLSearchParams({ ...slots, ...way })}`, document.baseURI);
  }

  paint() {
    this.maps.forEach(({ canvas, run, places }) => {
      const draw = sized(canvas);
      if (!draw) return;
      const { clientWidth: wide, clientHeight: high } = canvas;
      const reach = Math.min(wide, high) - 6;
      const put = (token, size) => draw.fillRect(
        wide / 2 + (places[2 * token] / 255 - 0.5) * reach - size / 2,
        high / 2 - (places[2 * token + 1] / 255 - 0.5) * reach - size / 2, size, size);
      draw.fillStyle = run.lost;
      draw.globalAlpha = 0.4;
      for (let token = 0; token < places.length / 2; token += 1) put(token, 1.5);
      draw.fillStyle = run.colour;
      draw.globalAlpha = 1;
      this.own.forEach((token) => put(token, 3));
    });
  }
}
