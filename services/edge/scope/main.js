// Wires the page: which world, how often it is looked at, which view is open.

import { api, onKeyNeeded, pause } from "./api.js";
import { $, count, forget, on, select, take, tell, world, write } from "./world.js";
import { costs, frames, theme } from "./map.js";
import * as health from "./health.js";
import * as talk from "./talk.js";
import "./people.js";

const REFRESH_MS = 1000, HIDDEN_MS = 10000, WORLDS_MS = 5000, PLACES_MS = 60000;
let turn = 0, linked = true, answered = true;

function report(state, words) { if ($("status").dataset.state !== state) $("status").dataset.state = state; write($("status").lastElementChild, words); }
function connection() {
  const up = linked && answered;
  $("lost").hidden = up;
  if (!up) report("bad", "No connection");
}

// ---- the world, once a second --------------------------------------------------------------------------------------

async function refresh(mine) {
  while (mine === turn) {
    try {
      const told = await api("v1/worlds/" + encodeURIComponent(world.id));
      if (mine !== turn) return;
      answered = true;
      connection();
      take(told);
      header(told);
    } catch (error) {
      if (mine !== turn) return;
      if (error.status === 404) report("wait", "This world is gone");
      else { answered = error.status !== undefined; connection(); if (answered) report("bad", error.message); }
    }
    await pause(document.hidden ? HIDDEN_MS : REFRESH_MS);
  }
}
function header(told) {
  const npcs = told.entities.filter((one) => one.kind === "npc").length;
  write($("world-name").firstElementChild, told.id);
  write($("world-name").lastElementChild, `${count(npcs, "NPC")}, ${count(told.entities.length - npcs, "player")}`);
  const title = told.id + " \u00b7 Earshot Scope";
  if (document.title !== title) document.title = title;
  if (linked) report(told.closed ? "wait" : "live", told.closed ? "Closed" : "Live, revision " + told.revision);
}
function choose(id) {
  turn += 1;
  forget(id);
  history.replaceState(null, "", "#" + encodeURIComponent(id));
  refresh(turn);
  talk.watch(id);
  if (document.body.dataset.view === "worlds") open("talk");
}
// Where something happens: the world that was told of last.
const newest = (found) => found.reduce((best, one) => !one.closed && (best.closed || one.revision_at > best.revision_at) ? one : best);
async function watchWorlds() {
  for (;;) {
    try {
      const found = [];
      let page = "";
      do {
        const told = await api("v1/worlds?page_size=100" + (page ? "&page=" + encodeURIComponent(page) : ""));
        found.push(...told.worlds);
        page = told.next_page || "";
      } while (page && found.length < 500);
      const sorted = [...found.filter((one) => !one.closed), ...found.filter((one) => one.closed)];
      health.worlds(sorted);
      const wanted = decodeURIComponent(location.hash.slice(1));
      if (!world.id && sorted.length) choose(sorted.some((one) => one.id === wanted) ? wanted : newest(sorted).id);
      else if (!sorted.length) report("wait", "No world yet");
    } catch (error) { if (error.status === undefined) { answered = false; connection(); } }
    await pause(document.hidden ? HIDDEN_MS : WORLDS_MS);
  }
}
async function watchPlaces() {
  for (;;) {
    try { world.places = (await api("v1/locations")).locations; tell("places"); } catch { /* the map does without */ }
    await pause(world.places.length ? PLACES_MS : WORLDS_MS);
  }
}
on("choose", choose);
on("link", (up) => { linked = up; connection(); });

// ---- views, theme, keys --------------------------------------------------------------------------------------------

function open(view) {
  document.body.dataset.view = view;
  for (const button of document.querySelectorAll("nav button")) button.setAttribute("aria-current", String(button.dataset.view === view));
  tell("view", view);
}
for (const button of document.querySelectorAll("nav button")) button.addEventListener("click", () => open(button.dataset.view));
$("world-name").addEventListener("click", () => open("worlds"));

const system = matchMedia("(prefers-color-scheme: dark)");
function dress() {
  const chosen = localStorage.getItem("theme");
  document.documentElement.dataset.theme = chosen || (system.matches ? "dark" : "light");
  theme();
}
$("theme").addEventListener("click", () => {
  localStorage.setItem("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  dress();
});
system.addEventListener("change", () => { localStorage.removeItem("theme"); dress(); });

document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
  const views = ["map", "talk", "people", "health", "worlds"];
  if (views[event.key - 1]) open(views[event.key - 1]);
  else if (event.key === "/") { open("talk"); $("text").focus(); event.preventDefault(); }
  else if (event.key === "Escape" && world.selected) select(world.selected);
});
onKeyNeeded(() => { if (!$("login").open) $("login").showModal(); });
$("keys").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value.trim());
  $("login").close();
  if (world.id) choose(world.id);
});

dress();
open("talk");
watchWorlds();
watchPlaces();
health.watch();
// For who looks at the page from outside: its tests and its bench.
globalThis.scope = { costs, frames, world };
document.documentElement.dataset.ready = "true";
