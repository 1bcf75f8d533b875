// The drawing area: strokes of a mouse, finger or pen, and pictures that are dropped.

const SIDE = 280;
const PEN = 20;

/// `changed` is called whenever a stroke has grown; `dropped` with a file.
export class Drawing {
  constructor(canvas, frame, hint, { changed, dropped }) {
    Object.assign(this, { canvas, frame, hint, changed, dropped });
    this.context = canvas.getContext('2d', { willReadFrequently: true });
    this.pointer = null;
    this.enabled = true;
    canvas.addEventListener('pointerdown', event => this.begin(event));
    canvas.addEventListener('pointermove', event => this.move(event));
    for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, event => this.end(event));
    frame.addEventListener('dragover', event => {
      event.preventDefault();
      frame.classList.add('dragging');
    });
    frame.addEventListener('dragleave', () => frame.classList.remove('dragging'));
    frame.addEventListener('drop', event => {
      event.preventDefault();
      frame.classList.remove('dragging');
      if (event.dataTransfer.files.length > 0) this.dropped(event.dataTransfer.files[0]);
    });
    // A picture that misses the area must not replace the page.
    for (const name of ['dragover', 'drop']) window.addEventListener(name, event => event.preventDefault());
    this.clear();
  }

  /// For networks on colour pictures: nothing can be drawn.
  disable() {
    this.enabled = false;
    this.frame.classList.add('only-files');
    this.hint.textContent = 'drop a picture here';
    this.canvas.setAttribute('aria-label', 'The chosen picture');
  }

  clear() {
    this.context.fillStyle = '#000';
    this.context.fillRect(0, 0, SIDE, SIDE);
    this.hint.hidden = false;
  }

  /// Shows an image of `width` pixels per row, 1 or 3 bytes per pixel.
  show(image) {
    this.clear();
    this.hint.hidden = true;
    this.context.imageSmoothingEnabled = image.width > 64;
    const scale = SIDE / Math.max(image.width, image.height);
    const [width, height] = [scale * image.width, scale * image.height];
    this.context.drawImage(image, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height];
  }

  begin(event) {
    if (!this.enabled || this.pointer !== null || event.button !== 0) return;
    event.preventDefault();
    this.pointer = event.pointerId;
    this.canvas.setPointerCapture(event.pointerId);
    this.hint.hidden = true;
    this.last = this.at(event);
    this.line(this.last);
    this.changed(event.timeStamp);
  }

  move(event) {
    if (event.pointerId !== this.pointer) return;
    const all = event.getCoalescedEvents?.() ?? [];
    for (const step of all.length > 0 ? all : [event]) this.line(this.at(step));
    this.changed(event.timeStamp);
  }

  end(event) {
    if (event.pointerId === this.pointer) this.pointer = null;
  }

  line(to) {
    const context = this.context;
    context.strokeStyle = '#fff';
    context.lineWidth = PEN;
    context.lineCap = context.lineJoin = 'round';
    context.beginPath();
    context.moveTo(...this.last);
    context.lineTo(...to);
    context.stroke();
    this.last = to;
  }

  /// The gray levels, row by row.
  levels() {
    const pixels = this.context.getImageData(0, 0, SIDE, SIDE).data;
    const levels = new Uint8Array(SIDE * SIDE);
    for (let at = 0; at < levels.length; at++) levels[at] = pixels[4 * at];
    return levels;
  }

  get width() {
    return SIDE;
  }
}
