// What the network gets, with a Grad-CAM map and the receptive field of a value over it.

import { paint } from './colours.js';

const FIELD = '#ff3d7f';

/// A canvas with the pixels `[height][width][channels]`.
export function imageOf(pixels, [height, width, channels]) {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    for (let colour = 0; colour < 3; colour++) {
      image.data[4 * at + colour] = pixels[channels === 3 ? 3 * at + colour : channels * at];
    }
    image.data[4 * at + 3] = 255;
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}

export class Input {
  constructor(canvas) {
    this.canvas = canvas;
    this.image = this.map = this.field = null;
    new ResizeObserver(() => requestAnimationFrame(() => this.draw())).observe(canvas);
  }

  setImage(image) {
    this.image = image;
    this.draw();
  }

  /// Values from 0 to 1 in the size of the image; `null` hides the map.
  setMap(values) {
    this.map = null;
    if (values && this.image) {
      const { width, height } = this.image;
      const [canvas, image] = [document.createElement('canvas'), new ImageData(width, height)];
      [canvas.width, canvas.height] = [width, height];
      paint(image, values, 0, values.length, { signed: false, largest: 1 });
      // What is 0 stays visible.
      for (let at = 0; at < values.length; at++) image.data[4 * at + 3] = 60 + 140 * values[at];
      canvas.getContext('2d').putImageData(image, 0, 0);
      this.map = canvas;
    }
    this.draw();
  }

  /// The square `{ top, left, size }` in pixels of the image; `null` hides it.
  setField(field) {
    this.field = field;
    this.draw();
  }

  draw() {
    const { canvas, image } = this;
    const box = canvas.getBoundingClientRect();
    const side = Math.max(1, Math.round(box.width * devicePixelRatio));
    if (canvas.width !== side) canvas.width = canvas.height = side;
    const context = canvas.getContext('2d');
    context.fillStyle = '#000';
    context.fillRect(0, 0, side, side);
    if (image) drawInput(context, side, image, this.map, this.field);
  }
}

/// Draws an input, a map over it and a receptive field into a square.
export function drawInput(context, side, image, map, field) {
  const scale = side / Math.max(image.width, image.height);
  const [width, height] = [scale * image.width, scale * image.height];
  const [left, top] = [(side - width) / 2, (side - height) / 2];
  context.imageSmoothingEnabled = image.width > 64;
  context.drawImage(image, left, top, width, height);
  if (map) context.drawImage(map, left, top, width, height);
  if (!field) return;
  // A field may reach into the padding.
  const clip = (from, to, most) => [Math.max(0, from), Math.min(most, to)];
  const [x0, x1] = clip(field.left, field.left + field.size, image.width);
  const [y0, y1] = clip(field.top, field.top + field.size, image.height);
  const line = Math.max(2, side / 140);
  context.strokeStyle = FIELD;
  context.lineWidth = line;
  context.strokeRect(
    left + scale * x0 + line / 2, top + scale * y0 + line / 2, scale * (x1 - x0) - line, scale * (y1 - y0) - line);
}

