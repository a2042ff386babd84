const PAGE_LINKS = '[data-testid="stPageLink"] a';

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

// The pen of a canvas that fits its place; none where it is not shown.
function sized(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
  if (!wide) return null;
  if (canvas.width !== Math.round(wide * ratio)) canvas.width = Math.round(wide * ratio);
  if (canvas.height !== Math.round(high * ratio)) canvas.height = Math.round(high * ratio);
  const draw = canvas.getContext("2d");
  draw.setTransform(ratio, 0, 0, ratio, 0, 0);
  draw.clearRect(0, 0, wide, high);
  return draw;
}

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
    const link = make("a", parent, "map");
    Object.assign(this, { link, data });
    this.leads({});
    link.title = does;
    link.onclick = (event) => follow(link, event);
    make("span", link, "head", title);
    this.maps = runs.map((run, index) => {
      const name = make("span", link, "name", run.label);
      name.style.setProperty("--colour", run.colour);
      const canvas = make("canvas", link);
      canvas.setAttribute("aria-hidden", "true");
      return { canvas, run, places: new Uint8Array(bytes(data.places[index])) };
    });
    make("span", link, "told", says);
    make("span", link, "does", `${does} →`);
    this.own = [...new Uint16Array(bytes(data.own))];
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
