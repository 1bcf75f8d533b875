// How one value is computed: windows, filters, sums, and what follows.

import { colourOf, scaleOf, short } from './colours.js';
import { drawInput } from './input.js';

/// Larger windows are shown by colours alone.
const MOST_NUMBERS = 5;
const THUMBNAIL = 112;

function element(tag, className, ...content) {
  const it = document.createElement(tag);
  if (className) it.className = className;
  it.append(...content);
  return it;
}

const span = (className, text) => element('span', className, text);

/// Values as a table of coloured cells; `null` is outside the layer. `largest` is the index of a value to mark.
function grid(values, columns, label, largest) {
  const table = element('table', columns > MOST_NUMBERS ? 'grid dense' : 'grid');
  table.setAttribute('aria-label', label);
  const scale = scaleOf(values.map(value => value ?? 0));
  for (let from = 0; from < values.length; from += columns) {
    const row = table.insertRow();
    values.slice(from, from + columns).forEach((value, column) => {
      const cell = row.insertCell();
      if (value === null) {
        cell.className = 'outside';
        cell.title = 'padding';
        return;
      }
      const { ground, ink } = colourOf(value, scale);
      [cell.style.background, cell.style.color, cell.title] = [ground, ink, short(value)];
      if (columns <= MOST_NUMBERS) cell.textContent = short(value);
      if (from + column === largest) cell.classList.add('largest');
    });
  }
  return table;
}

const stack = (label, content) => element('span', 'stack', content, span('label', label));
const result = value => span('result', short(value));

/// `a + b − c` as elements.
function signed(value, label) {
  return [span('', value < 0 ? '−' : '+'), stack(label, span('', short(Math.abs(value))))];
}

const RENDER = {
  convolution({ area, parts, other_channels: others, others: rest, bias, value }) {
    const formula = element('div', 'formula');
    parts.forEach((part, at) => {
      const columns = area.columns.length;
      const window = grid(part.window, columns, `window of channel ${part.channel}`);
      const filter = grid(part.filter, columns, `filter of channel ${part.channel}`);
      const name = area.is_input ? 'normalised input' : area.layer;
      if (at > 0) formula.append(span('', '+'));
      formula.append(element('span', 'term',
        stack(`${name}, channel ${part.channel}`, window), span('', '×'), stack('filter', filter),
        span('', '='), stack('sum of products', span('', short(part.sum)))));
    });
    if (others > 0) formula.append(...signed(rest, `${others} other channels`));
    if (bias !== null) formula.append(...signed(bias, 'bias'));
    formula.append(span('', '='), result(value));
    return formula;
  },

  linear({ layer, products, other_inputs: others, others: rest, bias, value }) {
    const table = element('table', 'products');
    const head = table.createTHead().insertRow();
    for (const text of [`value of ${layer}`, 'value', 'weight', 'product']) {
      const cell = element('th', text.startsWith('value of') ? '' : 'number', text);
      cell.scope = 'col';
      head.append(cell);
    }
    const isVector = products.every(({ row, column }) => row === 0 && column === 0);
    const body = table.createTBody();
    const add = (name, ...numbers) => {
      const row = body.insertRow();
      row.insertCell().textContent = name;
      for (const number of numbers) {
        const cell = row.insertCell();
        [cell.className, cell.textContent] = ['number', number === null ? '' : short(number)];
      }
      return row;
    };
    for (const { channel, row, column, input, weight, product } of products) {
      add(isVector ? `${channel}` : `map ${channel}, row ${row}, column ${column}`, input, weight, product);
    }
    if (others > 0) add(`${others} others`, null, null, rest);
    if (bias !== null) add('bias', null, null, bias);
    add('sum', null, null, value).className = 'result';
    return element('div', 'wide', table);
  },

  pooling({ area, window, divisor, value }) {
    const largest = divisor === null ? window.indexOf(value) : -1;
    const table = grid(window, area.columns.length, `window of ${area.layer}`, largest);
    const what = divisor === null ? 'largest' : `sum / ${divisor}`;
    return element('div', 'formula', stack(area.layer, table), span('', '→'), stack(what, result(value)));
  },

  normalisation({ mean, variance, epsilon, weight, bias, value }) {
    const text = `${short(weight)} · (x − ${short(mean)}) / √(${short(variance)} + ${epsilon.toExponential(0)}) + `;
    return element('div', 'formula', span('', `${text}${short(bias)} =`), result(value));
  },

  addition({ addends, value }) {
    const formula = element('div', 'formula');
    addends.forEach(([name, addend], at) => {
      if (at > 0) formula.append(span('', '+'));
      formula.append(stack(name, span('', short(addend))));
    });
    formula.append(span('', '='), result(value));
    return formula;
  },

  function({ text, value }) {
    return element('div', 'formula', span('', `${text} →`), result(value));
  },

  copy({ layer, channel, value }) {
    return element('div', 'formula', span('', `channel ${channel} of ${layer} →`), result(value));
  },

  other({ value }) {
    return element('div', 'formula', span('', '→'), result(value));
  },
};

const TITLES = {
  normalisation: 'batch normalisation with the statistics of training',
  addition: 'sum of the branches',
  function: 'activation',
  copy: 'concatenation',
};

/// Fills `panel` with a value's computation.
export function showUnit(panel, unit, { layer, image, field, close }) {
  const { channel, row, column, value, steps } = unit;
  const place = layer.isVector ? `value ${channel}` : `map ${channel}, row ${row}, column ${column}`;
  const button = element('button', 'close', '×');
  [button.type, button.title] = ['button', 'Close'];
  button.setAttribute('aria-label', 'Close the computation');
  button.addEventListener('click', close);
  const title = element('h4', '', `${layer.name}, ${place} = ${short(value)}`);
  const list = element('ol', '');
  const body = element('div', 'body');
  if (image && field) {
    const thumbnail = element('canvas', '');
    thumbnail.width = thumbnail.height = THUMBNAIL * devicePixelRatio;
    thumbnail.style.width = thumbnail.style.height = `${THUMBNAIL}px`;
    thumbnail.setAttribute('role', 'img');
    thumbnail.setAttribute('aria-label', `sees rows ${field.top} to ${field.top + field.size - 1} and columns `
      + `${field.left} to ${field.left + field.size - 1} of the input`);
    drawInput(thumbnail.getContext('2d'), thumbnail.width, image, null, field);
    body.append(element('div', 'thumbnail', element('p', 'title muted', 'sees'), thumbnail));
  }
  for (const step of steps) {
    const heading = element('p', 'title muted');
    if (step.name) heading.append(element('code', '', step.name));
    heading.append(TITLES[step.kind] ?? step.text);
    list.append(element('li', step.kind, heading, RENDER[step.kind](step)));
  }
  body.append(list);
  panel.replaceChildren(button, title, body);
  panel.hidden = false;
}
