// Everybody in words, each NPC with its ring of freshness; and a card about who is selected.

import { $, count, element, freshness, list, ms, nameOf, on, select, svg, tintOf, world } from "./world.js";

const rows = new Map();

function ring(id) {
  const told = freshness(id), round = 2 * Math.PI * 12;
  const picture = svg("svg", { viewBox: "0 0 32 32", width: 32, height: 32, "aria-hidden": "true" });
  const arc = told.share ? [svg("circle", { cx: 16, cy: 16, r: 12, fill: "none", stroke: `var(--${told.state})`, "stroke-width": 3, "stroke-linecap": "round",
    "stroke-dasharray": `${told.share * round} ${round}`, transform: "rotate(-90 16 16)" })] : [];
  picture.append(
    svg("circle", { cx: 16, cy: 16, r: 7, fill: tintOf(id) || "var(--npc)" }),
    svg("circle", { cx: 16, cy: 16, r: 12, fill: "none", stroke: "var(--line)", "stroke-width": 3 }), ...arc);
  return picture;
}
function diamond() {
  const picture = svg("svg", { viewBox: "0 0 32 32", width: 32, height: 32, "aria-hidden": "true" });
  picture.append(svg("path", { d: "M16 8l8 8-8 8-8-8z", fill: "var(--player)" }));
  return picture;
}
function company(id) {
  const group = world.cluster.get(id);
  return group ? group.members.filter((one) => one !== id).map(nameOf) : [];
}
const health = (one) => one.health === undefined ? "" : Math.round(one.health) + (one.max_health ? " of " + Math.round(one.max_health) : "");

// A row keeps its elements and writes only what is new: focus and scrolling stay where they are.
function row(id, npc) {
  const item = element("li"), button = element("button"), name = element("b"), state = element("span"), does = element("span", undefined, "does");
  button.append(element("span", undefined, "mark"), name, state, does);
  button.addEventListener("click", () => select(id));
  item.append(button);
  return { item, button, name, state, does, npc, said: {} };
}
function say(one, what, value, write) { if (one.said[what] !== value) { one.said[what] = value; write(value); } }

function show() {
  if (document.body.dataset.view !== "people") return;
  const sorted = [...world.told.entities].sort((a, b) => a.kind.localeCompare(b.kind) || nameOf(a.id).localeCompare(nameOf(b.id)));
  const wanted = sorted.map((one) => {
    const npc = one.kind === "npc", told = npc ? freshness(one.id) : { words: "player", tone: "small" }, mates = company(one.id);
    const doing = [one.action, one.location && "at " + one.location, one.health < one.max_health && "health " + health(one)].filter(Boolean).join(" \u00b7 ");
    let made = rows.get(one.id);
    if (!made || made.npc !== npc) rows.set(one.id, (made = row(one.id, npc)));
    say(made, "name", nameOf(one.id), (name) => { made.name.textContent = name; });
    say(made, "does", [doing, mates.length && "with " + list(mates)].filter(Boolean).join(", "), (does) => { made.does.textContent = does; });
    say(made, "words", told.words, (words) => { made.state.textContent = words; });
    say(made, "tone", told.tone, (tone) => { made.state.className = "fresh " + tone; });
    say(made, "mark", npc ? told.state + Math.round(told.share * 24) + tintOf(one.id) : "", () => made.button.firstChild.replaceChildren(npc ? ring(one.id) : diamond()));
    say(made, "chosen", String(world.selected === one.id), (chosen) => made.button.setAttribute("aria-pressed", chosen));
    return made.item;
  });
  for (const id of rows.keys()) if (!world.kinds.has(id)) rows.delete(id);
  const box = $("people");
  if (!wanted.length) box.replaceChildren(element("li", "Nobody is here", "empty"));
  else if (wanted.length !== box.children.length || wanted.some((item, at) => box.children[at] !== item)) box.replaceChildren(...wanted);
}

let shown = "";
function card() {
  const one = world.told && world.told.entities.find((other) => other.id === world.selected), box = $("card");
  box.hidden = !one;
  if (!one) { shown = ""; return; }
  const facts = [["Hears", list(company(one.id)) || "nobody"]];
  if (health(one)) facts.unshift(["Health", health(one)]);
  if (one.location) facts.unshift(["At", one.location]);
  if (one.action) facts.unshift(["Does", one.action]);
  const sync = world.fresh.get(one.id);
  if (one.kind === "npc") {
    facts.push(["Memory", freshness(one.id).words]);
    if (sync && sync.agent_id) {
      facts.push(["Told", "revision " + sync.confirmed_revision + " of " + world.told.revision + (sync.age_ms ? ", " + ms(sync.age_ms) + " ago" : "")]);
      facts.push(["Agent", sync.runtime + ", " + count(sync.turns, "turn") + ", " + count(sync.writes, "write")]);
      if (sync.last_error) facts.push(["Problem", sync.last_error]);
    }
  }
  const told = element("dl");
  for (const [name, value] of facts) told.append(element("dt", name), element("dd", value));
  const whole = one.id + nameOf(one.id) + tintOf(one.id);
  const mark = one.kind === "npc" ? ring(one.id) : diamond();
  if (shown === whole) { box.firstChild.firstChild.replaceWith(mark); box.lastChild.replaceWith(told); return; }  // its button may have the focus
  shown = whole;
  const head = element("h3", nameOf(one.id)), close = element("button", "\u2715", "quiet");
  close.setAttribute("aria-label", "Close");
  close.addEventListener("click", () => select(one.id));
  head.prepend(mark);
  head.append(close);
  box.replaceChildren(head, told);
}
on("world", () => { show(); card(); });
on("select", () => { if (world.told) { show(); card(); } });
on("view", () => { if (world.told) show(); });
