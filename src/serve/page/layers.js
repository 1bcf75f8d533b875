// The layers: a sheet of feature maps each, which is loaded when it is scrolled into view.

import { paint, scaleOf, short } from './colours.js';
import * as server from './server.js';
import { showUnit } from './unit.js';

/// Feature maps are enlarged to about this many pixels; a vector's values are squares.
const MAP = 56;
const LARGE_MAP = 120;
/// The height of a sheet up to which its maps are enlarged further.
const SHEET = 250;
const CELL = 14;
const LARGE_CELL = 26;
const GAP = 4;
/// Values that are loaded at first, and with each click on the button.
const VALUES = 1 << 18;
const CHANNELS = matchMedia('(max-width: 40rem)').matches ? 32 : 128;
const VECTOR = 2048;

const element = (tag, className, text) => {
  const it = document.createElement(tag);
  if (className) it.className = className;
  if (text !== undefined) it.textContent = text;
  return it;
};

/// `shared` has the picture, its version and image, the view of the input, and `failed` for errors.
export class Layer {
  constructor(layer, shared) {
    Object.assign(this, layer);
    this.shared = shared;
    this.isVector = this.height === 1 && this.width === 1;
    this.step = this.isVector ? VECTOR : Math.max(8, Math.min(CHANNELS, Math.floor(VALUES / (this.height * this.width))));
    this.wanted = Math.min(this.step, this.channels);
    this.isVisible = this.isBusy = false;
    /// The version of the shared picture that is shown.
    this.version = null;
    this.values = this.at = this.chosen = null;
    this.build();
  }

  build() {
    const { height, width, channels, field } = this;
    const head = element('div', 'head');
    const shape = this.isVector ? `${channels}` : `${channels} × ${height} × ${width}`;
    const sees = field ? `each value sees ${field[2]} × ${field[2]} pixels` : 'each value sees the whole input';
    this.value = element('span', 'value small');
    const details = element('span', 'muted small', `${this.text} · ${shape} · ${sees}`);
    head.append(element('h3', '', this.name), details, this.value);
    this.sheet = element('div', 'sheet');
    this.canvas = element('canvas');
    this.cursor = element('div', 'cursor');
    this.mark = element('div', 'chosen');
    this.cursor.hidden = this.mark.hidden = true;
    this.sheet.tabIndex = 0;
    this.sheet.setAttribute('role', 'application');
    this.sheet.setAttribute('aria-label', `Feature maps of ${this.name}, ${shape}`);
    this.sheet.append(this.canvas, this.cursor, this.mark);
    this.more = element('button', 'more', '');
    this.more.type = 'button';
    this.more.hidden = true;
    this.panel = element('div', 'unit');
    this.panel.hidden = true;
    this.section = element('section', 'layer panel');
    this.section.dataset.layer = this.name;
    this.section.append(head, this.sheet, this.more, this.panel);
    this.more.addEventListener('click', () => {
      this.wanted = Math.min(this.channels, this.wanted + this.step);
      this.version = null;
      this.update();
    });
    this.sheet.addEventListener('pointermove', event => this.point(this.find(event)));
    this.sheet.addEventListener('pointerleave', () => this.point(null));
    this.sheet.addEventListener('blur', () => this.point(null));
    this.sheet.addEventListener('click', event => this.choose(this.find(event)));
    this.sheet.addEventListener('keydown', event => this.press(event));
    // In the next frame: drawing may change the size again.
    new ResizeObserver(() => requestAnimationFrame(() => this.draw())).observe(this.section);
  }

  /// Loads and draws the maps of the shared picture, if they are in view and not those that are shown.
  async update() {
    const { picture, version } = this.shared;
    if (!this.isVisible || this.isBusy || this.version === version) return;
    if (picture === null) {
      [this.version, this.values] = [version, null];
      this.draw();
      return;
    }
    this.isBusy = true;
    try {
      const parts = [];
      for (let first = 0; first < this.wanted; first += this.step) {
        const count = Math.min(this.step, this.wanted - first);
        parts.push(await server.maps(picture, this.node, first, count));
      }
      const values = new Float32Array(parts.reduce((length, part) => length + part.length, 0));
      parts.reduce((at, part) => (values.set(part, at), at + part.length), 0);
      [this.values, this.version] = [values, version];
      this.draw();
      if (this.chosen) this.compute();
      this.isBusy = false;
      // The picture may have changed meanwhile.
      this.update();
    } catch (error) {
      this.isBusy = false;
      this.shared.failed(error);
    }
  }

  /// The number of maps that are shown.
  get count() {
    return this.values ? this.values.length / (this.height * this.width) : 0;
  }

  draw() {
    const room = this.section.clientWidth - 2 * parseFloat(getComputedStyle(this.section).paddingLeft) - 16;
    if (room <= 0) return;
    const { height, width, count, canvas } = this;
    this.gap = this.isVector ? 2 : GAP;
    this.pixel = Math.min(this.scaleFor(room), room / width);
    const [across, down] = [this.pixel * width + this.gap, this.pixel * height + this.gap];
    const most = Math.max(1, Math.min(count, Math.floor((room + this.gap) / across)));
    // Rows of equal length, or nearly so.
    this.columns = Math.max(1, Math.ceil(count / Math.ceil(count / most)));
    for (let columns = most; columns >= 0.7 * most; columns--) {
      if (count % columns === 0) {
        this.columns = columns;
        break;
      }
    }
    const rows = Math.ceil(count / this.columns);
    const ratio = devicePixelRatio;
    const sizes = [Math.max(1, this.columns * across - this.gap), Math.max(1, rows * down - this.gap)];
    [canvas.width, canvas.height] = sizes.map(size => Math.round(size * ratio));
    [canvas.style.width, canvas.style.height] = sizes.map(size => `${size}px`);
    this.more.hidden = count === 0 || count === this.channels;
    this.more.textContent = `Show more maps (${count} of ${this.channels})`;
    if (count > 0) this.paint(canvas.getContext('2d'), ratio, across, down);
    this.place(this.cursor, this.at);
    this.place(this.mark, this.chosen);
  }

  /// The size of a value on the screen, so that a sheet of `room` is neither small nor high.
  scaleFor(room) {
    const { height, width, count, gap } = this;
    if (this.isVector) return count <= 64 ? LARGE_CELL : CELL;
    const side = Math.max(height, width);
    const smallest = Math.max(1, Math.floor(MAP / side));
    for (let scale = Math.floor(LARGE_MAP / side); scale > smallest; scale--) {
      const columns = Math.floor((room + gap) / (scale * width + gap));
      if (columns > 0 && Math.ceil(count / columns) * (scale * height + gap) <= SHEET) return scale;
    }
    return smallest;
  }

  paint(context, ratio, across, down) {
    const { height, width, count, values } = this;
    const [length, tile, image] = [height * width, element('canvas'), new ImageData(width, height)];
    [tile.width, tile.height] = [width, height];
    const tileContext = tile.getContext('2d');
    const whole = scaleOf(values);
    const perMap = !this.isVector && this.shared.scale === 'map';
    context.imageSmoothingEnabled = false;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (let map = 0; map < count; map++) {
      const [from, to] = [map * length, (map + 1) * length];
      const scale = perMap ? { signed: whole.signed, largest: scaleOf(values, from, to).largest } : whole;
      paint(image, values, from, to, scale);
      tileContext.putImageData(image, 0, 0);
      const [left, top] = [map % this.columns * across, Math.floor(map / this.columns) * down];
      context.drawImage(tile, left, top, width * this.pixel, height * this.pixel);
    }
  }

  /// The value under a pointer: `{ channel, row, column }`, or `null` between the maps.
  find(event) {
    if (!this.values) return null;
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const [across, down] = [this.pixel * this.width + this.gap, this.pixel * this.height + this.gap];
    const [mapColumn, mapRow] = [Math.floor(x / across), Math.floor(y / down)];
    const column = Math.floor((x - mapColumn * across) / this.pixel);
    const row = Math.floor((y - mapRow * down) / this.pixel);
    const channel = mapRow * this.columns + mapColumn;
    const inside = mapColumn >= 0 && mapColumn < this.columns && mapRow >= 0 && channel < this.count;
    return inside && column < this.width && row < this.height ? { channel, row, column } : null;
  }

  number({ channel, row, column }) {
    return this.values[(channel * this.height + row) * this.width + column];
  }

  describe(at) {
    const place = this.isVector ? `value ${at.channel}` : `map ${at.channel}, row ${at.row}, column ${at.column}`;
    return `${place}: ${short(this.number(at))}`;
  }

  /// The part of the input that a value depends on.
  fieldOf(at) {
    if (!this.field) return null;
    const [start, step, size] = this.field;
    return { top: start + at.row * step, left: start + at.column * step, size };
  }

  /// Shows which value the pointer or the keyboard is at.
  point(at) {
    this.at = at;
    this.place(this.cursor, at);
    const shown = at ?? this.chosen;
    this.value.textContent = shown && this.values ? this.describe(shown) : '';
    this.shared.input.setField(at ? this.fieldOf(at) : null);
  }

  place(box, at) {
    box.hidden = !at || at.channel >= this.count;
    if (box.hidden) return;
    const [across, down] = [this.pixel * this.width + this.gap, this.pixel * this.height + this.gap];
    const left = 8 + at.channel % this.columns * across + at.column * this.pixel;
    const top = 8 + Math.floor(at.channel / this.columns) * down + at.row * this.pixel;
    Object.assign(box.style, {
      left: `${left - 2}px`, top: `${top - 2}px`, width: `${this.pixel + 4}px`, height: `${this.pixel + 4}px`,
    });
  }

  press(event) {
    if (!this.values) return;
    const at = { ...(this.at ?? this.chosen ?? { channel: 0, row: 0, column: 0 }) };
    const limit = (value, count) => Math.min(count - 1, Math.max(0, value));
    const rows = this.isVector ? this.columns : 1;
    switch (event.key) {
      case 'ArrowLeft': this.isVector ? at.channel-- : at.column--; break;
      case 'ArrowRight': this.isVector ? at.channel++ : at.column++; break;
      case 'ArrowUp': this.isVector ? (at.channel -= rows) : at.row--; break;
      case 'ArrowDown': this.isVector ? (at.channel += rows) : at.row++; break;
      case 'PageUp': at.channel--; break;
      case 'PageDown': at.channel++; break;
      case 'Enter': case ' ': event.preventDefault(); this.choose(at); return;
      case 'Escape': this.choose(null); return;
      default: return;
    }
    event.preventDefault();
    at.channel = limit(at.channel, this.count);
    at.row = limit(at.row, this.height);
    at.column = limit(at.column, this.width);
    this.point(at);
    this.shared.read(this.describe(at));
  }

  /// Shows how a value is computed; `null` closes that.
  choose(at) {
    this.chosen = at;
    this.place(this.mark, at);
    if (!at) {
      this.panel.hidden = true;
      return;
    }
    this.compute();
  }

  async compute() {
    const { channel, row, column } = this.chosen;
    const { picture, image } = this.shared;
    try {
      const unit = await server.unit(picture, this.node, channel, row, column);
      if (!this.chosen || picture !== this.shared.picture) return;
      showUnit(this.panel, unit, { layer: this, image, field: this.fieldOf(unit), close: () => this.close() });
    } catch (error) {
      this.shared.failed(error);
    }
  }

  close() {
    this.choose(null);
    this.sheet.focus();
  }
}

/// Adds all layers to `parent`. Returns a function that updates those in view.
export function showLayers(parent, layers, shared) {
  const all = layers.map(layer => new Layer(layer, shared));
  const observer = new IntersectionObserver(entries => {
    for (const entry of entries) {
      const layer = all.find(it => it.section === entry.target);
      layer.isVisible = entry.isIntersecting;
      layer.update();
    }
  }, { rootMargin: '200px 0px' });
  for (const layer of all) {
    parent.append(layer.section);
    observer.observe(layer.section);
  }
  return {
    update: () => all.forEach(layer => layer.update()),
    redraw: () => all.forEach(layer => layer.draw()),
  };
}
