// Whether a pointer leaves an element: WebKit says so too when a click ends, where it still stands.
const leaves = (element, { pointerType, clientX, clientY }) => pointerType === "touch"
  || !element.contains(element.getRootNode().elementFromPoint(clientX, clientY));
