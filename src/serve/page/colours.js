// Values as colours: the same colours as in the program's pictures.

let table = new Uint8Array(2 * 256 * 3);

/// Sets the colours: 256 for 0 to 1, then 256 for -1 to 1.
export function setColours(bytes) {
  table = bytes;
}

/// The scale of values: from 0 to the largest if none is negative, else symmetric about 0.
export function scaleOf(values, from = 0, to = values.length) {
  let low = 0, high = 0;
  for (let at = from; at < to; at++) {
    if (values[at] < low) low = values[at];
    if (values[at] > high) high = values[at];
  }
  return { signed: low < 0, largest: Math.max(-low, high) };
}

/// The position of a value's colour in the table.
function position(value, { signed, largest }) {
  const part = largest > 0 ? value / largest : 0;
  const index = Math.round(255 * Math.min(1, Math.max(0, signed ? 0.5 + 0.5 * part : part)));
  return 3 * (index + (signed ? 256 : 0));
}

/// Writes the colours of `values[from..to]` to the pixels of `image`.
export function paint(image, values, from, to, scale) {
  const pixels = image.data;
  for (let at = from, out = 0; at < to; at++, out += 4) {
    const entry = position(values[at], scale);
    pixels[out] = table[entry];
    pixels[out + 1] = table[entry + 1];
    pixels[out + 2] = table[entry + 2];
    pixels[out + 3] = 255;
  }
}

/// The colour of a value, and black or white for text on it.
export function colourOf(value, scale) {
  const entry = position(value, scale);
  const [red, green, blue] = table.subarray(entry, entry + 3);
  const light = 0.299 * red + 0.587 * green + 0.114 * blue;
  return { ground: `rgb(${red}, ${green}, ${blue})`, ink: light > 140 ? '#000' : '#fff' };
}

/// A number with about four significant digits, short enough for tables.
export function short(value) {
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(2).replace('-', '−');
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3;
  return value.toFixed(digits).replace('-', '−');
}
