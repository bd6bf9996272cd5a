// A request as something to run elsewhere. An API key is never written into it: it is read from GPTWO_API_KEY.

import { address, apiKey } from "./api.js";

// What OpenAI's client has arguments for; all else goes into extra_body.
const OPENAI = new Set([
  "model", "prompt", "max_tokens", "temperature", "top_p", "n", "best_of", "logprobs", "echo", "stop", "seed",
  "frequency_penalty", "presence_penalty", "logit_bias", "suffix", "user",
]);

/** What the page alone needs is left out of what is copied. */
export function plainRequest(body) {
  const { stream: _stream, return_token_ids: _ids, logprobs: _logprobs, ...rest } = body;
  return rest;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function curl(body) {
  const lines = [`curl -sS ${address("v1/completions")}`, `-H 'Content-Type: application/json'`];
  if (apiKey.get()) lines.push(`-H "Authorization: Bearer $GPTWO_API_KEY"`);
  lines.push(`-d ${quoted(JSON.stringify(plainRequest(body), null, 2))}`);
  return `${lines.join(" \\\n  ")}\n`;
}

export function python(body) {
  const request = plainRequest(body);
  const extra = Object.fromEntries(Object.entries(request).filter(([name]) => !OPENAI.has(name)));
  const given = Object.entries(request).filter(([name]) => OPENAI.has(name));
  const lines = given.map(([name, value]) => `    ${name}=${literal(value, 4)},`);
  if (Object.keys(extra).length > 0) lines.push(`    extra_body=${literal(extra, 4)},`);
  const key = apiKey.get() ? 'os.environ["GPTWO_API_KEY"]' : '"none"';
  return `${apiKey.get() ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${literal(address("v1").replace(/\/$/, ""))}, api_key=${key})
completion = client.completions.create(
${lines.join("\n")}
)
for choice in completion.choices:
    print(choice.text)
`;
}

/** A JSON value as Python writes it. JSON's strings are Python's too. */
function literal(value, indent = 0) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = " ".repeat(indent + 4);
  const items = Array.isArray(value)
    ? value.map((item) => literal(item, indent + 4))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, indent + 4)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const line = open + items.join(", ") + close;
  if (line.length + indent <= 80 && !line.includes("\n")) return line;
  return `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${" ".repeat(indent)}${close}`;
}

/** Put text on the clipboard; true if that worked. Pages that came over plain HTTP have only the older way. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "sr";
    document.body.append(field);
    const focused = document.activeElement;
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    focused?.focus();
    return copied;
  }
}
