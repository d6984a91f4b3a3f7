// Runs one spec: the unmodified SDK in a Luau VM, with a Roblox API written for tests and real HTTP.
// One spec a process (a destroyed state breaks the next one), text only across the boundary.
//   node host.mjs SPEC [URL [KEY [CONTROL_PORT]]]
// Without a URL there is no edge; with a control port the edge's time is the game's (clock.mjs).
import { readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { basename, join, relative } from "node:path";
import { createInterface } from "node:readline";
import { LuauState } from "luau-web";
import { Jumping, Real, Together } from "./clock.mjs";
import { Network } from "./network.mjs";

const here = import.meta.dirname;
const sources = join(here, "..", "src");

function luauFiles(folder) {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? luauFiles(path) : name.endsWith(".luau") ? [path] : [];
  });
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function hostFunctions(clock, network, settings) {
  const controls = [];
  createInterface({ input: process.stdin }).on("line", async (line) => {
    if (clock.port !== undefined && clock.edge === null) await clock.attach().catch(() => {});
    network.controls -= 1;
    network.complete(controls.shift(), { value: line });
  });
  return {
    hostNow: () => clock.now(),
    hostEpoch: () => clock.epoch,
    hostMilliseconds: () => performance.now(),
    // Of this process: what other processes take does not count.
    hostCpuMilliseconds: () => {
      const used = process.cpuUsage();
      return (used.user + used.system) / 1000;
    },
    hostPrint: (text) => console.log(text),
    hostSettings: () => JSON.stringify(settings),
    hostDecode: (text) => (isJson(text) ? "" : "Can't parse JSON"),
    // Compares with what was seen before; EARSHOT_GOLDEN=write keeps what is seen now.
    hostGolden: (name, text) => {
      const path = join(here, "golden", name);
      if (process.env.EARSHOT_GOLDEN === "write") writeFileSync(path, text);
      return readFileSync(path, "utf8") === text;
    },
    hostRequest: (text) => network.send(JSON.parse(text)),
    hostAbort: (id) => network.abort(id),
    hostStream: (text) => network.follow(JSON.parse(text)),
    hostStreamEnd: (id) => network.endStream(id),
    // Asks whoever runs this process for something, for instance to kill the edge.
    hostControl: (command) => {
      const id = ++network.lastId;
      network.controls += 1;
      controls.push(id);
      console.log(`@@${command} ${clock.epoch + clock.now()}`);
      return id;
    },
  };
}

async function prepare(state, specFile) {
  const load = (path, name) => state.loadstring(readFileSync(path, "utf8"), `@${name}`, true);
  const global = async (name) => (await (await state.loadstring(`return ${name}`, "=host", true))())[0];
  for (const name of ["scheduler", "json", "types", "instance", "services", "http", "harness"]) {
    await (await load(join(here, "shim", `${name}.luau`), `shim/${name}`))();
  }
  const register = await global("__register");
  for (const path of luauFiles(sources).sort()) {
    const name = relative(sources, path);
    await register(name, await load(path, `src/${name}`));
  }
  const begin = await global("__begin");
  await begin(basename(specFile), await load(specFile, `specs/${basename(specFile)}`));
  return global("__pump");
}

const [specFile, url = "", key = "", controlPort = ""] = process.argv.slice(2);
const clock = controlPort !== "" ? new Together(Number(controlPort)) : url !== "" ? new Real() : new Jumping();
const network = new Network(url, clock);
if (clock instanceof Together) await clock.attach();
const state = await LuauState.createAsync(hostFunctions(clock, network, { url, key }));
const pump = await prepare(state, specFile);
for (;;) {
  const [due, status] = await pump(clock.now(), JSON.stringify(network.take()));
  if (status !== "running") process.exit(status === "passed" ? 0 : 1);
  // Also what the game sent just now and failed at once.
  if (network.outcomes.length === 0) await clock.pass(due >= 1e18 ? Infinity : due, network);
}
