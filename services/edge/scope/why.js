// Why an NPC spoke or kept silent: the obligation or the scores, what it knew, and where the time went.

import { api } from "./api.js";
import { $, element, ms, nameOf, percent, world } from "./world.js";

const REASONS = {
  vocative: "it was named", direct: "it was spoken to directly", gate: "the moment called for an answer", silence: "the silence grew long",
  greeting: "a player arrived", addressed_player: "it was said to another player", chain_limit: "NPCs have talked enough since a player spoke",
  no_npc: "no NPC is here", decide: "the game asked for a decision", interrupted: "a player spoke", barge_in: "a player spoke", left: "who should answer left",
  superseded: "something newer was said", stand_in: "it stood in for another", nobody_listens: "no player listens any more", goodbye: "it was a goodbye",
  pair_cooldown: "the two talked a moment ago", player_cap: "the player's turns for today are used", call_limit: "enough models were asked for one line", busy: "it was busy",
  not_waiting: "its game did not ask", turn_timeout: "no runtime answered in time", runtime_failed: "the runtime failed", owner_lost: "the server changed", cooldown: "it spoke a moment ago",
};
const PHASES = { ended: "spoke", declined: "chose to say nothing", cancelled: "was interrupted", failed: "could not answer", silent: "kept silent" };
const STAGES = [["earshot", "Who hears"], ["append", "Written down"], ["decision", "Who speaks"], ["queue", "Waits its turn"], ["read", "Reads the world"],
  ["write", "Memory updated"], ["model", "Model's first word"]];
const FEATURES = {
  addressed: "was named", addressed_too: "was named with others", addressed_previous: "was named just before", addressed_new: "named for the first time",
  mentioned: "was mentioned", mentioned_previous: "was mentioned just before", never_spoken: "has not spoken yet", never_spoken_crowd: "has not spoken, in a crowd",
  recent_share: "spoke much lately", recent_share_fast: "spoke a moment ago", unanswered: "waits for an answer", unanswered_just: "was just asked", previous: "spoke before this line",
  third_last: "spoke third to last", asks_you_previous: "was asked as 'you'", asks_previous: "a question stands", you_previous: "was said to 'you'", answers_me: "usually answers this speaker",
  pair: "talks with this speaker", share: "its share so far", share_asks: "asks often", talkativeness: "is talkative", run_previous: "a run of two", named_another: "somebody else was named",
  names_nobody: "nobody was named", everyone_previous: "said to everyone",
};

const SHOWN = 6;

export function words(event) {
  const reason = (event.reason || "").toLowerCase();
  const silent = event.phase === "silent" || event.phase === "unheard";
  if (silent && reason === "gate") return "Nobody spoke: the moment was the players' own";
  const because = REASONS[reason] || reason.replaceAll("_", " ");
  const who = silent ? "Nobody spoke" : (event.npc_name || nameOf(event.npc_id || "")) + " " + (PHASES[event.phase] || event.phase);
  return who + (because ? ": " + because : "");
}

export async function explain(turn) {
  const body = $("why-body");
  $("why-title").textContent = "Looking \u2026";
  body.replaceChildren();
  if (!$("why").open) $("why").showModal();
  try {
    const told = await api("v1/turns/" + encodeURIComponent(turn) + "/explanation?world=" + encodeURIComponent(world.id));
    const who = told.turn.npc_name || (told.turn.npc_id ? nameOf(told.turn.npc_id) : "");
    $("why-title").textContent = who ? who + " " + (PHASES[told.turn.phase] || told.turn.phase) : "Nobody spoke";
    body.append(...verdict(told), ...candidates(told), ...knew(told), ...time(told));
  } catch (error) {
    $("why-title").textContent = "Not known any more";
    body.replaceChildren(element("p", error.message, "small"));
  }
}

function verdict(told) {
  if (told.obligation) {
    return [element("p", "No scores were needed: " + (REASONS[told.obligation.toLowerCase()] || told.obligation) + ", and that decides.", "lead")];
  }
  const reason = (told.turn.reason || "").toLowerCase();
  const spoke = told.p_any_npc > told.tau;
  const lead = reason in REASONS && reason !== "gate" ? "Because " + REASONS[reason] + "."
    : spoke ? "An NPC was likely enough to be next." : "A player was more likely to be next, so the NPCs kept silent.";
  const gate = element("div", undefined, "gate"), bar = element("i"), mark = element("u"), label = element("span", "speaks above " + percent(told.tau));
  bar.style.width = percent(told.p_any_npc).replace(" ", "");
  bar.style.opacity = spoke ? 1 : 0.4;
  mark.style.left = percent(told.tau).replace(" ", "");
  mark.append(label);
  gate.append(bar, mark);
  return [element("p", lead, "lead"), element("h3", "Chance that an NPC should speak: " + percent(told.p_any_npc)), gate];
}
function candidates(told) {
  if (!told.candidates.length) return [];
  // Who spoke first, then the likeliest.
  const spoke = (one) => one.id === told.turn.npc_id;
  const sorted = [...told.candidates].sort((a, b) => spoke(b) - spoke(a) || b.probability - a.probability);
  const rows = sorted.map((one) => {
    const row = element("div", undefined, "candidate"), track = element("div", undefined, "track"), bar = element("i");
    bar.style.width = percent(one.probability).replace(" ", "");
    if (one.kind === "player") bar.style.background = "var(--player)";
    track.append(bar);
    row.append(element("b", one.name || one.id), track, element("span", percent(one.probability), "num small"));
    const because = element("div", undefined, "because");
    if (one.excluded) because.append("left out: " + (REASONS[one.excluded.toLowerCase()] || one.excluded.toLowerCase().replaceAll("_", " ")));
    else for (const feature of one.features.slice(0, 3)) because.append(element("span", (feature.contribution < 0 ? "\u2212 " : "+ ") + (FEATURES[feature.name] || feature.name.replaceAll("_", " "))));
    if (because.childNodes.length) row.append(because);
    return row;
  });
  const rest = rows.splice(SHOWN);
  if (!rest.length) return [element("h3", "Who could have been next"), ...rows];
  const more = element("details");
  more.append(element("summary", "and " + rest.length + " more, each " + percent(sorted[SHOWN].probability) + " or less", "small"), ...rest);
  return [element("h3", "Who could have been next"), ...rows, more];
}
function knew(told) {
  const turn = told.turn, facts = [];
  if (turn.revision_seen) facts.push(["World", "revision " + turn.revision_seen + (turn.age_ms ? ", " + ms(turn.age_ms) + " old when asked" : ", the newest when asked")]);
  if (turn.runtime) facts.push(["Runtime", turn.runtime]);
  for (const note of told.notes) facts.push(["Note", note]);
  if (!facts.length) return [];
  const box = element("dl");
  for (const [name, value] of facts) box.append(element("dt", name), element("dd", value));
  return [element("h3", "What it knew"), box];
}
// Stages follow one another; each bar begins where the last one ended.
function time(told) {
  const steps = STAGES.filter(([name]) => told.stages_ms[name] !== undefined).map(([name, title]) => [title, told.stages_ms[name]]);
  const sum = steps.reduce((total, [, length]) => total + length, 0), total = Math.max(told.turn.total_ms || 0, sum, 1);
  if (!steps.length) return [];
  if (total > sum && told.turn.total_ms) steps.push(["Speaks", total - sum]);
  const box = element("div", undefined, "fall");
  let at = 0;
  for (const [title, length] of steps) {
    const track = element("div", undefined, "track"), bar = element("i");
    bar.style.left = 100 * at / total + "%";
    bar.style.width = 100 * length / total + "%";
    track.append(bar);
    box.append(element("span", title), track, element("span", ms(length), "num small"));
    at += length;
  }
  return [element("h3", "Where the time went: " + ms(total)), box];
}
$("why-close").addEventListener("click", () => $("why").close());
$("why").addEventListener("click", (event) => { if (event.target === $("why")) $("why").close(); });
