// Everybody in words, each NPC with its ring of freshness; and a card about who is selected.

import { $, element, freshness, list, ms, nameOf, on, select, svg, tintOf, world } from "./world.js";

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

function show() {
  if (document.body.dataset.view !== "people") return;
  const sorted = [...world.told.entities].sort((a, b) => a.kind.localeCompare(b.kind) || nameOf(a.id).localeCompare(nameOf(b.id)));
  const wanted = sorted.map((one) => {
    const fresh = one.kind === "npc" ? freshness(one.id) : null, mates = company(one.id);
    const doing = [one.action, one.location && "at " + one.location, one.health < one.max_health && "health " + health(one)].filter(Boolean).join(" \u00b7 ");
    const facts = [nameOf(one.id), doing, list(mates), fresh && fresh.words, fresh && fresh.share, tintOf(one.id), world.selected === one.id];
    let row = rows.get(one.id);
    // A row is made anew only when it says something new: focus and scrolling stay where they are.
    if (!row || row.dataset.facts !== JSON.stringify(facts)) {
      row ||= element("li");
      row.dataset.facts = JSON.stringify(facts);
      const had = row.contains(document.activeElement), button = element("button");
      button.setAttribute("aria-pressed", String(world.selected === one.id));
      button.append(fresh ? ring(one.id) : diamond(), element("b", nameOf(one.id)), element("span", fresh ? fresh.words : "player", "fresh " + (fresh ? fresh.state : "small")),
        element("span", [doing, mates.length && "with " + list(mates)].filter(Boolean).join(", "), "does"));
      button.addEventListener("click", () => select(one.id));
      row.replaceChildren(button);
      if (had) button.focus();
      rows.set(one.id, row);
    }
    return row;
  });
  for (const id of rows.keys()) if (!world.kinds.has(id)) rows.delete(id);
  const box = $("people");
  if (wanted.length !== box.children.length || wanted.some((row, at) => box.children[at] !== row)) box.replaceChildren(...wanted);
}

function card() {
  const one = world.told && world.told.entities.find((other) => other.id === world.selected), box = $("card");
  box.hidden = !one;
  if (!one) return;
  const head = element("h3", nameOf(one.id)), close = element("button", "\u2715", "quiet"), facts = [];
  close.setAttribute("aria-label", "Close");
  close.addEventListener("click", () => select(one.id));
  head.prepend(one.kind === "npc" ? ring(one.id) : diamond());
  head.append(close);
  if (one.action) facts.push(["Does", one.action]);
  if (one.location) facts.push(["At", one.location]);
  if (health(one)) facts.push(["Health", health(one)]);
  facts.push(["Hears", list(company(one.id)) || "nobody"]);
  const sync = world.fresh.get(one.id);
  if (one.kind === "npc") {
    facts.push(["Memory", freshness(one.id).words]);
    if (sync && sync.agent_id) {
      facts.push(["Told", "revision " + sync.confirmed_revision + " of " + world.told.revision + (sync.age_ms ? ", " + ms(sync.age_ms) + " ago" : "")]);
      facts.push(["Agent", sync.runtime + ", " + sync.turns + " turns, " + sync.writes + " writes"]);
      if (sync.last_error) facts.push(["Problem", sync.last_error]);
    }
  }
  const told = element("dl");
  for (const [name, value] of facts) told.append(element("dt", name), element("dd", value));
  box.replaceChildren(head, told);
}
on("world", () => { show(); card(); });
on("select", () => { if (world.told) { show(); card(); } });
on("view", () => { if (world.told) show(); });
