// The page: a picture, the network's answer, and every layer.

import { Bars } from './bars.js';
import { setColours } from './colours.js';
import { Drawing } from './drawing.js';
import { imageOf, Input } from './input.js';
import { showLayers } from './layers.js';
import { showRun } from './run.js';
import * as server from './server.js';

const byId = id => document.getElementById(id);
/// With more classes, samples are chosen from a list.
const MOST_CHIPS = 20;
const POLL = 2000;

const shared = {
  /// The name of the picture that the network was asked about, and its image.
  picture: null,
  image: null,
  /// Changes with the picture and with the weights.
  version: null,
  input: new Input(byId('input')),
  scale: 'map',
  failed: fail,
  read: text => (byId('read').textContent = text),
};
let site, bars, layers, drawing;
let generation = 0, loadedAt = null, probabilities = null, samplesShown = false, lost = false;
/// Sends the current picture again; `null` without one.
let send = null;
/// Shows a sample, so that the page does not begin empty; `null` once there is a picture, or before there are samples.
let firstSample = null;
let isSending = false, isStale = false, begun = null;

function fail(error) {
  if (error.status === 410 && send) {
    submit(send);
    return;
  }
  console.warn(error.message);
  notice(error instanceof server.Refusal ? error.message : 'The server does not answer. Is it still running?');
}

function notice(text) {
  byId('notice').hidden = !text;
  byId('notice').textContent = text ?? '';
}

/// Asks about a picture. While a question is open, only the last one after it counts.
async function submit(request, since = performance.now()) {
  send = request;
  begun ??= since;
  if (isSending) {
    isStale = true;
    return;
  }
  isSending = true;
  try {
    const answer = await request();
    // The page may have been cleared meanwhile.
    if (send !== null) show(answer);
    notice(null);
  } catch (error) {
    if (error.status === 410) console.warn(error.message);
    else fail(error);
  }
  isSending = false;
  if (!isStale) return;
  isStale = false;
  if (send !== null) submit(send, begun ?? performance.now());
}

function show(answer) {
  const pixels = Uint8Array.from(atob(answer.pixels), character => character.charCodeAt(0));
  const version = `${answer.picture} ${answer.generation}`;
  const isNew = shared.version !== version;
  [shared.picture, shared.version, generation] = [answer.picture, version, answer.generation];
  probabilities = answer.blank ? null : answer.probabilities;
  bars.show(probabilities, send?.truth);
  const milliseconds = performance.now() - begun;
  begun = null;
  byId('timing').textContent = answer.blank
    ? 'The picture is blank, so an answer would mean nothing.' : `Answered in ${milliseconds.toFixed(1)} ms.`;
  byId('truth').textContent = bars.verdict;
  byId('timing').dataset.milliseconds = milliseconds;
  shared.image = imageOf(pixels, site.input);
  shared.input.setImage(shared.image);
  if (send?.showsInput) drawing.show(shared.image);
  const [height, width] = site.input;
  byId('input-text').textContent = `${height} × ${width} pixels${answer.inverted ? ', inverted to light on dark' : ''}`;
  if (!isNew) return;
  layers.update();
  explain();
}

/// Asks for the Grad-CAM map, if it is switched on.
async function explain() {
  const isOn = byId('gradcam').checked;
  byId('gradcam-text').hidden = !isOn;
  if (!isOn || shared.picture === null || !probabilities) {
    shared.input.setMap(null);
    return;
  }
  const chosen = byId('gradcam-class').value;
  const cls = chosen === '' ? probabilities.indexOf(Math.max(...probabilities)) : Number(chosen);
  const { picture } = shared;
  try {
    const values = await server.gradcam(picture, cls);
    if (picture === shared.picture && byId('gradcam').checked) shared.input.setMap(values);
  } catch (error) {
    fail(error);
  }
}

function clear() {
  press(null);
  drawing.clear();
  begun = null;
  [send, shared.picture, shared.image, shared.version, probabilities] = [null, null, null, null, null];
  bars.show(null);
  byId('timing').textContent = byId('truth').textContent = byId('input-text').textContent = '';
  shared.input.setMap(null);
  shared.input.setImage(null);
  layers.update();
}

/// A request whose input also becomes the drawing. `truth` is the picture's class, if that is known.
const shown = (request, truth) => Object.assign(request, { showsInput: true, truth });

function open(file) {
  press(null);
  if (!['image/png', 'image/jpeg'].includes(file.type)) notice(`${file.name} is neither a PNG nor a JPEG picture.`);
  else if (file.size > site.largest_file) notice(`${file.name} has more than ${site.largest_file / 1e6} MB.`);
  else submit(shown(() => server.file(file)));
}

/// Marks the class whose sample is shown.
function press(cls) {
  for (const chip of byId('chips').children) chip.setAttribute('aria-pressed', String(chip.dataset.class === String(cls)));
}

const turns = new Map();
/// Each time, the next sample of the class.
function takeSample(cls, count) {
  const index = (turns.get(cls) ?? -1) + 1;
  turns.set(cls, index);
  press(cls);
  submit(shown(() => server.sample(cls, index % count), cls));
}

function showSamples(samples) {
  if (samplesShown) return;
  byId('samples-why').textContent = samples.state === 'loading' ? 'The test set is being read.'
    : samples.state === 'missing' ? `There are none: ${samples.why}.`
    : `of the test set of ${samples.dataset}; again for the next`;
  if (samples.state !== 'ready') return;
  samplesShown = true;
  const classes = samples.counts.map((count, cls) => [cls, count]).filter(([, count]) => count > 0);
  const list = byId('sample-class');
  list.hidden = classes.length <= MOST_CHIPS;
  for (const [cls, count] of classes) {
    if (list.hidden) {
      const chip = document.createElement('button');
      [chip.type, chip.textContent, chip.dataset.class] = ['button', site.classes[cls], cls];
      chip.setAttribute('aria-pressed', 'false');
      chip.setAttribute('aria-label', `sample of class ${site.classes[cls]}`);
      chip.addEventListener('click', () => takeSample(cls, count));
      byId('chips').append(chip);
    } else {
      list.append(new Option(site.classes[cls], cls));
    }
  }
  list.addEventListener('change', () => takeSample(Number(list.value), samples.counts[list.value]));
  firstSample = () => {
    const [cls, count] = classes[Math.min(3, classes.length - 1)] ?? [];
    if (cls === undefined) return;
    list.value = String(cls);
    takeSample(cls, count);
  };
}

async function poll() {
  let wait = POLL;
  try {
    const state = await server.state();
    if (lost) notice(null);
    lost = false;
    if (state.generation !== generation) {
      loadedAt = new Date();
      if (generation === 0 || send === null) generation = state.generation;
      if (send && state.generation > 0) submit(send);
    }
    if (site.run) await showRun(site.run, state, loadedAt);
    showSamples(state.samples);
    if (generation > 0 && firstSample) {
      if (send === null) firstSample();
      firstSample = null;
    }
    if (state.samples.state === 'loading') wait = 300;
    else if (!site.run) return;
  } catch (error) {
    lost = true;
    fail(error);
  }
  setTimeout(poll, wait);
}

function describe() {
  const [height, width, channels] = site.input;
  document.title = `${site.model} – cnn-cuda`;
  byId('model').textContent = site.model;
  const facts = [`${site.parameters.toLocaleString('en')} parameters`, site.weights, site.device];
  byId('about').textContent = facts.join(' · ');
  byId('notes').hidden = site.notes.length === 0;
  byId('notes').textContent = site.notes.join(' ');
  if (channels !== 1) {
    byId('pad-title').textContent = 'Picture';
    byId('clear').hidden = true;
    drawing.disable();
  } else if (site.classes.length !== 10 || site.classes.some(name => name.length > 1)) {
    byId('pad-title').textContent = 'Draw';
  }
  byId('gradcam-row').hidden = site.explained === null;
  const list = byId('gradcam-class');
  list.append(new Option('prediction', ''), ...site.classes.map((name, cls) => new Option(name, cls)));
  byId('chips').classList.toggle('words', site.classes.some(name => name.length > 3));
  byId('input').style.aspectRatio = `${Math.max(height, width)} / ${Math.max(height, width)}`;
}

async function start() {
  let palette;
  [site, palette] = await Promise.all([server.site(), server.colours()]);
  setColours(palette);
  drawing = new Drawing(byId('pad'), byId('pad-frame'), byId('pad-hint'), {
    changed: since => {
      press(null);
      submit(() => server.drawing(drawing.levels(), drawing.width), since);
    },
    dropped: open,
  });
  describe();
  bars = new Bars(byId('bars'), byId('answer-class'), byId('answer-probability'), byId('spoken'), site.classes);
  bars.show(null);
  layers = showLayers(byId('layers'), site.layers, shared);
  byId('clear').addEventListener('click', clear);
  byId('file').addEventListener('change', event => {
    if (event.target.files.length > 0) open(event.target.files[0]);
    event.target.value = '';
  });
  byId('gradcam').addEventListener('change', explain);
  byId('gradcam-class').addEventListener('change', explain);
  byId('scale').addEventListener('change', event => {
    shared.scale = event.target.value;
    layers.redraw();
  });
  document.documentElement.dataset.ready = 'true';
  await poll();
}

start().catch(fail);
