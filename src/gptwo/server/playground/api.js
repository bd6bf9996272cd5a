// The server: its routes, its errors as one sentence each, and its event streams.

const KEY = "gptwo-api-key";

export const apiKey = {
  get: () => {
    try {
      return sessionStorage.getItem(KEY) ?? "";
    } catch {
      return "";
    }
  },
  set: (key) => {
    try {
      if (key) sessionStorage.setItem(KEY, key);
      else sessionStorage.removeItem(KEY);
    } catch {
      // Without storage the key is asked for again after a reload.
    }
  },
};

/** A route's address, relative to the page, so that a server behind a path prefix works too. */
export const address = (path) => new URL(path, document.baseURI).href;

/** What went wrong, for a person. `kind`: "gone", "busy" (try again after `retryAfter` seconds), "key" or "refused". */
export class ServerError extends Error {
  constructor(kind, message, { retryAfter = null, param = null } = {}) {
    super(message);
    this.kind = kind;
    this.retryAfter = retryAfter;
    this.param = param;
  }
}

const gone = () => new ServerError("gone", "The server does not answer. Is it still running?");

/** Send JSON (or nothing) and give the response, whose status is good. */
async function send(path, body, signal) {
  const headers = { ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
  const key = apiKey.get();
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(address(path), {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw gone();
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  const said = body?.error?.message ?? `The server answered ${response.status}.`;
  if (response.status === 401) {
    return new ServerError("key", apiKey.get() ? "The server does not know this API key." : "The server wants an API key.");
  }
  if (response.status === 429 || response.status === 503) {
    const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
    return new ServerError("busy", said, { retryAfter: Number.isFinite(seconds) ? seconds : 2 });
  }
  return new ServerError("refused", said, { param: body?.error?.param ?? null });
}

/** The JSON of a route. */
export async function json(path, body, signal) {
  const response = await send(path, body, signal);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw gone();
  }
}

/** The objects of an event stream, as they come. Lines that are comments keep the connection alive and say nothing. */
export async function* events(path, body, signal) {
  const response = await send(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  let ended = false;
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      buffer += value;
      const lines = buffer.split(/\r\n|\n|\r(?!$)/);
      buffer = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") {
          ended = true;
          return;
        }
        const event = JSON.parse(data);
        if (event.error) throw new ServerError("refused", event.error.message ?? "The server ended with an error.");
        yield event;
      }
    }
  } catch (error) {
    if (error instanceof ServerError || error.name === "AbortError") throw error;
    throw new ServerError("gone", "The connection broke; what had come is kept.");
  } finally {
    if (!ended) reader.cancel().catch(() => {});
  }
  throw new ServerError("gone", "The connection broke; what had come is kept.");
}
