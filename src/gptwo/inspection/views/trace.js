// The data of a page: arrays read from base64, and what the views ask of them.

const KINDS = { "<f4": Float32Array, "<i4": Int32Array, u1: Uint8Array };

/** {shape, type, data} -> a typed array with a shape. Computers on which this would be read the other way round are gone. */
function unpack({ shape, type, data }) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  return Object.assign(new KINDS[type](bytes.buffer), { shape });
}

export class Trace {
  constructor(data) {
    this.model = data.model;
    this.layers = data.model.layers;
    this.heads = data.model.heads;
    this.ids = data.token_ids;
    this.length = this.ids.length;
    this.prompt = data.prompt;
    this.names = data.names;
    this.tokens = this.ids.map((id) => this.nameOf(id));
    this.losses = data.losses; // of tokens 1 to T - 1
    this.rows = data.lens.rows.map((name) => name.replace(/^h\./, "layer "));
    this.lensIds = unpack(data.lens.ids);
    this.lensProbabilities = unpack(data.lens.probabilities);
    this.lensFollowing = unpack(data.lens.following);
    this.kept = this.lensIds.shape[2];
    this.triangles = unpack(data.attention);
    this.targets = data.attribution.target_ids;
    const { attribution } = data;
    this.headShares = unpack(attribution.heads);
    this.biasShares = unpack(attribution.attention_biases);
    this.mlpShares = unpack(attribution.mlps);
    this.embeddingShares = [unpack(attribution.token_embedding), unpack(attribution.position_embedding)];
    this.finalShares = unpack(attribution.final_bias);
    this.induction = data.induction;
    this.nextLogits = unpack(data.next_logits);
  }

  nameOf(id) {
    return this.names[id] ?? `#${id}`;
  }

  /** The likeliest tokens of a place of the lens: [{id, text, probability}]. */
  lens(row, position) {
    const start = (row * this.length + position) * this.kept;
    return Array.from({ length: this.kept }, (_, rank) => {
      const id = this.lensIds[start + rank];
      return { id, text: this.nameOf(id), probability: this.lensProbabilities[start + rank] };
    });
  }

  /** The probability of the prompt's own next token in a place of the lens; null at the end. */
  following(row, position) {
    return position < this.length - 1 ? this.lensFollowing[row * (this.length - 1) + position] : null;
  }

  /** The probability that the model gave a token of the prompt; null for the first. */
  probability(position) {
    const loss = position > 0 ? this.losses[position - 1] : null;
    return loss === null ? null : Math.exp(-loss);
  }

  /** How much a position takes from another, 0 to 1. */
  weight(layer, head, query, key) {
    if (key > query) return 0;
    const size = (this.length * (this.length + 1)) / 2;
    const byte = this.triangles[(layer * this.heads + head) * size + (query * (query + 1)) / 2 + key];
    return (byte / 255) ** 2;
  }

  /** The same for all keys of a query. */
  weights(layer, head, query) {
    return Array.from({ length: query + 1 }, (_, key) => this.weight(layer, head, query, key));
  }

  /** The layer and head that have most to say at a position: good ones to begin with. */
  loudest(position) {
    const start = position * this.layers * this.heads;
    const shares = this.headShares.subarray(start, start + this.layers * this.heads).map(Math.abs);
    const at = shares.indexOf(shares.reduce((most, share) => Math.max(most, share), 0));
    return [Math.floor(at / this.heads), at % this.heads];
  }

  headShare(position, layer, head) {
    return this.headShares[(position * this.layers + layer) * this.heads + head];
  }

  /** What each part adds to the logit of a position's target, from the bottom of the model to the top: [name, amount]. */
  parts(position) {
    const [token, place] = this.embeddingShares;
    const parts = [["token embedding", token[position]], ["position embedding", place[position]]];
    for (let layer = 0; layer < this.layers; layer += 1) {
      const at = position * this.layers + layer;
      let attention = this.biasShares[at];
      for (let head = 0; head < this.heads; head += 1) attention += this.headShare(position, layer, head);
      parts.push([`layer ${layer} attention`, attention], [`layer ${layer} MLP`, this.mlpShares[at]]);
    }
    return [...parts, ["final bias", this.finalShares[position]]];
  }
}

/** What is looked at: a position, a layer and a head; whoever watches hears of each change. */
export class Choice {
  #watchers = [];

  constructor(position, layer, head) {
    Object.assign(this, { position, layer, head });
  }

  watch(watcher) {
    this.#watchers.push(watcher);
    watcher(this);
  }

  set(change) {
    if (Object.entries(change).every(([name, value]) => this[name] === value)) return;
    Object.assign(this, change);
    for (const watcher of this.#watchers) watcher(this);
  }
}
