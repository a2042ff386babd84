// Put before each script of this page: where the slider stands, for every view that follows it.
const bus = (window.emoVizCut ??= Object.assign(new EventTarget(), { keep: null }));

function announce(keep) {
  bus.keep = keep;
  bus.dispatchEvent(new Event("keep"));
}

function follow(element, paint) {
  if (element.follows) bus.removeEventListener("keep", element.follows);
  element.follows = () => paint(bus.keep);
  bus.addEventListener("keep", element.follows);
  if (bus.keep !== null) paint(bus.keep);
  return () => bus.removeEventListener("keep", element.follows);
}

// "●" or "◆" in the run's colour, then its name: the colour alone never tells a run.
function runName(run) {
  const name = make("span", "run");
  const mark = make("span", "mark", run.mark);
  mark.style.color = run.colour;
  mark.setAttribute("aria-hidden", "true");
  name.append(mark, ` ${run.label}`);
  return name;
}

// The texts of every stop lie in one place and one of them is seen: what stands around never moves.
function stack(root, texts) {
  root.classList.add("stack");
  root.replaceChildren(...Object.entries(texts).map(([keep, text]) => {
    const node = make("span", "", text);
    node.dataset.keep = keep;
    return node;
  }));
}

function raise(root, keep) {
  for (const node of root.children) {
    node.classList.toggle("current", node.dataset.keep === String(keep));
  }
}
