// A slider over the places 0 to `last`, and a Play button before it. `ticks`: [place, text];
// `moved(place)` when a hand moves it, `begin()` when it is to play, `ended()` when that is over.
class Player {
  constructor(parent, { name, title, last, ticks, moved, begin, ended = () => {} }) {
    this.ended = ended;
    this.row = add(parent, "div", "controls");
    this.button = add(this.row, "button", "play", "▶ Play");
    Object.assign(this.button, { type: "button", title, disabled: last < 1 });
    this.button.onclick = () => (this.timer ? this.stop() : begin());
    const slide = add(this.row, "div", "slide");
    const label = add(slide, "label");
    add(label, "span", "", name);
    this.output = add(label, "output");
    this.output.setAttribute("aria-live", "off"); // the slider says it
    this.range = add(slide, "input");
    Object.assign(this.range, { type: "range", min: 0, max: Math.max(last, 1), step: 1, disabled: last < 1 });
    this.range.setAttribute("aria-label", name);
    this.range.oninput = () => {
      this.stop();
      moved(Number(this.range.value));
    };
    const below = add(slide, "div", "ticks");
    below.setAttribute("aria-hidden", "true");
    ticks.forEach(([place, text]) => {
      add(below, "span", "", text).style.left = `${(100 * place) / Math.max(1, last)}%`;
    });
  }

  play(step, every) {
    this.button.textContent = "⏸ Pause";
    this.timer = setInterval(step, every);
  }

  stop() {
    if (!this.timer) return;
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = "▶ Play";
    this.ended();
  }

  show(place, text) {
    this.range.value = place;
    if (this.output.textContent === text) return;
    this.output.textContent = text;
    this.range.setAttribute("aria-valuetext", text);
  }
}
