// The map under mouse, fingers and keys.

import { $, nameOf, on, select, world } from "./world.js";
import { all, centre, shift, sx, sz, view, zoom } from "./view.js";

const NEAR_PX = 26, CLICK_PX = 4;

export function hold(canvas, { hurry, placed }) {
  const then = (run) => (...given) => { run(...given); hurry(); };
  const closer = then(zoom), along = then(shift), everything = then(all);
  function next(back) {
    const ids = placed().map((one) => one.id).sort((a, b) => nameOf(a).localeCompare(nameOf(b)));
    if (ids.length) select(ids[(ids.indexOf(world.selected) + (back ? -1 : ids.length + 1)) % ids.length] || ids.at(-1));
  }
  $("in").addEventListener("click", () => closer(1.4));
  $("out").addEventListener("click", () => closer(1 / 1.4));
  $("fit").addEventListener("click", everything);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    closer(event.deltaY < 0 ? 1.15 : 1 / 1.15, { x: event.clientX - box.left, z: event.clientY - box.top });
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const keys = { ArrowLeft: () => along(40, 0), ArrowRight: () => along(-40, 0), ArrowUp: () => along(0, 40), ArrowDown: () => along(0, -40),
      "+": () => closer(1.4), "=": () => closer(1.4), "-": () => closer(1 / 1.4), 0: everything, n: () => next(false), N: () => next(true) };
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
      closer(span(event) / Math.max(span(before), 1));
      drag.moved = 99;
    } else {
      drag.moved += Math.abs(event.clientX - drag.x) + Math.abs(event.clientY - drag.z);
      if (drag.moved > CLICK_PX) along(event.clientX - drag.x, event.clientY - drag.z);
      drag.x = event.clientX; drag.z = event.clientY;
    }
    fingers.set(event.pointerId, event);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => {
    fingers.delete(event.pointerId);
    if (end === "pointerup" && drag && drag.moved <= CLICK_PX) {
      const box = canvas.getBoundingClientRect(), away = (id) => { const at = world.shown.get(id); return Math.hypot(sx(at.x) - event.clientX + box.left, sz(at.z) - event.clientY + box.top); };
      const [near] = placed().map(({ id }) => [away(id), id]).sort((a, b) => a[0] - b[0]);
      if (near && near[0] < NEAR_PX) { if (near[1] !== world.selected) select(near[1]); } else if (world.selected) select(world.selected);
    }
    drag = null;
  });
  on("select", () => {
    const at = world.shown.get(world.selected);
    if (at && (sx(at.x) < 30 || sx(at.x) > view.width - 30 || sz(at.z) < 30 || sz(at.z) > view.height - 30)) centre(at.toX, at.toZ);
    hurry();
  });
}
