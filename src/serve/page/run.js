// The curves of a run.

import { percent } from './bars.js';
import * as server from './server.js';

const byId = id => document.getElementById(id);
/// The epochs that are shown.
let shown = '[]';

/// Shows the epochs of a run and the state of its weights.
export async function showRun(title, { history, generation, error }, loadedAt) {
  const { epochs, fault } = history;
  byId('run').hidden = false;
  const last = epochs.at(-1);
  const said = [
    last ? `epoch ${last.epoch}: test accuracy ${percent(last.test_accuracy)}` : 'no epoch has ended yet',
    weightsText(generation, loadedAt),
    error && `the newest weights cannot be read: ${error}`,
    fault && `${fault}; what can be read is shown`,
  ];
  const text = `${title}; ${said.filter(Boolean).join('; ')}.`;
  // Writing the same text would be read out again.
  if (byId('run-state').textContent !== text) byId('run-state').textContent = text;
  const key = JSON.stringify(epochs);
  if (key === shown) return;
  shown = key;
  const curves = byId('curves');
  const isOpen = curves.querySelector('details')?.open ?? false;
  // The server has escaped what comes from elsewhere.
  curves.innerHTML = await server.curves();
  if (isOpen && curves.querySelector('details')) curves.querySelector('details').open = true;
  if (epochs.length > 0) window.followCurves(curves);
}

function weightsText(generation, loadedAt) {
  if (generation === 0) return 'it has not saved weights yet, and the page waits for them';
  return generation === 1 ? null : `weights read again at ${loadedAt.toLocaleTimeString()}`;
}
