// What of a text the model can read: its positions are counted in tokens, so a long text loses its beginning.

import { json } from "./api.js";
import { bytesOf } from "./tokens.js";

// A prompt keeps at least this share of the positions, however many tokens are asked for.
const LEAST_SHARE = 4;

/**
 * Cut a prompt so that it and max_tokens fit the model: {prompt, dropped, maxTokens}, where `dropped` counts the
 * characters that the model does not see. Cuts where a word begins, so that the rest has the same tokens as before.
 */
export async function fit(prompt, { model, context, maxTokens, slides, signal }) {
  if (!context) return { prompt, dropped: 0, maxTokens };
  const bytes = new TextEncoder().encode(prompt).length;
  const room = slides ? context : Math.max(Math.floor(context / LEAST_SHARE), context - (maxTokens ?? 1));
  const limited = (kept) => (slides || maxTokens === null ? maxTokens : Math.min(maxTokens, context - kept));
  // A token has at least one byte, so a short text needs no counting.
  if (bytes <= room) return { prompt, dropped: 0, maxTokens: limited(bytes) };
  const { tail, before } = lastPart(prompt, room);
  const { token_strs: tokens } = await json("tokenize", { model, prompt: tail }, signal);
  if (tokens.length <= room && before === 0) return { prompt, dropped: 0, maxTokens: limited(tokens.length) };
  let first = Math.max(0, tokens.length - room);
  while (first < tokens.length - 1 && !/^\s/.test(tokens[first])) first += 1;
  // One long word without a place to begin anew is cut where it must be.
  if (tokens.length - first < room / 2) first = Math.max(0, tokens.length - room + 8);
  while (first < tokens.length && bytesOf(tokens[first]) !== null) first += 1;
  const kept = tokens.slice(first);
  const seen = kept.some((token) => bytesOf(token) !== null) ? byBytes(tail, kept) : kept.join("").length;
  const start = tail.length - Math.min(seen, tail.length);
  return { prompt: tail.slice(start), dropped: before + start, maxTokens: limited(kept.length) };
}

/** The end of a text that surely holds `room` tokens and is not needlessly long to send: 64 bytes for each. */
function lastPart(text, room) {
  const before = Math.max(0, text.length - room * 64);
  // Not between the two halves of a character.
  const start = before > 0 && /[\udc00-\udfff]/.test(text[before]) ? before + 1 : before;
  return { tail: text.slice(start), before: start };
}

/** How many UTF-16 units at the end of a text these tokens spell, where some are parts of characters. */
function byBytes(text, tokens) {
  const encoder = new TextEncoder();
  const bytes = tokens.reduce((sum, token) => sum + (bytesOf(token)?.length ?? encoder.encode(token).length), 0);
  const all = encoder.encode(text);
  return new TextDecoder().decode(all.slice(all.length - bytes)).length;
}
