// How many times the usual size the page's type has: more than one while one presents.
const larger = () =>
  Math.max(1, parseFloat(getComputedStyle(document.documentElement).fontSize) / 16);
