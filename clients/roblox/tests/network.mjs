// HTTP as the engine speaks it, one connection a request, and what has not come yet.
import { request as http } from "node:http";
import { gunzipSync, gzipSync } from "node:zlib";

// Real seconds: only a hang is that slow. What the engine allows a request is counted in the game's time, by the shim.
const HANG_MS = 60_000;

export class Network {
  constructor(baseUrl, clock) {
    this.baseUrl = baseUrl;
    this.clock = clock;
    this.lastId = 0;
    this.outcomes = [];
    this.controls = 0;
    this.flying = new Map();
    this.streams = new Map();
    this.unreported = [];
    this.wake = () => {};
  }

  get waiting() {
    return this.flying.size + this.controls;
  }

  // What completed since the last call.
  take() {
    return this.outcomes.splice(0);
  }

  // Waits until something completes, or `limit` real milliseconds.
  something(limit = HANG_MS) {
    if (this.outcomes.length > 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, limit);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  // Numbers of the requests that were sent since the last call, without those that found nobody.
  sent() {
    return this.unreported.splice(0).filter((id) => this.flying.has(id) || this.streams.has(id));
  }

  // Waits for what the edge says that it has sent.
  async arrived(report) {
    await Promise.all(report.answered.map((id) => this.flying.get(id)?.done));
    for (const [id, bytes] of Object.entries(report.written)) {
      const stream = this.streams.get(Number(id));
      if (stream !== undefined) await stream.reach(bytes);
    }
  }

  complete(id, outcome) {
    this.outcomes.push({ id, ...outcome });
    this.wake();
  }

  // One request; its outcome is what RequestAsync returns or throws.
  send(asked) {
    const id = ++this.lastId;
    const url = new URL(asked.Url);
    if (!url.href.startsWith(this.baseUrl)) {
      queueMicrotask(() => this.complete(id, { thrown: "HttpError: DnsResolve" }));
      return id;
    }
    const headers = { "user-agent": "Roblox/Linux", "roblox-id": "4242", "accept-encoding": "gzip, deflate", ...asked.Headers };
    let body = asked.Body === undefined ? undefined : Buffer.from(asked.Body);
    if (body !== undefined && asked.Gzip) {
      const packed = gzipSync(body);
      if (packed.length < body.length) {
        body = packed;
        headers["content-encoding"] = "gzip";
      }
    }
    if (body !== undefined) headers["content-length"] = body.length;
    const call = this.open(id, url, asked.Method, headers, body);
    const flight = { call };
    flight.done = this.collect(call).then((outcome) => {
      if (this.flying.delete(id)) this.complete(id, outcome);
    });
    this.flying.set(id, flight);
    return id;
  }

  open(id, url, method, headers, body) {
    const call = http(url, { method, headers: { ...headers, "x-game-request": id }, agent: false, timeout: HANG_MS });
    call.end(body);
    this.unreported.push(id);
    return call;
  }

  async collect(call) {
    try {
      const response = await new Promise((resolve, reject) => call.on("response", resolve).on("error", reject).on("timeout", () => call.destroy()));
      const chunks = [];
      for await (const chunk of response) chunks.push(chunk);
      let text = Buffer.concat(chunks);
      if (response.headers["content-encoding"] === "gzip") text = gunzipSync(text);
      const headers = { ...response.headers };
      // An edge whose time is the game's has no other date.
      if (headers.date !== undefined && this.clock.seconds !== undefined) {
        headers.date = new Date((this.clock.epoch + this.clock.now()) * 1000).toUTCString();
      }
      const status = response.statusCode;
      return { value: { Success: status >= 200 && status < 300, StatusCode: status, StatusMessage: response.statusMessage, Headers: headers, Body: text.toString() } };
    } catch {
      return { thrown: "HttpError: ConnectFail" };
    }
  }

  // The engine gave a request up.
  abort(id) {
    const flight = this.flying.get(id);
    if (this.flying.delete(id)) flight.call.destroy();
  }

  // A stream of server-sent events: the data of each, until it ends.
  follow(asked) {
    const id = ++this.lastId;
    const stream = { read: 0, waiting: [], ended: false };
    stream.reach = (bytes) => {
      // Of what the edge has written so far in all.
      stream.expected = (stream.expected ?? 0) + bytes;
      return new Promise((resolve) => {
        stream.waiting.push({ bytes: stream.expected, resolve });
        progress();
      });
    };
    const progress = () => {
      stream.waiting = stream.waiting.filter(({ bytes, resolve }) => {
        const there = stream.ended || stream.read >= bytes;
        if (there) resolve();
        return !there;
      });
    };
    this.streams.set(id, stream);
    stream.call = this.open(id, new URL(asked.Url), "GET", asked.Headers);
    this.read(id, stream, progress);
    return id;
  }

  async read(id, stream, progress) {
    const tell = (kind, value = "") => {
      this.outcomes.push({ id, stream: kind, value });
      this.wake();
    };
    try {
      const response = await new Promise((resolve, reject) => stream.call.on("response", resolve).on("error", reject));
      let text = "";
      response.setEncoding("utf8");
      for await (const chunk of response) {
        stream.read += Buffer.byteLength(chunk);
        text += chunk;
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) {
          const data = event.split("\n").filter((line) => line.startsWith("data: "));
          if (data.length > 0) tell("message", data.map((line) => line.slice(6)).join("\n"));
        }
        progress();
      }
    } catch {
      // Lost: the end says so.
    }
    stream.ended = true;
    progress();
    tell("closed");
  }

  endStream(id) {
    this.streams.get(id)?.call.destroy();
  }
}
