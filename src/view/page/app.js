// Brings the parts of the page together: what is selected, what is known, and what the user wants.

import { byId, el } from './dom.js';
import { Details } from './details.js';
import { Happenings } from './happenings.js';
import { Picture } from './picture.js';
import { Failure, get, listen, post } from './server.js';
import { TracePane } from './trace.js';

const app = {
  lab: null,
  /** Links by name: their state and rates. */
  links: new Map(),
  down: { links: new Set(), nodes: new Set(), below: new Set() },
  drops: {},
  selected: null,
  /** The first of two nodes to trace, while the second is to be chosen. */
  tracing: null,
  ended: false,
};

const picture = new Picture(byId('picture'), { select });
const details = new Details(byId('details'), app, { select, startTrace, setDown, impair, failed });
const happenings = new Happenings(byId('event-list'));
const trace = new TracePane(byId('trace'), app, { run: runTrace, highlight: (stack) => picture.highlight(stack), forget: () => picture.way(null) });

// ---- what happens --------------------------------------------------------------------------------------------

async function load() {
  app.lab = await get('/api/lab');
  const { lab } = app;
  document.title = `${lab.lab} – vilab`;
  byId('lab-name').textContent = lab.lab;
  byId('lab-summary').textContent = `${lab.nodes.length} nodes, ${lab.links.length} links, ${lab.networks.length - 1} Virtual Internets`;
  byId('names').replaceChildren(...[...lab.nodes, ...lab.links].map(({ name }) => el('option', { value: name })));
  picture.show(lab);
  trace.lab();
  if (app.selected && !known(app.selected)) app.selected = null;
  await refresh();
}

const known = ({ kind, name }) => app.lab[kind === 'node' ? 'nodes' : 'links'].some((thing) => thing.name === name);

async function refresh() {
  picture.select(app.selected);
  await details.show(app.selected);
}

let before = null;

/** A look at the lab: rates are the difference from the one before. */
function looked(state) {
  const seconds = before ? (state.time_ms - before.time_ms) / 1000 : 0;
  app.links = new Map(Object.entries(state.links).map(([name, link]) => {
    const old = before?.links[name];
    const rate = (what) => link[what].map((value, side) => (old && seconds > 0 ? Math.max(0, (value - old[what][side]) / seconds) : 0));
    return [name, { ...link, rate: rate('packets'), bits: rate('bytes').map((bytes) => bytes * 8), dropping: old ? Math.max(0, link.dropped - old.dropped) : 0 }];
  }));
  app.down = { links: new Set(state.down.links), nodes: new Set(state.down.nodes), below: new Set(state.down.nodes_below) };
  app.drops = state.drops;
  before = state;
  const count = (is) => [...app.links.values()].filter((link) => link.state === is).length;
  const words = [['up', 'up'], ['down', 'down'], ['dead', 'cut off'], ['gone', 'gone']].map(([is, word]) => [count(is), word]).filter(([n]) => n > 0);
  byId('link-counts').textContent = `links: ${words.map((pair) => pair.join(' ')).join(', ')}`;
  picture.update(app);
  details.update();
}

const RELOAD = new Set(['applied', 'impairment']);
const REFRESH = new Set(['diverged', 'converged', 'link-down', 'link-up', 'node-down', 'node-up', 'service', 'service-removed']);
let due = null;

function told({ type, data }) {
  if (type === 'state') return looked(JSON.parse(data));
  if (type === 'end') return end(data);
  if (type !== 'event') return undefined;
  const event = JSON.parse(data);
  if (happenings.add(event)) {
    picture.happened(event);
    if (event.type === 'service') serviceIs(event);
    const what = RELOAD.has(event.type) ? load : REFRESH.has(event.type) ? refresh : null;
    if (what && !(due && due.what === load)) {
      if (due) clearTimeout(due.timer);
      // Events come in swarms.
      due = { what, timer: setTimeout(() => { due = null; what().catch(failed); }, 150) };
    }
  }
  return undefined;
}

function serviceIs({ service, state, restarts, last }) {
  const own = app.lab.services.find(({ name }) => name === service);
  if (own) Object.assign(own, { state, restarts, last });
}

function connection(state, text) {
  byId('connection').dataset.state = state;
  byId('connection').textContent = text;
}

function end(why) {
  app.ended = true;
  document.body.classList.add('ended');
  connection('ended', why === 'lab-down' ? 'lab down' : 'ended');
  message(why === 'lab-down' ? `Lab ${app.lab?.lab ?? ''} has gone down.` : 'vilab view has ended.', 'What is shown is how it was last.');
}

// ---- what the user does ---------------------------------------------------------------------------------------

function select(thing, { second } = {}) {
  if (thing?.kind === 'node' && (app.tracing || second)) {
    const first = app.tracing ? app.tracing.from : app.selected?.kind === 'node' && app.selected.name;
    if (first && first !== thing.name) {
      traceMode(null);
      runTrace({ from: first, to: thing.name });
      return;
    }
    traceMode({ from: thing.name });
  }
  app.selected = thing;
  refresh().catch(failed);
}

function traceMode(tracing) {
  app.tracing = tracing;
  byId('trace-mode').setAttribute('aria-pressed', String(tracing !== null));
  byId('picture').classList.toggle('choosing', tracing !== null);
  byId('hint').hidden = tracing === null;
  byId('hint').textContent = tracing?.from ? `From ${tracing.from}: choose the node it is for. Esc ends.` : 'Choose the node that sends. Esc ends.';
  picture.from(tracing?.from ?? null);
}

function startTrace(from) {
  traceMode({ from });
}

async function runTrace(asked) {
  tab('trace');
  trace.running(asked);
  try {
    const found = await post('/api/trace', asked);
    trace.show(found);
    picture.way(found, app.lab);
  } catch (e) {
    trace.failed(e, asked);
    picture.way(null);
  }
}

async function setDown(kind, name, down) {
  try {
    const done = await post(`/api/${kind}`, { name, down });
    if (done.ends_kept_down > 0) message(`${name} is up, but what else is down keeps ${done.ends_kept_down} of its link ends down.`);
  } catch (e) {
    failed(e);
  }
}

async function impair(asked) {
  try {
    return await post('/api/impair', asked);
  } catch (e) {
    failed(e);
    return null;
  }
}

function message(text, hint) {
  const line = byId('message');
  line.firstElementChild.textContent = [text, hint].filter(Boolean).join(' – ');
  line.hidden = false;
}

function failed(e) {
  if (app.ended) return;
  message(e instanceof Failure ? e.message : `The page has a fault: ${e.message}`, e.hint);
  if (!(e instanceof Failure)) console.error(e);
}

function tab(name) {
  document.querySelector('main').dataset.tab = name;
  for (const own of document.querySelectorAll('[role=tab]')) {
    const is = own.id === `tab-${name}`;
    own.setAttribute('aria-selected', String(is));
    own.tabIndex = is ? 0 : -1;
    byId(own.getAttribute('aria-controls')).hidden = !is;
  }
}

function keys(event) {
  if (event.target.closest('input, select, textarea') || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'Escape') {
    if (app.tracing) traceMode(null);
    else select(null);
  } else if (event.key === 't') traceMode(app.tracing ? null : {});
  else if (event.key === '0') picture.fit();
  else if (event.key === '/') byId('find').focus();
  else return;
  event.preventDefault();
}

function find() {
  const { value } = byId('find');
  if (!value) return undefined;
  const thing = ['node', 'link'].map((kind) => ({ kind, name: value })).find(known);
  if (!thing) return message(`The lab has no node or link ${value}.`);
  byId('find').value = '';
  select(thing);
  return undefined;
}

byId('trace-mode').addEventListener('click', () => traceMode(app.tracing ? null : {}));
byId('zoom-in').addEventListener('click', () => picture.zoom(1.25));
byId('zoom-out').addEventListener('click', () => picture.zoom(0.8));
byId('zoom-fit').addEventListener('click', () => picture.fit());
byId('message').querySelector('button').addEventListener('click', () => { byId('message').hidden = true; });
// What is chosen from the list counts at once, what is typed when it is complete: one name may begin as another.
byId('find').addEventListener('input', ({ inputType }) => { if (!inputType || inputType === 'insertReplacementText') find(); });
byId('find').addEventListener('change', find);
document.addEventListener('keydown', keys);
for (const own of document.querySelectorAll('[role=tab]')) {
  own.addEventListener('click', () => tab(own.id.slice(4)));
  own.addEventListener('keydown', (event) => {
    if (event.key !== 'ArrowLeft' && event.key !== 'ArrowRight') return;
    const other = own.nextElementSibling ?? own.previousElementSibling;
    tab(other.id.slice(4));
    other.focus();
  });
}

try {
  await load();
  await listen(told, (there) => {
    if (app.ended) return;
    connection(there ? 'live' : 'lost', there ? 'live' : 'connection lost');
    if (there && before) load().catch(failed);
    if (!there) before = null;
  });
} catch (e) {
  connection('lost', 'not connected');
  failed(e);
}
