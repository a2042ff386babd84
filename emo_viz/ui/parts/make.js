function make(tag, name = "", text = "") {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.textContent = text;
  return node;
}

function add(parent, tag, name, text) {
  const node = make(tag, name, text);
  parent.append(node);
  return node;
}
