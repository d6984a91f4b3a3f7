// Queues and runtimes, from the world's sync status and the public metrics; and the list of worlds.

import { text } from "./api.js";
import { $, count, element, list, ms, on, svg, tell, world } from "./world.js";

const EVERY_MS = 4000, KEPT = 45;
const history = new Map();
let before = null;

// What the tiles show; of a scrape's thousand lines nothing else is read.
const WANTED = /^(earshot_(?:snapshots_total|queue_depth|sync_pending|requests_in_flight|connections|(?:stage_duration|loop_lag)_seconds_bucket))(?:{(.*)})? (\S+)/;

// Prometheus text -> name -> [{labels, value}]
function parsed(told) {
  const found = new Map();
  for (const line of told.split("\n")) {
    const match = WANTED.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((one) => [one[1], one[2]]));
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value: Number(match[3]) });
  }
  return found;
}
const sum = (found, name, keep = () => true) => (found.get(name) || []).filter((one) => keep(one.labels)).reduce((total, one) => total + one.value, 0);

function quantile(now, then, name, keep, share) {
  const counts = (now.get(name + "_bucket") || []).filter((one) => keep(one.labels)).map((one) => {
    const old = (then && then.get(name + "_bucket") || []).find((other) => other.labels.le === one.labels.le && keep(other.labels));
    return [one.labels.le === "+Inf" ? Infinity : Number(one.labels.le), one.value - (old ? old.value : 0)];
  }).sort((a, b) => a[0] - b[0]);
  const total = counts.length ? counts.at(-1)[1] : 0;
  if (!total) return null;
  let low = 0, under = 0;
  for (const [edge, count] of counts) {
    if (count >= share * total) return edge === Infinity ? low : low + (edge - low) * (share * total - under) / Math.max(count - under, 1e-9);
    low = edge; under = count;
  }
  return low;
}

function spark(name, value) {
  const kept = history.get(name) || [];
  kept.push(value ?? 0);
  if (kept.length > KEPT) kept.shift();
  history.set(name, kept);
  const most = Math.max(...kept, 1e-9), picture = svg("svg", { viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" });
  const points = kept.map((one, at) => `${kept.length < 2 ? 0 : 100 * at / (kept.length - 1)},${22 - 20 * one / most}`).join(" ");
  picture.append(svg("polyline", { points, fill: "none", stroke: "var(--accent)", "stroke-width": 1.5, "vector-effect": "non-scaling-stroke" }));
  return picture;
}
function tile(name, value, shown, tone) {
  const box = element("div", undefined, "tile");
  box.append(element("small", name), element("b", value === null ? "\u2013" : shown, tone), spark(name, value));
  return box;
}
function runtime(one) {
  const box = element("div", undefined, "runtime"), well = one.healthy && one.breaker === "closed";
  box.append(element("i", "", well ? "good" : "bad"), element("b", one.name),
    element("span", well ? "well" : one.breaker !== "closed" ? "breaker " + one.breaker.replace("_", " ") : "not well", well ? "good" : "bad"),
    element("small", [one.in_flight + " in flight", one.detail].filter(Boolean).join(" \u00b7 ")));
  return box;
}

async function look() {
  const now = parsed(await text("metrics")), at = performance.now();
  const then = before && before.found, seconds = before ? (at - before.at) / 1000 : 0;
  const rate = (name, keep) => seconds ? Math.max(0, sum(now, name, keep) - sum(then, name, keep)) / seconds : null;
  const fraction = (value) => value === null ? "" : value.toFixed(value < 10 ? 1 : 0);
  const stage = (name) => ({ stage }) => stage === name;
  const p95 = quantile(now, then, "earshot_stage_duration_seconds", stage("snapshot"), 0.95);
  const asked = quantile(now, null, "earshot_stage_duration_seconds", stage("utterance_to_model"), 0.95);
  const waiting = sum(now, "earshot_queue_depth"), pending = sum(now, "earshot_sync_pending");
  const late = quantile(now, then, "earshot_loop_lag_seconds", () => true, 0.95);
  const tiles = element("div", undefined, "tiles");
  tiles.append(
    tile("Snapshots a second", rate("earshot_snapshots_total"), fraction(rate("earshot_snapshots_total"))),
    tile("Snapshot, 95 % below", p95, ms((p95 || 0) * 1000), p95 > 0.02 ? "warn" : ""),
    tile("Turns waiting", waiting, String(waiting), waiting > 5 ? "warn" : ""),
    tile("Words to model asked", asked, ms((asked || 0) * 1000), asked > 0.02 ? "warn" : ""),
    tile("NPCs to be told", pending, String(pending)),
    tile("Event loop late", late, ms((late || 0) * 1000), late > 0.05 ? "bad" : ""),
    tile("Requests in flight", sum(now, "earshot_requests_in_flight"), String(sum(now, "earshot_requests_in_flight"))),
    tile("Listeners", sum(now, "earshot_connections"), String(sum(now, "earshot_connections"))));
  before = { found: now, at };
  if (document.body.dataset.view !== "health") return;
  const sync = world.told && world.told.sync;
  const missing = world.told && world.told.missing && world.told.missing.length ? [element("p", "No answer from " + list(world.told.missing) + ".", "bad")] : [];
  $("health").replaceChildren(...missing, element("h3", "Runtimes", "sub"), ...(sync && sync.runtimes.length ? sync.runtimes.map(runtime) : [element("p", "Not known yet.", "small")]),
    element("h3", "This server", "sub"), tiles);
}
export async function watch() {
  for (;;) {
    if (!document.hidden) await look().catch(() => {});
    await new Promise((done) => { const timer = setTimeout(done, EVERY_MS); on.once = () => { clearTimeout(timer); done(); }; });
  }
}
on("view", (view) => { if (view === "health" && on.once) on.once(); });

export function worlds(found) {
  const now = Date.now() / 1000;
  $("worlds").replaceChildren(...(found.length ? found.map((one) => {
    const row = element("li"), button = element("button"), age = Math.max(0, now - one.revision_at);
    button.setAttribute("aria-pressed", String(one.id === world.id));
    button.append(element("b", one.id), element("span", one.closed ? "closed" : age < 15 ? "live" : ms(age * 1000) + " ago", "fresh " + (one.closed ? "small" : age < 15 ? "good" : "warn")),
      element("span", `${count(one.npcs, "NPC")}, ${count(one.players, "player")}, ${count(one.clusters, "group")} \u00b7 revision ${one.revision}`, "does"));
    button.addEventListener("click", () => tell("choose", one.id));
    row.append(button);
    return row;
  }) : [element("li", "No world yet: start a game, or earshot demo", "empty")]));
}
