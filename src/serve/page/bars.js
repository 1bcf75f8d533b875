// The probabilities of the classes.

/// With more classes, the most likely ones are shown.
const MOST = 12;
const SHOWN = 10;

export const percent = part => `${(100 * part).toFixed(part > 0.99995 || part < 0.0005 ? 1 : 2)}%`;

export class Bars {
  constructor(list, answer, probability, spoken, classes) {
    Object.assign(this, { answer, probability, spoken, classes });
    this.all = classes.length <= MOST;
    this.rows = Array.from({ length: this.all ? classes.length : SHOWN }, () => {
      const row = document.createElement('li');
      const [name, track, fill, value] = ['span', 'div', 'div', 'span'].map(tag => document.createElement(tag));
      [name.className, track.className, fill.className, value.className] = ['name', 'track', 'fill', 'value'];
      track.append(fill);
      row.append(name, track, value);
      list.append(row);
      return { row, name, fill, value };
    });
  }

  /// Shows probabilities, or nothing. `truth` is the picture's class, if that is known; `verdict` then says whether the
  /// prediction is right.
  show(probabilities, truth) {
    const order = (probabilities ?? []).map((_, cls) => cls).sort((a, b) => probabilities[b] - probabilities[a]);
    this.rows.forEach(({ row, name, fill, value }, at) => {
      const cls = this.all ? at : order[at];
      const part = probabilities?.[cls] ?? 0;
      name.textContent = name.title = this.classes[cls] ?? '';
      fill.style.transform = `scaleX(${part})`;
      value.textContent = probabilities ? percent(part) : '';
      row.classList.toggle('first', cls !== undefined && cls === order[0]);
    });
    const first = probabilities ? this.classes[order[0]] : '–';
    this.answer.textContent = first;
    this.answer.classList.toggle('word', first.length > 2);
    this.probability.textContent = probabilities ? percent(probabilities[order[0]]) : '';
    const isKnown = probabilities && truth !== undefined;
    const outcome = order[0] === truth ? 'right' : 'wrong';
    this.verdict = isKnown ? `The sample is of class ${this.classes[truth]}: the prediction is ${outcome}.` : '';
    clearTimeout(this.timer);
    const text = probabilities ? `Prediction: ${first}, ${percent(probabilities[order[0]])}. ${this.verdict}` : '';
    // While a stroke grows, only the last answer is worth reading out.
    this.timer = setTimeout(() => (this.spoken.textContent = text), 600);
  }
}
