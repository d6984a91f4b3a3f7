// The conversation as it happens, and a visitor's own words. Everything is written as text: names and lines are players'.

import { api, follow, stored } from "./api.js";
import { $, colourOf, element, list, ms, nameOf, on, options, tell, world } from "./world.js";
import { explain, words } from "./why.js";

const FEED_MAX = 300, BACK = 80, GATHER_MS = 120;
const feed = $("feed"), box = $("feedbox");
const visitor = stored("visitor", () => "visitor-" + Math.random().toString(36).slice(2, 10));
// Items of turns that go on, by turn; and what the next picture of the page adds, all at once.
const speaking = new Map(), fresh = [];
let chosen = "", previous = null, stop = new AbortController(), seen = 0;

export async function watch(id) {
  stop.abort();
  stop = new AbortController();
  const { signal } = stop;
  feed.replaceChildren(element("li", "Nothing was said yet. Say something below, or start the tavern: earshot demo", "empty"));
  previous = null;
  seen = fresh.length = 0;
  speaking.clear();
  let cursor = null;
  try {
    const end = (await api("v1/events?world=" + encodeURIComponent(id), { signal })).cursor;
    cursor = Math.max(0, end - BACK);
  } catch { /* the stream says what is wrong */ }
  follow(id, cursor, signal, { take: show, link: (up) => tell("link", up), missed: () => append(element("li", "Some lines are too old to be shown", "gap")) });
}

function show(event) {
  if (event.seq <= seen) return;
  seen = event.seq;
  feed.dataset.seq = event.seq;
  const made = { utterance: said, membership: moved, turn: turned, action: acted }[event.type];
  const item = made && made(event);
  if (!item) return;
  item.dataset.conversation = event.conversation_id;
  item.style.setProperty("--tint", colourOf(event.conversation_id));
  append(item);
}
function append(item) {
  item.hidden = hides(item);
  fresh.push(item);
  if (fresh.length > FEED_MAX) fresh.shift();
  if (fresh.length === 1) setTimeout(() => { if (fresh.length) flush(); }, GATHER_MS);
}
const low = (room) => box.scrollHeight - box.scrollTop - box.clientHeight < room;
// Added together, so that the page is laid out once; the list stays at its end if it was there.
function flush() {
  const first = feed.querySelector(".empty"), atEnd = low(80), shown = fresh.some((item) => !item.hidden);
  if (first) first.remove();
  feed.append(...fresh.splice(0));
  while (feed.children.length > FEED_MAX) feed.firstChild.remove();
  if (atEnd) box.scrollTop = box.scrollHeight;
  else if (shown) $("newest").hidden = false;
}
const hides = (item) => Boolean(chosen && item.dataset.conversation && item.dataset.conversation !== chosen);

function said(event) {
  const who = event.speaker, npc = who.kind === "npc";
  if (who.name) world.names.set(who.id, who.name);
  // What was said before the page looked is read in the list, not on the map.
  if (Date.now() / 1000 - event.at < 8) world.spoken.set(who.id, { text: event.text, at: Date.now() });
  settle(who.id);
  tell("spoke");
  const item = element("li", undefined, "line " + (npc ? "npc" : "player"));
  if (event.turn_id) { speaking.delete(event.turn_id); speaking.set(event.turn_id, item); }
  if (speaking.size > FEED_MAX) speaking.delete(speaking.keys().next().value);
  const key = who.id + event.conversation_id + (event.turn_id || "");
  if (previous === key) item.classList.add("same");
  previous = key;
  const face = element("span", initials(who.name || who.id), "face");
  face.setAttribute("aria-hidden", "true");
  const name = element("span", who.name || who.id, "who");
  if (event.ai) name.append(element("em", event.degraded === "offline" ? "AI, no model" : event.degraded ? "AI, " + event.degraded : "AI"));
  item.append(face, name, element("p", event.text, "words"));
  return item;
}
const initials = (name) => name.split(/\s+/).map((part) => part[0]).join("").slice(0, 2).toUpperCase();

function moved(event) {
  previous = null;
  for (const member of event.members) if (member.name) world.names.set(member.id, member.name);
  const who = list(event.members_changed.map(nameOf)), there = list(event.members.map((one) => one.name || one.id));
  const change = { formed: "came together", joined: "came within earshot", left: "left earshot", merged: "and another group came together", split: "split off", dissolved: "parted" }[event.change] || event.change;
  const item = element("li", (who || "They") + " " + change + ".", "aside moved");
  if (event.change === "joined" || event.change === "left") item.append(element("span", there ? " Here now: " + there + "." : ""));
  return item;
}
function acted(event) {
  previous = null;
  const details = Object.values(event.data).filter((value) => typeof value === "string").join(", ");
  return element("li", nameOf(event.npc_id) + " does: " + event.action + (details ? " (" + details + ")" : ""), "aside");
}

// A turn that begins shows who is about to speak; one that ends says why, at its last line or, without one, by itself.
function turned(event) {
  if (event.npc_name) world.names.set(event.npc_id, event.npc_name);
  if (event.phase === "started") {
    if (Date.now() / 1000 - event.at < 30) world.typing.set(event.npc_id, Date.now());
    tell("spoke");
    return null;
  }
  settle(event.npc_id);
  const facts = [words(event), event.revision_seen && "knew revision " + event.revision_seen + (event.age_ms ? ", " + ms(event.age_ms) + " old" : ""),
    event.first_sentence_ms && "first words after " + ms(event.first_sentence_ms), event.runtime];
  const at = speaking.get(event.turn_id);
  speaking.delete(event.turn_id);
  const target = at ? element("p", undefined, "meta") : element("li", undefined, "aside");
  target.append(facts.filter(Boolean).join(" \u00b7 ") + " ", why(event));
  if (!at) { previous = null; return target; }
  if (!at.isConnected) { at.append(target); return null; }
  const atEnd = low(120);
  at.append(target);
  if (atEnd) box.scrollTop = box.scrollHeight;
  return null;
}
function settle(npc) { world.typing.delete(npc); }
function why(event) {
  const button = element("button", "Why?");
  button.setAttribute("aria-label", "Why did " + (event.npc_name || "nobody") + " speak?");
  button.addEventListener("click", () => explain(event.turn_id));
  return button;
}

// ---- choosing and speaking -----------------------------------------------------------------------------------------

on("world", () => {
  const talks = world.told.conversations.filter((one) => one.open);
  options($("conversation"), [["", "Every conversation"], ...talks.map((one) => [one.id, list(one.members.map((member) => member.name || member.id))])]);
  const npcs = world.told.entities.filter((one) => one.kind === "npc").map((one) => [one.id, nameOf(one.id)]);
  options($("beside"), npcs.sort((a, b) => a[1].localeCompare(b[1])));
});
on("select", () => { if (world.kinds.get(world.selected) === "npc") $("beside").value = world.selected; });
$("conversation").addEventListener("change", () => {
  chosen = $("conversation").value;
  for (const item of feed.children) item.hidden = hides(item);
  box.scrollTop = box.scrollHeight;
});
$("quiet").addEventListener("change", () => { document.body.classList.toggle("wordsonly", $("quiet").checked); box.scrollTop = box.scrollHeight; });
$("newest").addEventListener("click", () => { box.scrollTop = box.scrollHeight; });
box.addEventListener("scroll", () => { if (!$("newest").hidden && low(80)) $("newest").hidden = true; });

$("speak").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value.trim(), npc = $("beside").value, name = $("name").value.trim() || "Visitor";
  if (!text || !npc || !world.id) return;
  $("text").value = "";
  $("said").textContent = nameOf(npc) + " hears you \u2026";
  const here = "?world=" + encodeURIComponent(world.id);
  try {
    // A visitor has no body: standing by an NPC is a link, as the existing game reports co-presence.
    await api("letta/v1/npc/group/update" + here, { body: { npc_id: npc, player_id: visitor, player_name: name, is_joining: true } });
    const told = await api("v1/messages" + here, { body: { world: world.id, player_id: visitor, player_name: name, text } });
    const outcome = { replied: "Answered.", silent: "Nobody answered.", unheard: "No NPC heard it.", accepted: "Said; the turn goes on.", failed: "The answer failed.", duplicate: "Said before." };
    $("said").textContent = (outcome[told.outcome] || told.outcome) + (told.reason && told.outcome !== "replied" ? " " + words({ phase: told.outcome, reason: told.reason }) : "");
  } catch (error) { $("said").textContent = "Not said: " + error.message; $("text").value = text; }
});
