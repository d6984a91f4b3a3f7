// The map: who is where, who is within earshot of whom, how fresh each NPC is. Drawn only while something moves, as often
// as can be seen, and for a small share of one core.

import { $, EARSHOT, colourOf, freshness, on, tintOf, world } from "./world.js";
import { arrange } from "./spots.js";
import { dress, npc, player, put } from "./sprites.js";
import { fit, sx, sz, view } from "./view.js";
import { hold } from "./hand.js";

const canvas = $("map"), pen = canvas.getContext("2d", { alpha: false });
const still = matchMedia("(prefers-reduced-motion: reduce)");
// What does not move is drawn once, elsewhere, and copied below every picture.
const ground = document.createElement("canvas"), soil = ground.getContext("2d", { alpha: false });
// Positions come once a second and are walked in that time. A picture follows when somebody has gone STEP_PX, not sooner
// than FASTEST_MS and not so soon that pictures take more than SHARE of the time; while a hand moves the map, at once.
const GLIDE_MS = 1000, FASTEST_MS = 33, SLOWEST_MS = 200, SHARE = 0.08, STEP_PX = 1, HAND_MS = 400;
const BUBBLE_MS = 4500, TYPING_MS = 30000, RINGS_MAX = 24, KEPT = 600;
// How long each picture took, its script alone and until it was handed over: for the browser's tests and bench.
export const frames = [], costs = [];
let ink = {}, ratio = 1, shade = 0.2, timer = 0, asked = false, last = 0, lively = 0, cost = 0, began = 0, grown = true, told = true, seen = -1, scale = 0, places = [];

export function theme() {
  const style = getComputedStyle(document.documentElement);
  ink = Object.fromEntries(["map", "grid", "ink", "soft", "line", "strong", "npc", "player", "good", "warn", "bad", "accent", "panel"].map((name) => [name, style.getPropertyValue("--" + name).trim()]));
  ratio = Math.min(devicePixelRatio || 1, 2);
  // Colours need more of themselves to show on a dark ground.
  shade = document.documentElement.dataset.theme === "dark" ? 0.32 : 0.2;
  dress(ink, ratio);
  grown = told = true;
  draw();
}

// ---- when ----------------------------------------------------------------------------------------------------------

export function draw() {
  if (asked || document.hidden || !view.width) return;
  asked = true;
  const wait = performance.now() < lively ? 0 : last + pace() - performance.now();
  if (wait > 8) timer = setTimeout(() => { timer = 0; requestAnimationFrame(step); }, wait);
  else requestAnimationFrame(step);
}
// Now: a hand moves, or something was said.
function hurry(forMs = HAND_MS) {
  lively = performance.now() + forMs;
  if (timer) { clearTimeout(timer); timer = 0; requestAnimationFrame(step); } else draw();
}
function pace() {
  let fastest = 0;
  for (const at of world.shown.values()) fastest = Math.max(fastest, Math.abs(at.toX - at.fromX) + Math.abs(at.toZ - at.fromZ));
  const pixels = fastest * view.scale / GLIDE_MS;
  return Math.min(Math.max(cost / SHARE, pixels ? STEP_PX / pixels : 0, FASTEST_MS), SLOWEST_MS);
}
const handed = new MessageChannel();
handed.port1.onmessage = () => {
  const took = performance.now() - began;
  cost += (took - cost) * 0.2;
  costs.push(took);
  if (costs.length > KEPT) costs.shift();
};
function step(now) {
  asked = false;
  last = began = performance.now();
  if (ratio !== Math.min(devicePixelRatio || 1, 2)) theme();  // moved to another screen
  const moving = paint(now);
  frames.push(performance.now() - began);
  if (frames.length > KEPT) frames.shift();
  // A message arrives behind the drawing of this picture: what lies between is its whole price.
  handed.port2.postMessage(0);
  if (moving) draw();
}

// ---- what ----------------------------------------------------------------------------------------------------------

const placed = () => world.told ? world.told.entities.filter((one) => world.shown.has(one.id)) : [];

function paint(now) {
  const people = placed(), walking = glide(people, now), going = fit(people, now, still.matches);
  if (grown) for (const one of [canvas, ground]) { one.width = Math.round(view.width * ratio); one.height = Math.round(view.height * ratio); }
  if (grown || told || seen !== view.changed) plough(people);
  if (grown || told || scale !== view.scale || going) places = arrange(people, ink);
  else if (seen !== view.changed) places = [];
  const settle = seen !== view.changed && !going;
  grown = told = false; seen = view.changed; scale = view.scale;
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.drawImage(ground, 0, 0);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  groups();
  const talking = bodies(people, now);
  names(people);
  const fading = bubbles();
  if (settle) told = true;
  return walking || going || talking || fading || settle;
}

function glide(people, now) {
  let moving = false;
  for (const { id } of people) {
    const one = world.shown.get(id), share = still.matches ? 1 : Math.min((now - one.since) / GLIDE_MS, 1);
    one.x = one.fromX + (one.toX - one.fromX) * share;
    one.z = one.fromZ + (one.toZ - one.fromZ) * share;
    if (share < 1) moving = true; else { one.fromX = one.toX; one.fromZ = one.toZ; }
  }
  return moving;
}

function plough(people) {
  soil.setTransform(ratio, 0, 0, ratio, 0, 0);
  soil.fillStyle = ink.map; soil.fillRect(0, 0, view.width, view.height);
  grid();
  soil.strokeStyle = ink.strong; soil.lineWidth = 1.3;
  for (const one of world.places) soil.strokeRect(sx(one.coordinates.x) - 4, sz(one.coordinates.z) - 4, 8, 8);
  trails(people);
  ruler();
}
function grid() {
  const { width, height } = view, stride = [10, 50, 100, 500].find((one) => one * view.scale > 28) || 1000, gap = stride * view.scale;
  soil.fillStyle = ink.grid;
  for (let x = ((sx(0) % gap) + gap) % gap; x < width; x += gap) soil.fillRect(Math.round(x), 0, 1, height);
  for (let z = ((sz(0) % gap) + gap) % gap; z < height; z += gap) soil.fillRect(0, Math.round(z), width, 1);
}
function ruler() {
  const { width, height } = view, studs = [10, 50, 100, 500].find((one) => one * view.scale > 40) || 1000, length = studs * view.scale;
  soil.strokeStyle = soil.fillStyle = ink.soft; soil.lineWidth = 1.5; soil.beginPath();
  soil.moveTo(width - 16 - length, height - 22); soil.lineTo(width - 16 - length, height - 16); soil.lineTo(width - 16, height - 16); soil.lineTo(width - 16, height - 22);
  soil.stroke(); soil.font = "11px system-ui"; soil.textAlign = "center"; soil.textBaseline = "bottom";
  soil.fillText(studs + " studs", width - 16 - length / 2, height - 20);
}
// Where each came from, up to where its walk of this second began; the older half is paler. One stroke for each tone.
function trails(people) {
  soil.lineWidth = 1.5; soil.lineCap = "round";
  for (const kind of ["npc", "player"]) for (const recent of [false, true]) {
    soil.strokeStyle = ink[kind]; soil.globalAlpha = recent ? 0.34 : 0.12; soil.beginPath();
    for (const one of people) {
      if (one.kind !== kind) continue;
      const trail = world.trails.get(one.id), half = trail.length >> 1, end = recent ? trail.length - 2 : half;
      for (let at = recent ? half : 0; at < end; at += 1) { soil.moveTo(sx(trail[at].x), sz(trail[at].z)); soil.lineTo(sx(trail[at + 1].x), sz(trail[at + 1].z)); }
    }
    soil.stroke();
  }
  soil.globalAlpha = 1;
}

const AROUND = [...Array(8).keys()].map((one) => [Math.cos(one * Math.PI / 4), Math.sin(one * Math.PI / 4)]);
function hull(points) {
  points.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const half = (all) => {
    const kept = [];
    for (const p of all) {
      while (kept.length > 1) {
        const o = kept[kept.length - 2], a = kept[kept.length - 1];
        if ((a[0] - o[0]) * (p[1] - o[1]) - (a[1] - o[1]) * (p[0] - o[0]) > 0) break;
        kept.pop();
      }
      kept.push(p);
    }
    kept.pop();
    return kept;
  };
  return [...half(points), ...half(points.reverse())];
}
function groups() {
  const wide = Math.max(13, 2.5 * view.scale);
  for (const one of world.told ? world.told.clusters : []) {
    const points = [];
    for (const id of one.members) {
      const at = world.shown.get(id);
      if (at) for (const [x, z] of AROUND) points.push([sx(at.x) + x * wide, sz(at.z) + z * wide]);
    }
    if (points.length < 16) continue;
    pen.beginPath();
    for (const [x, z] of hull(points)) pen.lineTo(x, z);
    pen.closePath();
    pen.fillStyle = colourOf(one.id); pen.globalAlpha = shade; pen.fill();
  }
  pen.globalAlpha = 1;
}

function circle(x, z, radius) { pen.beginPath(); pen.arc(x, z, radius, 0, 7); pen.stroke(); }
// Answers whether somebody is about to speak.
function bodies(people, now) {
  const radius = EARSHOT * view.scale, dots = player();
  let npcs = 0, talking = false;
  for (const one of people) if (one.kind === "npc") npcs += 1;
  pen.lineWidth = 1; pen.strokeStyle = ink.strong;
  // How far each NPC hears: of few all, of many the chosen one.
  if (radius > 14) for (const { id, kind } of people) if (kind === "npc" && (npcs <= RINGS_MAX || id === world.selected)) { const at = world.shown.get(id); circle(sx(at.x), sz(at.z), radius); }
  for (const { id, kind } of people) {
    const at = world.shown.get(id), x = sx(at.x), z = sz(at.z);
    if (x < -30 || x > view.width + 30 || z < -30 || z > view.height + 30) continue;
    put(pen, kind === "npc" ? npc(tintOf(id), freshness(id)) : dots, x, z);
    if (Date.now() - (world.typing.get(id) || 0) < TYPING_MS) {
      const wave = still.matches ? 0.5 : (now / 1200) % 1;
      talking ||= !still.matches;
      pen.strokeStyle = ink.npc; pen.lineWidth = 2; pen.globalAlpha = 1 - wave; circle(x, z, 10 + wave * 14); pen.globalAlpha = 1;
    }
    if (id === world.selected) { pen.strokeStyle = ink.accent; pen.lineWidth = 2.5; circle(x, z, 14); }
  }
  return talking;
}
function names(people) {
  for (const { id } of people) {
    const at = world.shown.get(id);
    if (at.name) put(pen, at.name.picture, sx(at.x) + at.name.x, sz(at.z) + at.name.z);
  }
  for (const one of places) put(pen, one.picture, one.x, one.z);
}
// Answers whether one is there that will go.
function bubbles() {
  let drawn = false;
  for (const [id, said] of world.spoken) {
    const age = Date.now() - said.at, at = world.shown.get(id);
    if (age > BUBBLE_MS) { world.spoken.delete(id); told = true; continue; }
    drawn = true;
    if (!at || !said.bubble) continue;
    const { picture, colour } = said.bubble, x = sx(at.x), z = sz(at.z), top = z + said.bubble.z;
    pen.globalAlpha = Math.min(1, (BUBBLE_MS - age) / 600);
    pen.strokeStyle = colour; pen.lineWidth = 1.4; pen.beginPath(); pen.moveTo(x, top + 12); pen.lineTo(x, z - 12); pen.stroke();
    put(pen, picture, x + said.bubble.x, top);
  }
  pen.globalAlpha = 1;
  return drawn;
}

const news = () => { told = true; draw(); };
hold(canvas, { hurry, placed });
on("world", news);
on("places", news);
on("select", news);
on("spoke", () => { told = true; hurry(0); });
new ResizeObserver(([{ contentRect }]) => {
  view.width = Math.round(contentRect.width); view.height = Math.round(contentRect.height); view.changed += 1;
  if (view.fitted) view.ready = false;
  grown = true;
  hurry(0);
}).observe(canvas);
document.addEventListener("visibilitychange", draw);
