// Numbers and tokens as people read them.

export { make, percent, visible } from "./views/marks.js";

const counts = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en");

/** 2470464 -> "2.5M". */
export const compact = (count) => counts.format(count);

export const integer = (count) => whole.format(count);

/** 1 -> "1 token", 2 -> "2 tokens". */
export const plural = (count, word) => `${integer(count)} ${word}${count === 1 ? "" : "s"}`;

/** 0.0183 -> "18 ms", 2.31 -> "2.3 s". */
export const duration = (seconds) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`);

export const rate = (perSecond) => (perSecond < 10 ? perSecond.toFixed(1) : integer(Math.round(perSecond)));
