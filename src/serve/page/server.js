// Requests to the server.

const PATIENCE = 20;
const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));

/// An answer other than success: its status and the server's sentence.
export class Refusal extends Error {
  constructor(status, text) {
    super(text.trim() || `the server answers ${status}`);
    this.status = status;
  }
}

async function request(path, query = {}, options = {}) {
  const search = new URLSearchParams(query).toString();
  for (let tries = 1; ; tries++) {
    const response = await fetch(search ? `${path}?${search}` : path, options);
    if (response.ok) return response;
    // The server has too much to do.
    if (response.status !== 503 || tries === PATIENCE) throw new Refusal(response.status, await response.text());
    await pause(100 * tries);
  }
}

const json = async (...args) => (await request(...args)).json();
const floats = async (...args) => new Float32Array(await (await request(...args)).arrayBuffer());

export const site = () => json('/api/site');
export const state = () => json('/api/state');
/// The curves of the run, as HTML.
export const curves = async () => (await request('/api/curves')).text();
export const colours = async () => new Uint8Array(await (await request('/api/colours')).arrayBuffer());

const send = (query, type, body) =>
  json('/api/picture', query, { method: 'POST', headers: { 'Content-Type': type }, body });

/// The prediction for a drawing: gray levels in rows of `width`.
export const drawing = (levels, width) =>
  send({ width, height: levels.length / width }, 'application/octet-stream', levels);
/// The prediction for a PNG or JPEG file.
export const file = blob => send({}, blob.type, blob);
export const sample = (cls, index) => json('/api/sample', { class: cls, index }, { method: 'POST' });

/// A browser opens few connections, and a new picture must not wait for the maps of the last one.
const MAPS_AT_ONCE = 3;
let open = 0;
const waiting = [];

export async function maps(picture, layer, first, count) {
  while (open >= MAPS_AT_ONCE) await new Promise(resolve => waiting.push(resolve));
  open++;
  try {
    return await floats('/api/maps', { picture, layer, first, count });
  } finally {
    open--;
    waiting.shift()?.();
  }
}

export const gradcam = (picture, cls) => floats('/api/gradcam', { picture, class: cls });
export const unit = (picture, layer, channel, row, column) =>
  json('/api/unit', { picture, layer, channel, row, column });
