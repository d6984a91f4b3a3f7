// Runs one spec: the unmodified SDK in a Luau VM, with a Roblox API written for tests and real HTTP.
// One spec a process (a destroyed state breaks the next one), text only across the boundary.
import { readFileSync, readdirSync, statSync } from "node:fs";
import { basename, join, relative } from "node:path";
import { createInterface } from "node:readline";
import { gzipSync } from "node:zlib";
import { LuauState } from "luau-web";

const here = import.meta.dirname;
const root = join(here, "..");

// How much faster than real the game's clock runs; "jump": it runs only by jumping to what is due next.
export function pace(source) {
  const found = source.match(/^-- pace: (\S+)/m);
  return found === null ? 1 : found[1] === "jump" ? "jump" : Number(found[1]);
}

function luauFiles(folder) {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? luauFiles(path) : name.endsWith(".luau") ? [path] : [];
  });
}

class GameClock {
  constructor(speed) {
    this.jumps = speed === "jump";
    this.speed = this.jumps ? 0 : speed;
    this.started = performance.now();
    this.epoch = Date.now() / 1000;
    this.jumped = 0;
  }
  now() {
    return this.jumped + ((performance.now() - this.started) / 1000) * this.speed;
  }
  // The edge's time in the game's: what it dates must not look old or far away.
  fromEdge(unix) {
    return this.speed === 0 ? unix : this.epoch + (unix - this.epoch) * this.speed;
  }
}

function redated(value, clock) {
  if (Array.isArray(value)) return value.map((one) => redated(one, clock));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, one]) =>
      ["at", "expires_at"].includes(key) && typeof one === "number" ? [key, clock.fromEdge(one)] : [key, redated(one, clock)],
    ),
  );
}

// One request as the engine makes it. Resolves to what RequestAsync returns or throws.
async function perform(request, clock, baseUrl) {
  const url = new URL(request.Url);
  if (clock.speed > 1 && url.searchParams.has("hold")) {
    url.searchParams.set("hold", String(Number(url.searchParams.get("hold")) / clock.speed));
  }
  if (!url.href.startsWith(baseUrl)) return { thrown: "HttpError: DnsResolve" };
  const headers = { "user-agent": "Roblox/Linux", "roblox-id": "4242", "accept-encoding": "gzip, deflate", ...request.Headers };
  let body = request.Body;
  if (body !== undefined && request.Gzip) {
    const packed = gzipSync(body);
    if (packed.length < Buffer.byteLength(body)) {
      body = packed;
      headers["content-encoding"] = "gzip";
    }
  }
  // The edge does not run faster with the game's clock: no less than a few real seconds.
  const limit = Math.max((request.Timeout ?? 30) / Math.max(clock.speed, 1), 5);
  try {
    const response = await fetch(url, { method: request.Method, headers, body, redirect: "manual", signal: AbortSignal.timeout(limit * 1000 + 500) });
    let text = await response.text();
    if (clock.speed > 1 && text.startsWith("{")) text = JSON.stringify(redated(JSON.parse(text), clock));
    const answered = Object.fromEntries(response.headers);
    if (clock.speed > 1) delete answered.date;
    return { value: { Success: response.ok, StatusCode: response.status, StatusMessage: response.statusText, Headers: answered, Body: text } };
  } catch (error) {
    return { thrown: error.name === "TimeoutError" ? "HttpError: Timedout" : "HttpError: ConnectFail" };
  }
}

// A stream of server-sent events until it ends; `tell` gets the data of each.
async function follow(request, signal, tell) {
  try {
    const response = await fetch(request.Url, { headers: request.Headers, signal });
    const decoder = new TextDecoder();
    let text = "";
    for await (const chunk of response.body) {
      text += decoder.decode(chunk, { stream: true });
      const events = text.split("\n\n");
      text = events.pop();
      for (const event of events) {
        const data = event.split("\n").filter((line) => line.startsWith("data: "));
        if (data.length > 0) tell(data.map((line) => line.slice(6)).join("\n"));
      }
    }
  } catch {
    // Lost: the end says so.
  }
}

export async function run(specFile, baseUrl, key) {
  const source = readFileSync(specFile, "utf8");
  const clock = new GameClock(pace(source));
  const completed = [];
  let inFlight = 0;
  let wake = () => {};
  const complete = (id, outcome) => {
    inFlight -= 1;
    completed.push({ id, ...outcome });
    wake();
  };
  const stdin = createInterface({ input: process.stdin });
  const controls = [];
  stdin.on("line", (line) => complete(controls.shift(), { value: line }));

  let lastId = 0;
  const streams = new Map();
  const state = await LuauState.createAsync({
    hostNow: () => clock.now(),
    hostEpoch: () => clock.epoch,
    hostMilliseconds: () => performance.now(),
    // Of this process: what other processes take does not count.
    hostCpuMilliseconds: () => {
      const used = process.cpuUsage();
      return (used.user + used.system) / 1000;
    },
    hostPrint: (text) => console.log(text),
    hostSettings: () => JSON.stringify({ url: baseUrl, key }),
    hostDecode: (text) => {
      try {
        JSON.parse(text);
        return "";
      } catch {
        return "Can't parse JSON";
      }
    },
    hostRequest: (text) => {
      const id = ++lastId;
      inFlight += 1;
      perform(JSON.parse(text), clock, baseUrl).then((outcome) => complete(id, outcome));
      return id;
    },
    hostStream: (text) => {
      const id = ++lastId;
      const ended = new AbortController();
      streams.set(id, ended);
      const tell = (stream, value = "") => {
        completed.push({ id, stream, value });
        wake();
      };
      follow(JSON.parse(text), ended.signal, (data) => tell("message", data)).finally(() => tell("closed"));
      return id;
    },
    hostStreamEnd: (id) => streams.get(id).abort(),
    // Asks whoever runs this process for something, for instance to kill the edge.
    hostControl: (command) => {
      const id = ++lastId;
      inFlight += 1;
      controls.push(id);
      console.log(`@@${command}`);
      return id;
    },
  });

  const load = async (path, name) => (await state.loadstring(readFileSync(path, "utf8"), `@${name}`, true));
  for (const name of ["scheduler", "json", "types", "instance", "services", "http", "harness"]) {
    await (await load(join(here, "shim", `${name}.luau`), `shim/${name}`))();
  }
  const [register] = await (await state.loadstring("return __register", "=host", true))();
  for (const path of luauFiles(join(root, "src")).sort()) {
    const name = relative(join(root, "src"), path);
    await register(name, await load(path, `src/${name}`));
  }
  const [pump] = await (await state.loadstring("return __pump", "=host", true))();
  const [begin] = await (await state.loadstring("return __begin", "=host", true))();
  await begin(basename(specFile), state.loadstring(source, `@specs/${basename(specFile)}`, true));

  for (;;) {
    const [due, status] = await pump(clock.now(), JSON.stringify(completed.splice(0)));
    if (status !== "running") {
      process.exitCode = status === "passed" ? 0 : 1;
      process.exit();
    }
    if (completed.length > 0) continue;
    const wait = due - clock.now();
    if (clock.jumps && inFlight === 0) {
      if (!Number.isFinite(due)) throw new Error("nothing is left to do, but the spec has not ended");
      clock.jumped = Math.max(clock.jumped, due);
    } else if (wait > 0) {
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, Number.isFinite(wait) ? Math.min((wait / (clock.speed || 1)) * 1000, 1000) : 1000);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
        if (completed.length > 0) wake();
      });
      wake = () => {};
    }
  }
}

const [specFile, baseUrl = "", key = ""] = process.argv.slice(2);
await run(specFile, baseUrl, key);
