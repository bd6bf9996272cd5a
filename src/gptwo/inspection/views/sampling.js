// From logits to the probabilities that a token is drawn from: gptwo's own order of steps, in the page.

/** Tokens by their logits, the likeliest first; of equal ones the lower id. */
export const ranked = (logits) => Array.from(logits.keys()).sort((one, other) => logits[other] - logits[one] || one - other);

/**
 * The probabilities of tokens in the order of `order`, after top-k, temperature and top-p; tokens that are cut have 0.
 * topK: 0 keeps all. temperature: 0 gives all to the likeliest. topP: 1 keeps all, and one token always stays.
 */
export function distribution(logits, order, { temperature = 1, topK = 0, topP = 1 } = {}) {
  const count = topK > 0 ? Math.min(topK, order.length) : order.length;
  const shares = new Float64Array(order.length);
  if (temperature === 0) {
    shares[0] = 1;
    return shares;
  }
  let sum = 0;
  for (let rank = 0; rank < count; rank += 1) {
    // What is not cut is never 0, however cold it is.
    shares[rank] = Math.max(1e-300, Math.exp((logits[order[rank]] - logits[order[0]]) / temperature));
    sum += shares[rank];
  }
  let kept = 0;
  let reached = 0;
  while (kept < count && (kept === 0 || topP >= 1 || reached / sum < topP)) {
    reached += shares[kept];
    kept += 1;
  }
  for (let rank = 0; rank < order.length; rank += 1) shares[rank] = rank < kept ? shares[rank] / reached : 0;
  return shares;
}

/** How many equally likely tokens would be as hard to guess: exp of the entropy. */
export function perplexityOf(shares) {
  let entropy = 0;
  for (const share of shares) if (share > 0) entropy -= share * Math.log(share);
  return Math.exp(entropy);
}
