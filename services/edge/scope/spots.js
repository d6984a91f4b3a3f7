// Where names and bubbles find room. Looked at when something new is told, not for every picture: between, they go along
// with whom they belong to.

import { label, bubble } from "./sprites.js";
import { nameOf, tintOf, world } from "./world.js";
import { sx, sz, view } from "./view.js";

const ROW = 24, BUBBLE_UP = 54;
const short = (text, most) => text.length > most ? text.slice(0, most - 1).trimEnd() + "\u2026" : text;

// Taken boxes by rows: who asks meets its neighbours only.
class Room {
  constructor() { this.rows = new Map(); }
  each(top, bottom, run) { for (let row = Math.floor(top / ROW); row <= Math.floor(bottom / ROW); row += 1) if (run(row)) return true; return false; }
  take(left, top, right, bottom) {
    const box = [left, top, right, bottom];
    this.each(top, bottom, (row) => { const had = this.rows.get(row); if (had) had.push(box); else this.rows.set(row, [box]); });
  }
  free(left, top, right, bottom) {
    return !this.each(top, bottom, (row) => (this.rows.get(row) || []).some((one) => left <= one[2] && right >= one[0] && top <= one[3] && bottom >= one[1]));
  }
}
const rank = (id) => (id === world.selected ? 4 : 0) + (world.typing.has(id) ? 2 : 0) + (world.cluster.has(id) ? 1 : 0);

// Gives each shown person `name` ({picture, x, z} beside it, or null), each line said `bubble`, and answers places' names.
export function arrange(people, ink) {
  const room = new Room(), inside = [];
  room.take(view.width - 56, 0, view.width, 140);
  room.take(view.width - 170, view.height - 44, view.width, view.height);
  for (const one of people) {
    const at = world.shown.get(one.id), x = sx(at.x), z = sz(at.z);
    if (x < -40 || x > view.width + 40 || z < -20 || z > view.height + 20) { at.name = null; continue; }
    inside.push([one, at, x, z]);
    room.take(x - 9, z - 9, x + 9, z + 9);
  }
  for (const [one, , x, z] of inside) {
    const said = world.spoken.get(one.id);
    if (said) said.bubble = bubbleFor(said, tintOf(one.id) || ink.strong, x, z, room);
  }
  inside.sort((a, b) => rank(b[0].id) - rank(a[0].id));
  for (const [one, at, x, z] of inside) {
    const picture = label(short(nameOf(one.id), 18), one.id === world.selected ? "bold" : "plain"), { w } = picture;
    const spots = [[0, 19], [0, -19], [w / 2 + 11, 0], [-w / 2 - 11, 0]];
    // The spot that it has first, so that names do not jump about.
    const fits = (spot) => { const [dx, dz] = spots[spot]; return x + dx - w / 2 > -2 && x + dx + w / 2 < view.width + 2 && z + dz > 8 && z + dz < view.height - 8 && room.free(x + dx - w / 2 + 3, z + dz - 6, x + dx + w / 2 - 3, z + dz + 6); };
    let spot = [at.spot ?? 0, 0, 1, 2, 3].find(fits);
    if (spot === undefined && one.id === world.selected) spot = 0;
    at.spot = spot;
    at.name = spot === undefined ? null : { picture, x: spots[spot][0], z: spots[spot][1] };
    if (at.name) room.take(x + at.name.x - w / 2 + 2, z + at.name.z - 7, x + at.name.x + w / 2 - 2, z + at.name.z + 7);
  }
  return placesIn(room);
}
function bubbleFor(said, colour, x, z, room) {
  const picture = bubble(short(said.text, 34), colour), { w } = picture;
  const dx = Math.min(Math.max(x, w / 2 + 6), view.width - w / 2 - 6) - x;
  for (let dz = -30; dz >= -30 - BUBBLE_UP; dz -= 6) {
    if (z + dz < 16) break;
    if (!room.free(x + dx - w / 2, z + dz - 13, x + dx + w / 2, z + dz + 13)) continue;
    room.take(x + dx - w / 2, z + dz - 13, x + dx + w / 2, z + dz + 13);
    return { picture, x: dx, z: dz, colour };
  }
  return null;
}
function placesIn(room) {
  const found = [];
  for (const one of world.places) {
    const x = sx(one.coordinates.x), z = sz(one.coordinates.z);
    if (x < -80 || x > view.width + 80 || z < -20 || z > view.height + 20) continue;
    const picture = label(one.name.toUpperCase(), "place"), { w } = picture;
    const spot = [[0, 15], [0, -15], [w / 2 + 7, 0]].find(([dx, dz]) => x + dx - w / 2 > 0 && x + dx + w / 2 < view.width && room.free(x + dx - w / 2, z + dz - 8, x + dx + w / 2, z + dz + 8));
    if (!spot) continue;
    room.take(x + spot[0] - w / 2, z + spot[1] - 8, x + spot[0] + w / 2, z + spot[1] + 8);
    found.push({ picture, x: x + spot[0], z: z + spot[1] });
  }
  return found;
}
