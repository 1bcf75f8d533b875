// The curves of a run.

import { percent } from './bars.js';

const byId = id => document.getElementById(id);
const NUMBERS = [
  ['epoch', it => it.epoch],
  ['train loss', it => it.train_loss?.toFixed(4)],
  ['train accuracy', it => percent(it.train_accuracy)],
  ['val loss', it => it.val_loss?.toFixed(4)],
  ['val accuracy', it => it.val_accuracy === undefined ? undefined : percent(it.val_accuracy)],
  ['test loss', it => it.test_loss?.toFixed(4)],
  ['test accuracy', it => percent(it.test_accuracy)],
  ['seconds', it => it.seconds.toFixed(1)],
];
let shown = '';

/// Shows the epochs of a run and the state of its weights.
export function showRun(title, { history, generation, error }, loadedAt) {
  const { epochs, fault } = history;
  byId('run').hidden = false;
  byId('curves').title = title;
  const last = epochs.at(-1);
  const said = [
    last ? `epoch ${last.epoch}: test accuracy ${percent(last.test_accuracy)}` : 'no epoch has ended yet',
    weightsText(generation, loadedAt),
    error && `the newest weights cannot be read: ${error}`,
    fault && `${fault}; what can be read is shown`,
  ];
  byId('run-state').textContent = `${said.filter(Boolean).join('; ')}.`;
  const key = JSON.stringify(epochs);
  if (key === shown) return;
  shown = key;
  const curves = byId('curves');
  curves.src = `/api/curves.svg?epochs=${epochs.length}`;
  curves.alt = last ? `Loss and accuracy of ${epochs.length} epochs; the table below has the numbers` : 'No epoch yet';
  showTable(epochs);
}

function weightsText(generation, loadedAt) {
  if (generation === 0) return 'it has not saved weights yet, and the page waits for them';
  return generation === 1 ? null : `weights read again at ${loadedAt.toLocaleTimeString()}`;
}

function showTable(epochs) {
  const columns = NUMBERS.filter(([, number]) => epochs.some(epoch => number(epoch) !== undefined));
  const table = byId('epochs').querySelector('table');
  const row = (texts, tag) => {
    const it = document.createElement('tr');
    for (const text of texts) {
      const cell = document.createElement(tag);
      [cell.className, cell.textContent] = ['number', text ?? '–'];
      it.append(cell);
    }
    return it;
  };
  table.tHead.replaceChildren(row(columns.map(([name]) => name), 'th'));
  const rows = [...epochs].reverse().map(epoch => row(columns.map(([, number]) => number(epoch)), 'td'));
  table.tBodies[0].replaceChildren(...rows);
  byId('epochs').hidden = epochs.length === 0;
}
