// The map: who is where, who is within earshot of whom, how fresh each NPC is. Drawn only while something moves.

import { $, EARSHOT, colourOf, freshness, nameOf, on, select, tell, tintOf, world } from "./world.js";

const canvas = $("map"), pen = canvas.getContext("2d");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const view = { x: 0, z: 0, scale: 6, fitted: true, ready: false };
// Positions come once a second and are walked in that time; more than 30 pictures a second show nobody more.
const GLIDE_MS = 1000, FRAME_MS = 31, BUBBLE_MS = 4500, TYPING_MS = 30000;
// How long each picture took, for who wants to know (the browser's tests and bench).
export const frames = [];
let ink = {}, asked = false, last = 0, width = 0, height = 0;
const labels = new Map();

export function theme() {
  const style = getComputedStyle(document.documentElement);
  ink = Object.fromEntries(["map", "grid", "ink", "soft", "line", "strong", "npc", "player", "good", "warn", "bad", "accent", "panel"].map((name) => [name, style.getPropertyValue("--" + name).trim()]));
  labels.clear();
  draw();
}
export function draw() {
  if (!asked && !document.hidden) { asked = true; requestAnimationFrame(step); }
}
function step(now) {
  asked = false;
  if (now - last < FRAME_MS) { draw(); return; }
  last = now;
  const began = performance.now();
  const moving = paint(now);
  frames.push(performance.now() - began);
  if (frames.length > 600) frames.shift();
  if (moving) draw();
}

const sx = (x) => width / 2 + (x - view.x) * view.scale;
const sz = (z) => height / 2 + (z - view.z) * view.scale;
const placed = () => world.told ? world.told.entities.filter((one) => world.shown.has(one.id)) : [];

function paint(now) {
  const ratio = Math.min(devicePixelRatio || 1, 2);
  width = canvas.clientWidth; height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const people = placed();
  let moving = glide(people, now);
  moving = fit(people) || moving;
  grid();
  pins();
  groups();
  trails(people);
  const boxes = [[width - 150, height - 44, width, height], [width - 56, 0, width, 140]];
  for (const { id } of people) { const at = world.shown.get(id), x = sx(at.x), z = sz(at.z); boxes.push([x - 9, z - 9, x + 9, z + 9]); }
  bodies(people, now);
  moving = bubbles(people, boxes) || moving;
  names(people, boxes, ratio);
  places(boxes, ratio);
  ruler();
  return moving || [...world.typing.values()].some((since) => Date.now() - since < TYPING_MS);
}

function glide(people, now) {
  let moving = false;
  for (const { id } of people) {
    const one = world.shown.get(id), share = still.matches ? 1 : Math.min((now - one.since) / GLIDE_MS, 1);
    one.x = one.fromX + (one.toX - one.fromX) * share;
    one.z = one.fromZ + (one.toZ - one.fromZ) * share;
    moving ||= share < 1;
  }
  return moving;
}

// Keep everybody in view, slowly, so that one who walks at the edge does not make the map jump.
function fit(people) {
  if (!view.fitted || !people.length) return false;
  let left = Infinity, right = -Infinity, top = Infinity, bottom = -Infinity;
  for (const { id } of people) {
    const { toX, toZ } = world.shown.get(id);
    left = Math.min(left, toX); right = Math.max(right, toX); top = Math.min(top, toZ); bottom = Math.max(bottom, toZ);
  }
  const pad = 1.3 * EARSHOT;
  const scale = Math.min(width / (right - left + 2 * pad), (height - 40) / (bottom - top + 2 * pad), 16);
  const goal = { x: (left + right) / 2, z: (top + bottom) / 2, scale };
  const share = view.ready && !still.matches ? 0.12 : 1;
  const off = Math.abs(goal.x - view.x) * scale + Math.abs(goal.z - view.z) * scale + Math.abs(goal.scale / view.scale - 1) * 100;
  for (const key of ["x", "z", "scale"]) view[key] += (goal[key] - view[key]) * share;
  view.ready = true;
  return off > 0.6;
}

function grid() {
  const stride = [10, 50, 100, 500].find((one) => one * view.scale > 28) || 1000, gap = stride * view.scale;
  pen.strokeStyle = ink.grid; pen.lineWidth = 1; pen.beginPath();
  for (let x = ((sx(0) % gap) + gap) % gap; x < width; x += gap) { pen.moveTo(Math.round(x) + 0.5, 0); pen.lineTo(Math.round(x) + 0.5, height); }
  for (let z = ((sz(0) % gap) + gap) % gap; z < height; z += gap) { pen.moveTo(0, Math.round(z) + 0.5); pen.lineTo(width, Math.round(z) + 0.5); }
  pen.stroke();
}
function ruler() {
  const studs = [10, 50, 100, 500].find((one) => one * view.scale > 40) || 1000, length = studs * view.scale;
  pen.strokeStyle = pen.fillStyle = ink.soft; pen.lineWidth = 1.5; pen.beginPath();
  pen.moveTo(width - 16 - length, height - 22); pen.lineTo(width - 16 - length, height - 16); pen.lineTo(width - 16, height - 16); pen.lineTo(width - 16, height - 22);
  pen.stroke(); pen.font = "11px system-ui"; pen.textAlign = "center"; pen.textBaseline = "bottom";
  pen.fillText(studs + " studs", width - 16 - length / 2, height - 20);
}
function pins() {
  pen.strokeStyle = ink.strong; pen.lineWidth = 1.3;
  for (const one of world.places) pen.strokeRect(sx(one.coordinates.x) - 4, sz(one.coordinates.z) - 4, 8, 8);
}
// Names of places, where they cover nobody.
function places(boxes, ratio) {
  pen.globalAlpha = 0.7;
  for (const one of world.places) {
    const x = sx(one.coordinates.x), z = sz(one.coordinates.z);
    if (x < -80 || x > width + 80 || z < -20 || z > height + 20) continue;
    const { picture, w, h } = label(one.name.toUpperCase(), "place", ratio);
    const spot = [[x - w / 2, z + 6], [x - w / 2, z - 6 - h], [x + 7, z - h / 2]].find(([left, top]) => free([left, top, left + w, top + h], boxes));
    if (!spot) continue;
    boxes.push([spot[0], spot[1], spot[0] + w, spot[1] + h]);
    pen.drawImage(picture, spot[0], spot[1], w, h);
  }
  pen.globalAlpha = 1;
}

function hull(points) {
  const sorted = points.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  if (sorted.length < 3) return sorted;
  const turn = (o, a, b) => (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0]);
  const half = (all) => {
    const kept = [];
    for (const p of all) { while (kept.length > 1 && turn(kept.at(-2), kept.at(-1), p) <= 0) kept.pop(); kept.push(p); }
    kept.pop();
    return kept;
  };
  return [...half(sorted), ...half(sorted.reverse())];
}
function groups() {
  pen.lineJoin = pen.lineCap = "round";
  for (const one of world.told ? world.told.clusters : []) {
    const points = one.members.filter((id) => world.shown.has(id)).map((id) => { const at = world.shown.get(id); return [sx(at.x), sz(at.z)]; });
    if (points.length < 2) continue;
    const path = new Path2D();
    hull(points).forEach(([x, z], index) => index ? path.lineTo(x, z) : path.moveTo(x, z));
    path.closePath();
    const colour = colourOf(one.id), wide = Math.max(22, 5 * view.scale);
    pen.strokeStyle = pen.fillStyle = colour;
    pen.globalAlpha = 0.14; pen.lineWidth = wide; pen.stroke(path); pen.globalAlpha = 0.16; pen.fill(path);
    pen.globalAlpha = 1;
  }
}
function trails(people) {
  pen.lineWidth = 1.5; pen.lineCap = "round";
  for (const { id, kind } of people) {
    const trail = world.trails.get(id);
    if (trail.length < 2) continue;
    pen.strokeStyle = kind === "npc" ? ink.npc : ink.player;
    const half = trail.length >> 1;
    for (const [from, to, alpha] of [[0, half, 0.12], [half, trail.length - 1, 0.34]]) {
      if (from === to) continue;
      pen.globalAlpha = alpha; pen.beginPath(); pen.moveTo(sx(trail[from].x), sz(trail[from].z));
      for (let at = from + 1; at <= to; at += 1) if (at < trail.length - 1) pen.lineTo(sx(trail[at].x), sz(trail[at].z));
      if (to === trail.length - 1) { const now = world.shown.get(id); pen.lineTo(sx(now.x), sz(now.z)); }
      pen.stroke();
    }
  }
  pen.globalAlpha = 1;
}

function bodies(people, now) {
  const radius = EARSHOT * view.scale;
  if (radius > 14) {
    pen.strokeStyle = ink.strong; pen.lineWidth = 1; pen.setLineDash([3, 5]); pen.globalAlpha = 0.6; pen.beginPath();
    for (const { id, kind } of people) {
      if (kind !== "npc") continue;
      const at = world.shown.get(id), x = sx(at.x), z = sz(at.z);
      pen.moveTo(x + radius, z); pen.arc(x, z, radius, 0, 7);
    }
    pen.stroke(); pen.setLineDash([]); pen.globalAlpha = 1;
  }
  for (const { id, kind } of people) {
    const at = world.shown.get(id), x = sx(at.x), z = sz(at.z);
    if (x < -30 || x > width + 30 || z < -30 || z > height + 30) continue;
    if (kind === "npc") {
      const told = freshness(id);
      pen.fillStyle = ink.map; pen.beginPath(); pen.arc(x, z, 10, 0, 7); pen.fill();
      pen.fillStyle = tintOf(id) || ink.npc; pen.beginPath(); pen.arc(x, z, 5.5, 0, 7); pen.fill();
      pen.lineWidth = 2; pen.strokeStyle = ink.line; pen.beginPath(); pen.arc(x, z, 9, 0, 7); pen.stroke();
      if (told.share) {
        pen.strokeStyle = ink[told.state]; pen.beginPath(); pen.arc(x, z, 9, -Math.PI / 2, -Math.PI / 2 + told.share * 2 * Math.PI); pen.stroke();
      }
      if (Date.now() - (world.typing.get(id) || 0) < TYPING_MS) {
        const wave = still.matches ? 0.5 : (now / 1200) % 1;
        pen.strokeStyle = ink.npc; pen.globalAlpha = 1 - wave; pen.beginPath(); pen.arc(x, z, 10 + wave * 14, 0, 7); pen.stroke(); pen.globalAlpha = 1;
      }
    } else {
      pen.fillStyle = ink.player; pen.strokeStyle = ink.map; pen.lineWidth = 2.5; pen.beginPath();
      pen.moveTo(x, z - 8); pen.lineTo(x + 8, z); pen.lineTo(x, z + 8); pen.lineTo(x - 8, z); pen.closePath(); pen.stroke(); pen.fill();
    }
    if (id === world.selected) { pen.strokeStyle = ink.accent; pen.lineWidth = 2.5; pen.beginPath(); pen.arc(x, z, 14, 0, 7); pen.stroke(); }
  }
}

// Text is drawn once and kept as a picture: outlined letters are the dearest thing on the map.
function label(text, manner, ratio) {
  const key = text + "\u0000" + manner;
  let made = labels.get(key);
  if (!made) {
    if (labels.size > 600) labels.clear();
    const font = { place: "600 10px ", bold: "650 12.5px ", plain: "500 12px " }[manner] + "Inter, system-ui, sans-serif";
    pen.font = font;
    const w = Math.ceil(pen.measureText(text).width) + 6, h = 18;
    const picture = document.createElement("canvas");
    picture.width = w * ratio; picture.height = h * ratio;
    const brush = picture.getContext("2d");
    brush.scale(ratio, ratio); brush.font = font; brush.textAlign = "center"; brush.textBaseline = "middle"; brush.lineJoin = "round";
    brush.lineWidth = 3.5; brush.strokeStyle = ink.map; brush.strokeText(text, w / 2, h / 2);
    brush.fillStyle = manner === "place" ? ink.soft : ink.ink; brush.fillText(text, w / 2, h / 2);
    labels.set(key, (made = { picture, w, h }));
  }
  return made;
}
const short = (text, most) => text.length > most ? text.slice(0, most - 1).trimEnd() + "\u2026" : text;
const free = (box, boxes) => boxes.every((one) => box[0] > one[2] || box[2] < one[0] || box[1] > one[3] || box[3] < one[1]);

function names(people, boxes, ratio) {
  const order = [...people].sort((a, b) => rank(b.id) - rank(a.id));
  for (const { id } of order) {
    const at = world.shown.get(id), x = sx(at.x), z = sz(at.z);
    if (x < -40 || x > width + 40 || z < -20 || z > height + 20) continue;
    const { picture, w, h } = label(short(nameOf(id), 18), id === world.selected ? "bold" : "plain", ratio);
    const spots = [[x - w / 2, z + 10], [x - w / 2, z - 10 - h], [x + 12, z - h / 2], [x - 12 - w, z - h / 2]];
    // The spot of the last picture first, so that names do not jump about.
    const found = [at.spot ?? 0, 0, 1, 2, 3].find((one) => free([spots[one][0] + 3, spots[one][1] + 3, spots[one][0] + w - 3, spots[one][1] + h - 3], boxes));
    if (found === undefined && id !== world.selected) { at.spot = undefined; continue; }
    at.spot = found ?? 0;
    const [left, top] = spots[at.spot];
    boxes.push([left + 2, top + 2, left + w - 2, top + h - 2]);
    pen.drawImage(picture, left, top, w, h);
  }
}
const rank = (id) => (id === world.selected ? 4 : 0) + (world.typing.has(id) ? 2 : 0) + (world.cluster.has(id) ? 1 : 0);

function bubbles(people, boxes) {
  const drawn = [];
  for (const { id } of people) {
    const said = world.spoken.get(id);
    if (!said) continue;
    const age = Date.now() - said.at;
    if (age > BUBBLE_MS) { world.spoken.delete(id); continue; }
    const at = world.shown.get(id), text = short(said.text, 34);
    pen.font = "500 12px Inter, system-ui, sans-serif";
    const w = pen.measureText(text).width + 18, h = 24;
    let x = Math.min(Math.max(sx(at.x) - w / 2, 6), width - w - 6), z = sz(at.z) - 18 - h;
    while (!free([x, z, x + w, z + h], boxes) && z > 4) z -= 6;
    if (z <= 4) continue;
    boxes.push([x, z, x + w, z + h]);
    drawn.push({ x, z, w, h, text, at, colour: tintOf(id) || ink.strong, alpha: Math.min(1, (BUBBLE_MS - age) / 600) });
  }
  pen.textAlign = "left"; pen.textBaseline = "middle"; pen.lineWidth = 1.2;
  for (const { z, h, at, colour, alpha } of drawn) {
    pen.globalAlpha = alpha; pen.strokeStyle = colour;
    pen.beginPath(); pen.moveTo(sx(at.x), z + h); pen.lineTo(sx(at.x), sz(at.z) - 12); pen.stroke();
  }
  for (const { x, z, w, h, text, colour, alpha } of drawn) {
    pen.globalAlpha = alpha; pen.strokeStyle = colour; pen.fillStyle = ink.panel;
    pen.beginPath(); pen.roundRect(x, z, w, h, 9); pen.fill(); pen.stroke();
    pen.fillStyle = ink.ink; pen.fillText(text, x + 9, z + h / 2 + 1);
  }
  pen.globalAlpha = 1;
  return drawn.length > 0;
}

// ---- moving about --------------------------------------------------------------------------------------------------

function zoom(factor, at = { x: width / 2, z: height / 2 }) {
  view.fitted = false;
  const x = view.x + (at.x - width / 2) / view.scale, z = view.z + (at.z - height / 2) / view.scale;
  view.scale = Math.min(60, Math.max(0.2, view.scale * factor));
  view.x = x - (at.x - width / 2) / view.scale; view.z = z - (at.z - height / 2) / view.scale;
  draw();
}
function shift(x, z) { view.fitted = false; view.x -= x / view.scale; view.z -= z / view.scale; draw(); }
export function all() { view.fitted = true; view.ready = false; draw(); }
function next(back) {
  const ids = placed().map((one) => one.id).sort((a, b) => nameOf(a).localeCompare(nameOf(b)));
  if (ids.length) select(ids[(ids.indexOf(world.selected) + (back ? -1 : 1) + ids.length) % ids.length]);
}
$("in").addEventListener("click", () => zoom(1.4));
$("out").addEventListener("click", () => zoom(1 / 1.4));
$("fit").addEventListener("click", all);
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = canvas.getBoundingClientRect();
  zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15, { x: event.clientX - box.left, z: event.clientY - box.top });
}, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const keys = { ArrowLeft: () => shift(40, 0), ArrowRight: () => shift(-40, 0), ArrowUp: () => shift(0, 40), ArrowDown: () => shift(0, -40),
    "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: all, n: () => next(false), N: () => next(true) };
  if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
  keys[event.key]();
  event.preventDefault();
});
const fingers = new Map();
let drag = null;
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, event);
  drag = { x: event.clientX, z: event.clientY, moved: 0 };
});
canvas.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  if (fingers.size === 2) {
    const other = [...fingers.values()].find((one) => one.pointerId !== event.pointerId);
    const span = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    zoom(span(event) / Math.max(span(before), 1));
    drag.moved = 99;
  } else {
    drag.moved += Math.abs(event.clientX - drag.x) + Math.abs(event.clientY - drag.z);
    if (drag.moved > 4) shift(event.clientX - drag.x, event.clientY - drag.z);
    drag.x = event.clientX; drag.z = event.clientY;
  }
  fingers.set(event.pointerId, event);
});
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => {
  fingers.delete(event.pointerId);
  if (end === "pointerup" && drag && drag.moved <= 4) {
    const box = canvas.getBoundingClientRect();
    const near = placed().map(({ id }) => { const at = world.shown.get(id); return [Math.hypot(sx(at.x) - event.clientX + box.left, sz(at.z) - event.clientY + box.top), id]; }).sort((a, b) => a[0] - b[0])[0];
    if (near && near[0] < 26) { if (near[1] !== world.selected) select(near[1]); } else if (world.selected) select(world.selected);
  }
  drag = null;
});
on("select", () => {
  const at = world.shown.get(world.selected);
  if (at && (sx(at.x) < 30 || sx(at.x) > width - 30 || sz(at.z) < 30 || sz(at.z) > height - 30)) { view.fitted = false; view.x = at.toX; view.z = at.toZ; }
  draw();
});
on("world", draw);
on("spoke", draw);
new ResizeObserver(draw).observe(canvas);
document.addEventListener("visibilitychange", draw);

