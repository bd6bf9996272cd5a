// The panel of parameters. Names, explanations and bounds come from the server; here is only how they are arranged.

import { make } from "./format.js";
import { StructuredFields } from "./structured.js";

const GROUPS = [
  ["Length", ["max_tokens", "min_tokens", "stop", "include_stop_str_in_output", "overflow"]],
  ["Choice of tokens", ["temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "n", "best_of"]],
  ["Repetition", ["repetition_penalty", "frequency_penalty", "presence_penalty", "no_repeat_ngram_size"]],
  ["Wanted and unwanted tokens", ["logit_bias", "allowed_token_ids", "bad_words", "stop_token_ids", "ignore_eos"]],
  ["Engine", ["logprobs", "speculate"]],
];
const LATER = "More";
// What the page asks for by itself: the tokens of the prompt are scored when probabilities are shown.
const NOT_SHOWN = new Set(["prompt_logprobs"]);
// Where a slider ends; the number beside it takes all that the server allows.
const SLIDERS = {
  max_tokens: [1, 256, 1],
  temperature: [0, 2, 0.05],
  top_p: [0, 1, 0.01],
  top_k: [0, 100, 1],
  min_p: [0, 1, 0.01],
  typical_p: [0.01, 1, 0.01],
  repetition_penalty: [0.5, 2, 0.01],
  frequency_penalty: [-2, 2, 0.05],
  presence_penalty: [-2, 2, 0.05],
  logprobs: [0, 20, 1],
  speculate: [0, 16, 1],
};
/** Where the page begins: a little calmer than the API, whose defaults are made for programs. */
export const STARTING = { max_tokens: 80, temperature: 0.8, top_p: 0.95, logprobs: 8 };

const HINTS = {
  texts: "One on each line; \\n stands for a line break.",
  token_ids: "Token ids with commas between them.",
  biases: "ID: BIAS with commas between them, as in 13: -100, 42: 2.5",
};

const escaped = (text) => text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("\t", "\\t");
const unescaped = (text) =>
  text.replace(/\\([nt\\])/g, (_, letter) => ({ n: "\n", t: "\t", "\\": "\\" })[letter]);

/** How each kind of list is written in a field, and read from it. Reading throws an Error with a sentence. */
const LISTS = {
  texts: {
    write: (value) => value.map((item) => (typeof item === "string" ? escaped(item) : JSON.stringify(item))).join("\n"),
    read: (text) => text.split("\n").filter((line) => line !== "").map(unescaped),
  },
  token_ids: {
    write: (value) => value.join(", "),
    read: (text) => text.split(/[\s,]+/).filter(Boolean).map((item) => wholeNumber(item)),
  },
  biases: {
    write: (value) => Object.entries(value).map(([id, bias]) => `${id}: ${bias}`).join(", "),
    read: (text) =>
      Object.fromEntries(
        text.split(",").filter((item) => item.trim()).map((item) => {
          const [id, bias] = item.split(/[:=]/);
          const amount = Number(bias);
          if (bias === undefined || bias.trim() === "" || !Number.isFinite(amount)) throw new Error("Write ID: BIAS, as in 13: -100.");
          return [wholeNumber(id.trim()), amount];
        }),
      ),
  },
};

function wholeNumber(text) {
  if (!/^\d+$/.test(text)) throw new Error(`${text} is no token id.`);
  return Number(text);
}

export class Parameters {
  #specs = new Map();
  #controls = new Map();
  #groups = [];

  /** changed: called when a value changes. */
  constructor(box, changed) {
    this.box = box;
    this.changed = changed;
    this.values = { ...STARTING };
    this.structured = new StructuredFields(() => this.#update());
  }

  /** Build the controls from the server's description. `context` is the model's number of positions. */
  build(description, context) {
    this.#specs = new Map(description.parameters.map((spec) => [spec.name, spec]));
    const placed = new Set(GROUPS.flatMap(([, names]) => names));
    const rest = [...this.#specs.keys()].filter((name) => !placed.has(name) && !NOT_SHOWN.has(name));
    this.#controls.clear();
    this.#groups = [];
    this.box.replaceChildren();
    for (const [title, names] of [...GROUPS, [LATER, rest]]) {
      const known = names.filter((name) => this.#specs.has(name));
      if (known.length === 0) continue;
      const group = this.#group(title, this.#groups.length < 2);
      for (const name of known) group.append(this.#parameter(this.#specs.get(name), context));
      this.#groups.push({ names: known, count: group.querySelector(".count") });
      this.box.append(group);
    }
    const structured = this.#group("Structured outputs", false);
    structured.append(this.structured.build(description.structured_outputs));
    this.#groups.push({ names: null, count: structured.querySelector(".count") });
    this.box.append(structured);
    this.#update();
  }

  /** Append a section of another kind, such as the API key. */
  append(element) {
    this.box.append(element);
  }

  get(name) {
    return name in this.values ? this.values[name] : (this.#specs.get(name)?.default ?? null);
  }

  set(name, value) {
    this.#store(name, value);
    this.#show(name);
    this.#update();
  }

  /** Whether the panel has a field for this name. */
  has(name) {
    return this.#controls.has(name);
  }

  /** Open the group of a parameter, and put the cursor into its field. */
  reveal(name) {
    const field = document.getElementById(`parameter-${name}`);
    field.closest("details").open = true;
    field.scrollIntoView({ block: "center" });
    field.focus();
  }

  /** What a request carries: all that differs from the server's defaults. */
  body() {
    const body = {};
    for (const [name, value] of Object.entries(this.values)) {
      const spec = this.#specs.get(name);
      if (!spec || JSON.stringify(value) !== JSON.stringify(spec.default)) body[name] = value;
    }
    const structured = this.structured.value();
    if (structured !== null) body.structured_outputs = structured;
    return body;
  }

  /** All that a session keeps. */
  save() {
    return { ...this.values, structured_outputs: this.structured.save() };
  }

  /** Take what a session kept; true if it could be read. Names that this server does not know are left out. */
  load(values) {
    const { structured_outputs: structured, ...rest } = values;
    const known = Object.entries(rest).filter(([name]) => this.#specs.has(name));
    if (!known.every(([name, value]) => fits(this.#specs.get(name), value))) return false;
    this.values = {};
    for (const [name, value] of known) this.#store(name, value);
    this.structured.load(structured ?? null);
    for (const name of this.#controls.keys()) this.#show(name);
    this.#update();
    return true;
  }

  #show(name) {
    const control = this.#controls.get(name);
    if (!control) return;
    control.fault.hidden = true;
    control.show(this.get(name));
  }

  #store(name, value) {
    const spec = this.#specs.get(name);
    const isDefault = value === null || (spec && JSON.stringify(value) === JSON.stringify(spec.default));
    // A default of the server's that differs from where the page begins is a choice like any other.
    if (isDefault && !(name in STARTING)) delete this.values[name];
    else this.values[name] = value;
  }

  #starting(name) {
    return name in STARTING ? STARTING[name] : this.#specs.get(name).default;
  }

  #isChanged(name) {
    return JSON.stringify(this.get(name)) !== JSON.stringify(this.#starting(name));
  }

  #update() {
    for (const [name, { reset }] of this.#controls) reset.hidden = !this.#isChanged(name);
    for (const { names, count } of this.#groups) {
      const changed = names === null ? Number(this.structured.save() !== null) : names.filter((name) => this.#isChanged(name)).length;
      count.hidden = changed === 0;
      count.textContent = names === null ? "on" : `${changed} changed`;
    }
    this.changed();
  }

  #group(title, open) {
    return make(
      "details",
      { class: "group", open },
      make("summary", {}, title, make("span", { class: "count", hidden: true })),
    );
  }

  #parameter(spec, context) {
    const id = `parameter-${spec.name}`;
    const fault = make("p", { class: "fault", id: `${id}-fault`, hidden: true });
    const say = (sentence, field) => {
      fault.textContent = sentence;
      fault.hidden = sentence === "";
      field.setAttribute("aria-invalid", String(sentence !== ""));
    };
    const store = (value) => {
      this.#store(spec.name, value);
      this.#update();
    };
    const kind = spec.type === "integer" || spec.type === "number" ? "number" : spec.type;
    const build = { number: numberField, boolean: switchField, choice: choiceField }[kind] ?? listField;
    const { head, below, show } = build(spec, { id, store, say, context });
    const reset = make("button", { type: "button", class: "link reset", hidden: true, click: () => this.set(spec.name, this.#starting(spec.name)) }, "reset");
    reset.setAttribute("aria-label", `Reset ${spec.name}`);
    this.#controls.set(spec.name, { show, reset, fault });
    show(this.get(spec.name));
    return make(
      "div",
      { class: "parameter" },
      make("div", { class: "parameter-head" }, make("label", { for: id }, spec.name), reset, head ?? null),
      below ?? null,
      fault,
      make("p", { id: `${id}-help` }, spec.help + (HINTS[kind] ? ` ${HINTS[kind]}` : "")),
    );
  }
}

/** Whether a value from a file is of the kind that a control can show; its bounds are the server's to check. */
function fits(spec, value) {
  if (value === null) return spec.optional || spec.default === null;
  if (spec.type === "integer" || spec.type === "number") return typeof value === "number";
  if (spec.type === "boolean") return typeof value === "boolean";
  if (spec.type === "choice") return spec.choices.includes(value);
  if (spec.type === "biases") return typeof value === "object" && !Array.isArray(value);
  if (spec.type === "texts" && typeof value === "string") return true;
  return Array.isArray(value);
}

function numberField(spec, { id, store, say, context }) {
  const [from, to, step] = SLIDERS[spec.name] ?? [];
  const most = spec.name === "max_tokens" && context ? Math.min(context - 1, 1024) : to;
  const field = make("input", {
    id, class: "field number", type: "text", inputmode: spec.type === "integer" ? "numeric" : "decimal", autocomplete: "off",
    placeholder: spec.optional ? "none" : "", "aria-describedby": `${id}-help ${id}-fault`,
  });
  const slider = from === undefined ? null : make("input", {
    type: "range", min: from, max: most, step, "aria-label": `${spec.name}, slider`, "aria-describedby": `${id}-help`,
  });
  const read = () => {
    const text = field.value.trim();
    if (text === "" && spec.optional) return null;
    const value = Number(text);
    const whole = spec.type === "integer";
    const low = spec.minimum !== null && (value < spec.minimum || (spec.above_minimum && value === spec.minimum));
    const high = spec.maximum !== null && value > spec.maximum;
    if (text === "" || !Number.isFinite(value) || (whole && !Number.isSafeInteger(value)) || low || high) {
      const upper = spec.maximum === null ? " or more" : ` to ${spec.maximum}`;
      throw new Error(`${whole ? "A whole number" : "A number"}, ${spec.above_minimum ? "more than " : ""}${spec.minimum}${upper}.`);
    }
    return value;
  };
  field.addEventListener("change", () => {
    try {
      const value = read();
      say("", field);
      store(value);
      if (slider && value !== null) slider.value = value;
    } catch (error) {
      say(error.message, field);
    }
  });
  slider?.addEventListener("input", () => {
    field.value = slider.value;
    say("", field);
    store(Number(slider.value));
  });
  return {
    head: field,
    below: slider,
    show: (value) => {
      field.value = value ?? "";
      if (slider && value !== null) slider.value = value;
    },
  };
}

function switchField(spec, { id, store }) {
  const field = make("input", { id, type: "checkbox", "aria-describedby": `${id}-help`, change: () => store(field.checked) });
  return { head: field, show: (value) => (field.checked = value === true) };
}

function choiceField(spec, { id, store }) {
  const options = spec.choices.map((choice) => make("option", { value: String(choice) }, String(choice)));
  const choose = () => store(spec.choices[field.selectedIndex]);
  const field = make("select", { id, class: "field", "aria-describedby": `${id}-help`, change: choose }, ...options);
  return { head: field, show: (value) => (field.value = String(value)) };
}

function listField(spec, { id, store, say }) {
  const { write, read } = LISTS[spec.type] ?? { write: String, read: (text) => text };
  const field = make("textarea", {
    id, class: "field wide", rows: 2, spellcheck: "false", autocomplete: "off", "aria-describedby": `${id}-help ${id}-fault`,
  });
  field.addEventListener("change", () => {
    try {
      const value = read(field.value);
      say("", field);
      const empty = Array.isArray(value) ? value.length === 0 : Object.keys(value).length === 0;
      store(empty ? spec.default : value);
    } catch (error) {
      say(error.message, field);
    }
  });
  return {
    below: field,
    show: (value) => (field.value = value === null ? "" : write(typeof value === "string" ? [value] : value)),
  };
}
