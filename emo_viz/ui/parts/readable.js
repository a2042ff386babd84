const LEAST_CONTRAST = 4.5; // as WCAG 2 counts it

function channels(colour) {
  const hex = /^#([0-9a-f]{6})$/i.exec(colour.trim());
  if (hex) return [0, 2, 4].map((at) => parseInt(hex[1].slice(at, at + 2), 16)).concat(1);
  const found = (colour.match(/[\d.]+/g) ?? []).map(Number);
  return found.length < 3 ? [0, 0, 0, 0] : [...found.slice(0, 3), found[3] ?? 1];
}

function luminance(rgb) {
  const [r, g, b] = rgb.map((value) => value / 255).map(
    (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

function readable(fill, element) {
  const style = getComputedStyle(element);
  const themed = (name) => channels(style.getPropertyValue(name));
  const [r, g, b, alpha] = channels(fill);
  const back = themed("--st-background-color");
  const mixed = [r, g, b].map((value, at) => value * alpha + back[at] * (1 - alpha));
  const own = themed("--st-text-color").slice(0, 3);
  if (contrast(own, mixed) >= LEAST_CONTRAST) return "var(--st-text-color)";
  return contrast([0, 0, 0], mixed) >= LEAST_CONTRAST ? "#000000" : "#ffffff";
}

