// Pictures that are drawn once and kept: letters, rings and shadows are the dearest things on a map.

const kept = new Map(), KEPT = 1500;
export const FONT = "Inter, system-ui, sans-serif";
let ratio = 1, ink = {};

export function dress(colours, pixels) { ink = colours; ratio = pixels; kept.clear(); }

// A picture of w * h CSS pixels by its key; `paint` draws it, with the middle at 0, 0.
function made(key, w, h, paint) {
  let one = kept.get(key);
  if (!one) {
    if (kept.size > KEPT) kept.clear();
    const canvas = new OffscreenCanvas(Math.ceil(w * ratio), Math.ceil(h * ratio));
    const brush = canvas.getContext("2d");
    brush.scale(ratio, ratio); brush.translate(w / 2, h / 2);
    paint(brush);
    // A bitmap can change no more: it is copied without asking whether it has.
    const image = canvas.transferToImageBitmap();
    kept.set(key, (one = { image, w: image.width / ratio, h: image.height / ratio }));
  }
  return one;
}
// On whole pixels: between them every one would be mixed anew.
export function put(pen, { image, w, h }, x, z) {
  pen.drawImage(image, Math.round((x - w / 2) * ratio) / ratio, Math.round((z - h / 2) * ratio) / ratio, w, h);
}

const ruler = new OffscreenCanvas(1, 1).getContext("2d"), widths = new Map();
function width(text, font) {
  const key = font + text;
  if (widths.size > 4 * KEPT) widths.clear();
  if (!widths.has(key)) { ruler.font = font; widths.set(key, Math.ceil(ruler.measureText(text).width)); }
  return widths.get(key);
}

export function label(text, manner) {
  const font = { place: "600 10px ", bold: "650 12.5px ", plain: "500 12px " }[manner] + FONT;
  return made("label" + manner + text, width(text, font) + 8, 18, (brush) => {
    brush.font = font; brush.textAlign = "center"; brush.textBaseline = "middle"; brush.lineJoin = "round";
    brush.lineWidth = 3.5; brush.strokeStyle = ink.map; brush.strokeText(text, 0, 0);
    brush.fillStyle = manner === "place" ? ink.soft : ink.ink; brush.fillText(text, 0, 0);
  });
}
export function bubble(text, colour) {
  const font = "500 12px " + FONT, w = width(text, font) + 20;
  return made("bubble" + colour + text, w + 2, 26, (brush) => {
    brush.beginPath(); brush.roundRect(-w / 2, -12, w, 24, 9);
    brush.fillStyle = ink.panel; brush.fill(); brush.lineWidth = 1.4; brush.strokeStyle = colour; brush.stroke();
    brush.font = font; brush.textAlign = "center"; brush.textBaseline = "middle"; brush.fillStyle = ink.ink; brush.fillText(text, 0, 1);
  });
}
export function npc(tint, { share, state }) {
  const part = Math.round(share * 12);
  return made("npc" + tint + state + part, 24, 24, (brush) => {
    const disc = (radius, colour) => { brush.fillStyle = colour; brush.beginPath(); brush.arc(0, 0, radius, 0, 7); brush.fill(); };
    const ring = (colour, share) => { brush.strokeStyle = colour; brush.beginPath(); brush.arc(0, 0, 9, -Math.PI / 2, (2 * share - 0.5) * Math.PI); brush.stroke(); };
    disc(11, ink.map); disc(5.5, tint || ink.npc);
    brush.lineWidth = 2; ring(ink.line, 1);
    if (part) ring(ink[state], part / 12);
  });
}
export function player() {
  return made("player", 22, 22, (brush) => {
    brush.beginPath(); brush.moveTo(0, -8); brush.lineTo(8, 0); brush.lineTo(0, 8); brush.lineTo(-8, 0); brush.closePath();
    brush.lineWidth = 2.5; brush.strokeStyle = ink.map; brush.stroke(); brush.fillStyle = ink.player; brush.fill();
  });
}
