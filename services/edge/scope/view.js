// Which part of the world the map shows. It follows people only when they leave it, so that the ground can stay as drawn.

import { EARSHOT, world } from "./world.js";

const EDGE = 18, LOOSE = 1.5, FOLLOW_MS = 500;
export const view = { x: 0, z: 0, scale: 6, width: 0, height: 0, fitted: true, ready: false, changed: 0 };
let journey = null;

export const sx = (x) => view.width / 2 + (x - view.x) * view.scale;
export const sz = (z) => view.height / 2 + (z - view.z) * view.scale;

function go(x, z, scale) { view.x = x; view.z = z; view.scale = scale; view.changed += 1; }

export function zoom(factor, at = { x: view.width / 2, z: view.height / 2 }) {
  const scale = Math.min(60, Math.max(0.2, view.scale * factor));
  view.fitted = false; journey = null;
  go(view.x + (at.x - view.width / 2) * (1 / view.scale - 1 / scale), view.z + (at.z - view.height / 2) * (1 / view.scale - 1 / scale), scale);
}
export function shift(x, z) { view.fitted = false; journey = null; go(view.x - x / view.scale, view.z - z / view.scale, view.scale); }
export function centre(x, z) { view.fitted = false; journey = null; go(x, z, view.scale); }
export function all() { view.fitted = true; view.ready = false; journey = null; }

// What shows everybody, with room for whom they hear.
function goal(people) {
  let left = Infinity, right = -Infinity, top = Infinity, bottom = -Infinity;
  for (const { id } of people) {
    const { toX, toZ } = world.shown.get(id);
    left = Math.min(left, toX); right = Math.max(right, toX); top = Math.min(top, toZ); bottom = Math.max(bottom, toZ);
  }
  const pad = 1.3 * EARSHOT, high = view.height - 40;
  const scale = Math.min(view.width / (right - left + 2 * pad), high / (bottom - top + 2 * pad), 16);
  return { x: (left + right) / 2, z: (top + bottom) / 2 + 16 / scale, scale, left, right, top, bottom };
}

// Keep everybody in view. Answers whether the view is on its way.
export function fit(people, now, still) {
  if (!view.fitted || !people.length || !view.width) return false;
  if (!journey) {
    const to = goal(people);
    const seen = sx(to.left) > EDGE && sx(to.right) < view.width - EDGE && sz(to.top) > EDGE && sz(to.bottom) < view.height - 2 * EDGE;
    if (view.ready && seen && to.scale < LOOSE * view.scale) return false;
    if (!view.ready || still) { view.ready = true; go(to.x, to.z, to.scale); return false; }
    journey = { x: view.x, z: view.z, scale: view.scale, to, since: now };
  }
  const share = Math.min((now - journey.since) / FOLLOW_MS, 1), eased = 1 - (1 - share) ** 3, { to } = journey;
  go(journey.x + (to.x - journey.x) * eased, journey.z + (to.z - journey.z) * eased, journey.scale + (to.scale - journey.scale) * eased);
  if (share === 1) journey = null;
  return share < 1;
}
