// Numbers and tokens as people read them, and the elements that they are shown in.

/** 0.0423 -> "4.2%"; what is rarer than 0.1% says so. */
export function percent(probability) {
  if (probability >= 0.9995) return "100%";
  if (probability >= 0.0995) return `${Math.round(probability * 1000) / 10}%`;
  if (probability >= 0.001) return `${(probability * 100).toFixed(1)}%`;
  return "<0.1%";
}

/** A number with its sign: 1.5 -> "+1.50". */
export const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

/** A token with its white space made visible: " the" -> "␣the". */
export const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll("\r", "␍");

/** A token between quotes, for a sentence; control characters as pictures. */
export const quoted = (text) => `“${pictured(visible(text))}”`;

/** Characters that would steer what shows them: C0 as U+2400 and on, others of the kind as U+FFFD. */
export const pictured = (text) =>
  text
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (character) => String.fromCharCode(0x2400 + character.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, "\ufffd");

/** An element with attributes, properties that are functions as listeners, and children. */
export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same of SVG. */
export function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const LIMITS = [0.005, 0.02, 0.08, 0.25, 0.6, 0.9];

/** The step of the colour scale, 0 (a surprise) to 6 (as good as certain), as the playground has it. */
export function stepOfProbability(probability) {
  const step = LIMITS.findIndex((limit) => probability < limit);
  return step < 0 ? LIMITS.length : step;
}

/** A line of a list of tokens: its text, a bar, its probability. */
export function barLine(text, share, largest, { note = percent(share), current = false } = {}) {
  const fill = make("span");
  fill.style.width = `${(100 * share) / Math.max(largest, 1e-9)}%`;
  return make(
    "li",
    { class: "bar-line", "aria-current": current ? "true" : null },
    make("code", {}, pictured(visible(text))),
    make("span", { class: "meter", "aria-hidden": "true" }, fill),
    make("span", { class: "percent" }, note),
  );
}

/** Scroll a box, and nothing else, until an element within it can be seen. covered: pixels at its left that names lie on. */
export function bringIntoView(box, element, covered = 0) {
  const [outer, inner] = [box.getBoundingClientRect(), element.getBoundingClientRect()];
  if (inner.left < outer.left + covered) box.scrollLeft -= outer.left + covered - inner.left;
  else if (inner.right > outer.right) box.scrollLeft += inner.right - outer.right;
  if (inner.top < outer.top) box.scrollTop -= outer.top - inner.top;
  else if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom;
}
