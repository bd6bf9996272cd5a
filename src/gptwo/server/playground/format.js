// Numbers and tokens as people read them.

const counts = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en");

/** 2470464 -> "2.5M". */
export const compact = (count) => counts.format(count);

export const integer = (count) => whole.format(count);

/** 1 -> "1 token", 2 -> "2 tokens". */
export const plural = (count, word) => `${integer(count)} ${word}${count === 1 ? "" : "s"}`;

/** 0.0423 -> "4.2%"; what is rarer than 0.1% says so. */
export function percent(probability) {
  if (probability >= 0.9995) return "100%";
  if (probability >= 0.0995) return `${Math.round(probability * 1000) / 10}%`;
  if (probability >= 0.001) return `${(probability * 100).toFixed(1)}%`;
  return "<0.1%";
}

/** 0.0183 -> "18 ms", 2.31 -> "2.3 s". */
export const duration = (seconds) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`);

export const rate = (perSecond) => (perSecond < 10 ? perSecond.toFixed(1) : integer(Math.round(perSecond)));

/** A token with its white space made visible: " the" -> "␣the". */
export const visible = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll("\r", "␍");

/** An element with attributes, properties that are functions as listeners, and children. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
