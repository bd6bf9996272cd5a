// Structured outputs: what a continuation has to be, one of a few kinds.

import { make } from "./format.js";

const KINDS = {
  "": ["any text", null],
  regex: ["a match of a regular expression", "[A-Z][a-z]+ (loves|hates) [A-Z][a-z]+"],
  choice: ["one of several texts", "Yes\nNo\nPerhaps"],
  json_schema: ["JSON of a schema", '{\n  "type": "object",\n  "properties": {"name": {"type": "string"}},\n  "required": ["name"]\n}'],
  json_object: ["any JSON object", null],
  grammar: ["what a grammar allows (Lark)", 'start: "O " NAME ", " NAME "!"\nNAME: /[A-Z][a-z]+/'],
};
const LABELS = { regex: "Regular expression", choice: "Texts, one on each line", json_schema: "Schema", grammar: "Grammar" };

export class StructuredFields {
  constructor(changed) {
    this.changed = changed;
    this.kind = "";
    this.sources = {};
  }

  build(help) {
    const options = Object.entries(KINDS).map(([kind, [label]]) => make("option", { value: kind }, label));
    this.select = make("select", { id: "structured-kind", class: "field wide", change: () => this.#choose(this.select.value) }, ...options);
    this.label = make("label", { for: "structured-source" });
    this.source = make("textarea", {
      id: "structured-source", class: "field wide", rows: 5, spellcheck: "false", autocomplete: "off",
      "aria-describedby": "structured-fault", input: () => this.#store(),
    });
    this.fault = make("p", { class: "fault", id: "structured-fault", hidden: true });
    this.box = make("div", {}, this.label, this.source, this.fault);
    this.#show();
    return make(
      "div",
      { class: "parameter" },
      make("label", { for: "structured-kind" }, "structured_outputs"),
      this.select,
      help ? make("p", {}, help) : null,
      this.box,
    );
  }

  /** The request's field, or null. A schema that is no JSON is sent as it is: the server says what is wrong with it. */
  value() {
    if (this.kind === "") return null;
    if (this.kind === "json_object") return { json_object: true };
    const source = this.#source();
    if (this.kind === "choice") return { choice: source.split("\n").filter((line) => line !== "") };
    if (this.kind !== "json_schema") return { [this.kind]: source };
    try {
      return { json_schema: JSON.parse(source) };
    } catch {
      return { json_schema: source };
    }
  }

  save() {
    return this.kind === "" ? null : { kind: this.kind, source: this.#source() };
  }

  load(saved) {
    this.kind = saved && saved.kind in KINDS ? saved.kind : "";
    if (this.kind !== "" && typeof saved.source === "string") this.sources[this.kind] = saved.source;
    this.#show();
  }

  #source() {
    return this.sources[this.kind] ?? KINDS[this.kind][1] ?? "";
  }

  #choose(kind) {
    this.kind = kind;
    this.#show();
    this.changed();
  }

  #store() {
    this.sources[this.kind] = this.source.value;
    this.#check();
    this.changed();
  }

  #show() {
    if (!this.select) return;
    this.select.value = this.kind;
    this.box.hidden = !(this.kind in LABELS);
    this.label.textContent = LABELS[this.kind] ?? "";
    this.source.value = this.#source();
    this.#check();
  }

  #check() {
    let fault = "";
    if (this.kind === "json_schema") {
      try {
        JSON.parse(this.#source());
      } catch {
        fault = "This is not JSON yet.";
      }
    }
    this.fault.textContent = fault;
    this.fault.hidden = fault === "";
    this.source.setAttribute("aria-invalid", String(fault !== ""));
  }
}
