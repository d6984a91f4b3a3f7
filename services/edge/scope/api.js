// The public HTTP API: requests with the key, and the event stream that never misses a line.

export const base = location.pathname.replace(/\/*$/, "/");
export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export class Failed extends Error {
  constructor(status, fault = {}) {
    super(fault.message || fault.reason || "HTTP " + status);
    this.status = status;
    this.reason = fault.reason;
  }
}

export function stored(name, make) {
  let value = sessionStorage.getItem(name);
  if (!value && make) sessionStorage.setItem(name, (value = make()));
  return value || "";
}

let askKey = () => {};
export const onKeyNeeded = (ask) => { askKey = ask; };

function headers(more) {
  const key = stored("key");
  return { ...(key ? { authorization: "Bearer " + key } : {}), ...more };
}
async function refused(answer) {
  const told = await answer.json().catch(() => ({}));
  if (answer.status === 401) askKey();
  return new Failed(answer.status, told.error);
}

export async function api(path, { body, signal } = {}) {
  const answer = await fetch(base + path, {
    method: body === undefined ? "GET" : "POST",
    headers: headers({ accept: "application/json", ...(body === undefined ? {} : { "content-type": "application/json" }) }),
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store", credentials: "omit", signal,
  });
  if (answer.status === 204) return null;
  if (!answer.ok) throw await refused(answer);
  return answer.json();
}

export async function text(path) {
  const answer = await fetch(base + path, { headers: headers({}), cache: "no-store", credentials: "omit" });
  if (!answer.ok) throw await refused(answer);
  return answer.text();
}

// Server-sent events by fetch, because EventSource can send no key. Calls `take(event)` for each event in order, and
// `link(up)` when the connection comes and goes. Goes on behind the last event it took, so that nothing is missed.
export async function follow(world, cursor, signal, { take, link, missed }) {
  let wait = 300;
  while (!signal.aborted) {
    try {
      const query = "v1/events?world=" + encodeURIComponent(world) + (cursor === null ? "" : "&cursor=" + cursor);
      const answer = await fetch(base + query, { headers: headers({ accept: "text/event-stream" }), cache: "no-store", credentials: "omit", signal });
      if (!answer.ok) throw await refused(answer);
      link(true);
      wait = 300;
      for await (const message of messages(answer.body)) {
        if (message.id) cursor = Number(message.id);
        if (message.event === "resync") { cursor = JSON.parse(message.data).cursor; missed(); }
        else if (message.event === "reconnect" || message.event === "error") break;
        else if (message.data) take(JSON.parse(message.data));
      }
    } catch (error) {
      if (signal.aborted) return;
    }
    link(false);
    await pause(wait + Math.random() * 200);
    wait = Math.min(wait * 2, 5000);
  }
}

async function* messages(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      kept += value;
      const parts = kept.split("\n\n");
      kept = parts.pop();
      for (const part of parts) {
        const message = { data: "" };
        for (const line of part.split("\n")) {
          const at = line.indexOf(":");
          if (at > 0) message[line.slice(0, at)] = line.slice(at + 1).trimStart();
        }
        yield message;
      }
    }
  } finally { reader.cancel().catch(() => {}); }
}
