// Tokens laid upon text. A unit is the shortest run of tokens that ends with a whole character, nearly always one
// token: {start, end, text, tokens: [{id, text, logprob, top: [[text, logprob], ...]}]}, with start and end in the text.

const BYTES = "bytes:";
const encoder = new TextEncoder();

/** The bytes of a token that is no whole character ("bytes:\xf0\x9f"), or null for one that is text. */
export function bytesOf(token) {
  if (!token.startsWith(BYTES) || token.length === BYTES.length) return null;
  const bytes = [];
  for (const [, hex, other] of token.slice(BYTES.length).matchAll(/\\x([0-9a-f]{2})|([\s\S])/giu)) {
    if (hex === undefined) bytes.push(...encoder.encode(other));
    else bytes.push(parseInt(hex, 16));
  }
  return bytes;
}

/** How many bytes at the end begin a character that is not complete yet. */
function unfinished(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back];
    if (byte < 0x80) return 0;
    if (byte >= 0xc0) {
      const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
      return back < length ? back : 0;
    }
  }
  return 0;
}

/** Takes tokens in order and gives units; what is pending waits for the rest of a character. */
export class UnitBuilder {
  constructor(start) {
    this.offset = start;
    this.pending = [];
    this.bytes = [];
  }

  push(token) {
    const bytes = bytesOf(token.text);
    if (bytes === null) {
      const before = this.pending.length > 0 ? [this.#close()] : [];
      return [...before, this.#unit(token.text, [token])];
    }
    this.pending.push(token);
    this.bytes.push(...bytes);
    return unfinished(this.bytes) === 0 ? [this.#close()] : [];
  }

  #close() {
    const unit = this.#unit(new TextDecoder().decode(new Uint8Array(this.bytes)), this.pending);
    this.pending = [];
    this.bytes = [];
    return unit;
  }

  #unit(text, tokens) {
    const start = this.offset;
    this.offset += text.length;
    return { start, end: this.offset, text, tokens };
  }
}

/** The parallel lists of `logprobs` as tokens. Alternatives are sorted, likeliest first. */
export function readLogprobs(logprobs, ids = []) {
  if (!logprobs || !Array.isArray(logprobs.tokens)) return [];
  return logprobs.tokens.map((text, index) => ({
    id: ids[index] ?? null,
    text: String(text),
    logprob: logprobs.token_logprobs?.[index] ?? null,
    top: Object.entries(logprobs.top_logprobs?.[index] ?? {}).sort((one, other) => other[1] - one[1]),
  }));
}

/** The units that lie in a text, up to where it says otherwise; a text cut by a stop string cuts the last one too. */
export function within(units, text) {
  const kept = [];
  for (const unit of units) {
    const end = Math.min(unit.end, text.length);
    if (end <= unit.start) continue;
    if (text.slice(unit.start, end) !== unit.text.slice(0, end - unit.start)) break;
    kept.push(end === unit.end ? unit : { ...unit, end });
  }
  return kept;
}

/** The units of all the tokens of a text. */
export function unitsOf(tokens, text) {
  const builder = new UnitBuilder(0);
  return within(tokens.flatMap((token) => builder.push(token)), text);
}

/** The natural logarithm of a unit's probability: the sum over its tokens, null for a text's first token. */
export function logprobOf(unit) {
  let sum = 0;
  for (const token of unit.tokens) {
    if (token.logprob === null) return null;
    sum += token.logprob;
  }
  return sum;
}

const STEPS = [0.005, 0.02, 0.08, 0.25, 0.6, 0.9].map(Math.log);

/** The step of the colour scale, 0 (a surprise) to 6 (as good as certain); null where there is no probability. */
export function stepOf(unit) {
  const logprob = logprobOf(unit);
  if (logprob === null) return null;
  const step = STEPS.findIndex((limit) => logprob < limit);
  return step < 0 ? STEPS.length : step;
}

/** The perplexity of some units, or null where nothing is known. */
export function perplexity(units) {
  let sum = 0;
  let count = 0;
  for (const unit of units) {
    for (const token of unit.tokens) {
      if (token.logprob === null) continue;
      sum += token.logprob;
      count += 1;
    }
  }
  return count === 0 ? null : Math.exp(-sum / count);
}
