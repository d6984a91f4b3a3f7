// What the page knows of the chosen world, and small things that every view uses.

export const EARSHOT = 10;
const TRAIL = 30;
// As far apart as eight colours can be for most eyes; a lineage keeps its own for as long as the page is open.
const PALETTE = ["#3b8ed8", "#d9762b", "#2e9e6b", "#c0448f", "#8a6fdf", "#a89420", "#2aa5b5", "#d2574a"];

export const world = {
  id: "", told: null, names: new Map(), kinds: new Map(), trails: new Map(), shown: new Map(), colours: new Map(),
  typing: new Map(), spoken: new Map(), cluster: new Map(), fresh: new Map(), places: [], selected: "",
};
const listeners = new Map();
export function on(what, run) { listeners.set(what, [...(listeners.get(what) || []), run]); }
export function tell(what, value) { for (const run of listeners.get(what) || []) run(value); }

export function forget(id) {
  world.id = id;
  world.told = null;
  world.selected = "";
  for (const one of [world.names, world.kinds, world.trails, world.shown, world.typing, world.spoken, world.cluster, world.fresh]) one.clear();
}

export function take(told, now = performance.now()) {
  world.told = told;
  const here = new Set();
  for (const one of told.entities) {
    here.add(one.id);
    world.kinds.set(one.id, one.kind);
    if (one.name) world.names.set(one.id, one.name);
    if (one.position) move(one.id, one.position, now);
  }
  for (const id of world.shown.keys()) if (!here.has(id)) { world.shown.delete(id); world.trails.delete(id); }
  for (const talk of told.conversations) for (const member of talk.members) if (member.name) world.names.set(member.id, member.name);
  world.cluster.clear();
  for (const one of told.clusters) for (const id of one.members) world.cluster.set(id, one);
  world.fresh.clear();
  for (const one of told.sync ? told.sync.npcs : []) world.fresh.set(one.npc_id, one);
  tell("world");
}

function move(id, { x, z }, now) {
  const shown = world.shown.get(id);
  if (!shown) { world.shown.set(id, { x, z, fromX: x, fromZ: z, toX: x, toZ: z, since: now }); world.trails.set(id, [{ x, z }]); return; }
  const gone = Math.hypot(shown.toX - x, shown.toZ - z);
  if (gone < 0.1) return;
  const jump = gone > 60;
  Object.assign(shown, { fromX: jump ? x : shown.x, fromZ: jump ? z : shown.z, toX: x, toZ: z, since: now });
  const trail = world.trails.get(id);
  trail.push({ x, z });
  if (trail.length > TRAIL) trail.shift();
}

export const nameOf = (id) => world.names.get(id) || id;
export const isNpc = (id) => world.kinds.get(id) === "npc";
export function colourOf(lineage) {
  if (!lineage) return "";
  if (!world.colours.has(lineage)) world.colours.set(lineage, PALETTE[world.colours.size % PALETTE.length]);
  return world.colours.get(lineage);
}
export function tintOf(id) {
  const cluster = world.cluster.get(id);
  return cluster ? colourOf(cluster.id) : "";
}
export function select(id) {
  world.selected = world.selected === id ? "" : id;
  tell("select");
}

// How fresh an NPC's agent is: a share of a ring and its colour, words and theirs. To be behind is no fault: what it does
// not know yet it is told before it speaks.
export function freshness(id) {
  const sync = world.fresh.get(id);
  if (!sync || !sync.agent_id) return { share: 0, state: "soft", tone: "soft", words: "not needed yet" };
  const behind = sync.revisions_behind || 0;
  if (sync.last_error && sync.dirty) return { share: 1, state: "bad", tone: "bad", words: "write failed, trying again" };
  if (sync.in_flight) return { share: 0.8, state: "warn", tone: "soft", words: "being told" };
  if (!behind) return { share: 1, state: "good", tone: "good", words: "up to date" };
  return { share: Math.max(0.15, 1 - behind / 20), state: "warn", tone: "soft", words: "told before it speaks" };
}

export function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  return made;
}
export function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
export const $ = (id) => document.getElementById(id);
export const list = (names) => names.length < 2 ? names.join("") : names.slice(0, -1).join(", ") + " and " + names.at(-1);
export const ms = (value) => value < 1000 ? Math.round(value) + " ms" : (value / 1000).toFixed(1) + " s";
export const count = (number, what) => number + " " + what + (number === 1 ? "" : "s");
export function write(box, text) { if (box.textContent !== text) box.textContent = text; }
export const percent = (value) => Math.round(value * 100) + " %";

// Options of a select, touched only when they change: an open list must not jump.
export function options(select, entries) {
  const key = JSON.stringify(entries);
  if (select.dataset.key === key) return;
  select.dataset.key = key;
  const wanted = select.value;
  select.replaceChildren(...entries.map(([value, text]) => { const made = element("option", text); made.value = value; return made; }));
  if (entries.some(([value]) => value === wanted)) select.value = wanted;
}
