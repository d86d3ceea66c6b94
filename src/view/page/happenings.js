// Events of the lab in words, the newest first.

import { el } from './dom.js';

const MOST = 400;

/** What an event says, and whether it is good or bad news. */
function words(e) {
  switch (e.type) {
    case 'start': return ['', `listening to ${e.nodes} nodes and ${e.links} links`];
    case 'link-down': return ['bad', `link ${e.link} was set down`];
    case 'link-up': return ['good', `link ${e.link} was set up`];
    case 'node-down': return ['bad', `node ${e.node} was set down`];
    case 'node-up': return ['good', `node ${e.node} was set up`];
    case 'device-down': return ['bad', `device ${e.device} is down`];
    case 'device-up': return ['good', `device ${e.device} is up`];
    case 'device-added': return ['', `device ${e.device} was added`];
    case 'device-removed': return ['', `device ${e.device} was removed`];
    case 'impairment': return ['', `${e.link}, ${e.from} → ${e.to}: ${asked(e.asked)}`];
    case 'apply-started': return ['', 'a change of the lab has begun'];
    case 'applied': return ['', applied(e)];
    case 'service': return [e.state === 'running' ? 'good' : '', `service ${e.service} is ${e.state}${e.last ? `, ${e.last}` : ''}`];
    case 'service-removed': return ['', `service ${e.service} was removed`];
    case 'diverged': return ['bad', `routes of ${e.node} are not the computed ones: ${e.prefix} must be ${e.expected}, is ${e.found}`];
    case 'converged': return ['good', `routes of ${e.node} are the computed ones again`];
    case 'network-diverged': return ['bad', `network ${e.network} has routes that are not the computed ones`];
    case 'network-converged': return ['good', `network ${e.network} has all computed routes again`];
    case 'lost': return ['', `some events of ${e.node} were lost`];
    case 'lab-down': return ['bad', 'the lab went down'];
    default: return ['', e.type];
  }
}

function asked({ delay_us, jitter_us, loss_ppm, rate_bps }) {
  const all = [delay_us && `delay ${delay_us / 1000} ms`, jitter_us && `jitter ${jitter_us / 1000} ms`, loss_ppm && `loss ${loss_ppm / 1e4}%`, rate_bps && `rate ${rate_bps / 1e6} Mbit/s`];
  return all.filter(Boolean).join(', ') || 'impaired no more';
}

function applied(e) {
  const all = [['nodes_added', '+', 'nodes'], ['nodes_removed', '−', 'nodes'], ['links_added', '+', 'links'], ['links_removed', '−', 'links']];
  return `the lab was changed: ${all.filter(([key]) => e[key].length).map(([key, sign, what]) => `${sign} ${what} ${e[key].join(', ')}`).join('; ')}`;
}

export class Happenings {
  constructor(list) {
    this.list = list;
    /** The last event shown: a new connection tells all again. */
    this.last = '';
  }

  /** False for one that is known. */
  add(event) {
    const key = event.time + event.type + (event.link ?? event.node ?? event.service ?? event.network ?? '');
    if (event.time < this.last.slice(0, event.time.length) || this.seen?.has(key)) return false;
    if (!this.seen || this.last.slice(0, event.time.length) !== event.time) this.seen = new Set();
    this.seen.add(key);
    this.last = key;
    const [mood, text] = words(event);
    const time = new Date(event.time);
    const line = el('li', { class: mood },
      el('time', { datetime: event.time }, time.toLocaleTimeString([], { hour12: false })),
      el('span', { class: 'mark', 'aria-hidden': 'true' }, { good: '▲', bad: '▼' }[mood] ?? '·'),
      el('span', {}, text));
    this.list.prepend(line);
    while (this.list.childElementCount > MOST) this.list.lastElementChild.remove();
    return true;
  }
}
