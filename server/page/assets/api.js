// The daemon's API. The key, where one is needed, lives in sessionStorage: this tab, this session.

import { dialog, field, h } from "./dom.js";

const KEY = "edge-agent-key";
let asking = null;

export class ApiError extends Error {
  constructor(status, error) {
    super(error?.message ?? `the daemon answered ${status}`);
    this.status = status;
    this.code = error?.code;
  }
}

// The response, or ApiError in the daemon's words. Asks for the key when it is missing or wrong.
async function send(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...options.headers };
    const response = await fetch(path, { ...options, headers }).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, { message: "the daemon does not answer; is it running?" });
    });
    if (response.ok) return response;
    const body = await response.json().catch(() => null);
    if (response.status !== 401) throw new ApiError(response.status, body?.error);
    asking ??= askForKey(key !== null).finally(() => { asking = null; });
    await asking;
  }
}

function askForKey(wrong) {
  sessionStorage.removeItem(KEY);
  return new Promise((resolve) => {
    const input = h("input", { type: "password", autocomplete: "off", required: true, pattern: "[!-~]+", autofocus: true });
    const form = h("form", { method: "dialog" },
      h("p", wrong ? "That is not one of the server's keys." : "This daemon answers only with one of its API keys. It stays in this tab and is gone when you close it."),
      field("API key", input),
      h("div.actions", h("button.primary", "Open")));
    const box = dialog("API key", form);
    box.addEventListener("cancel", (event) => event.preventDefault());
    form.addEventListener("submit", () => {
      sessionStorage.setItem(KEY, input.value.trim());
    });
    box.addEventListener("close", resolve);
  });
}

export const get = async (path, signal) => (await send(path, { signal })).json();

export async function post(path, body, method = "POST") {
  const options = { method };
  if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  return (await send(path, options)).json();
}

export const forget = (id, dryRun) =>
  post(`/v1/decisions/${encodeURIComponent(id)}${dryRun ? "?dry_run=true" : ""}`, undefined, "DELETE");

export const blob = async (path) => (await send(path)).blob();

// The data of server-sent events, parsed. EventSource cannot send a key.
export async function* events(path, { body, signal } = {}) {
  const options = { signal };
  if (body) {
    options.method = "POST";
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  const response = await send(path, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}
