// The picture that the server drew, made live: states, rates, selection, and the way of a probe.

import { short } from './dom.js';

const NS = 'http://www.w3.org/2000/svg';
const SMALLEST = 0.15;
const LARGEST = 5;
/** From this many packets a second on, a link is shown as busy. */
const BUSY = 0.5;
/** A drag shorter than this is a click, pixels. */
const STILL = 4;

function svg(name, attributes = {}, text = '') {
  const element = document.createElementNS(NS, name);
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  element.textContent = text;
  return element;
}

export class Picture {
  constructor(place, { select }) {
    this.place = place;
    this.pick = select;
    this.scale = 1;
    this.nodes = new Map();
    this.links = new Map();
    place.addEventListener('click', (event) => this.clicked(event));
    place.addEventListener('keydown', (event) => this.pressed(event));
    place.addEventListener('wheel', (event) => this.wheeled(event), { passive: false });
    place.addEventListener('pointerdown', (event) => this.grabbed(event));
    new ResizeObserver(() => requestAnimationFrame(() => this.fitted && this.fit())).observe(place);
  }

  show(lab) {
    this.nodes.clear();
    this.links.clear();
    this.svg = null;
    if (!lab.picture) {
      this.place.textContent = `${lab.no_picture}. Find nodes and links by name above.`;
      return;
    }
    const drawn = document.importNode(new DOMParser().parseFromString(lab.picture, 'image/svg+xml').documentElement, true);
    this.svg = drawn;
    this.size = { wide: drawn.viewBox.baseVal.width, high: drawn.viewBox.baseVal.height };
    drawn.setAttribute('role', 'group');
    drawn.setAttribute('aria-label', `Lab ${lab.lab}`);
    this.marks = svg('g', { class: 'marks', 'aria-hidden': 'true' });
    for (const element of drawn.querySelectorAll('[data-node]')) this.keep(this.nodes, element.dataset.node, element);
    for (const element of drawn.querySelectorAll('path[data-link]')) this.link(element);
    for (const parts of this.nodes.values()) {
      const sign = parts.find((part) => part.classList.contains('node'));
      this.reachable(sign, sign?.querySelector('title')?.textContent);
    }
    drawn.append(this.marks);
    this.place.replaceChildren(drawn);
    this.fit();
  }

  keep(map, name, element) {
    if (!map.has(name)) map.set(name, []);
    map.get(name).push(element);
  }

  reachable(element, label) {
    element?.setAttribute('tabindex', '0');
    element?.setAttribute('role', 'button');
    element?.setAttribute('aria-label', label ?? '');
  }

  /** A link is a thin line: beside it lies a broad one that is easier to hit, below it one that moves as packets pass. */
  link(line) {
    const name = line.dataset.link;
    const copy = (kind) => {
      const path = svg('path', { class: kind, d: line.getAttribute('d'), 'data-link': name });
      return path;
    };
    const [glow, flow, hit] = [copy('glow'), copy('flow'), copy('hit')];
    const title = line.querySelector('title');
    if (title) hit.append(title.cloneNode(true));
    this.reachable(hit, title?.textContent);
    line.before(glow);
    line.after(flow, hit);
    [line, glow, flow, hit].forEach((part) => this.keep(this.links, name, part));
  }

  // ---- what is known of the lab --------------------------------------------------------------------------

  update({ links, down, lab }) {
    if (!this.svg) return;
    const marks = [];
    for (const [name, parts] of this.links) {
      const link = links.get(name);
      const state = link?.state ?? 'gone';
      const rate = link ? link.rate[0] + link.rate[1] : 0;
      for (const part of parts) {
        part.classList.toggle('is-down', state === 'down' || state === 'gone');
        part.classList.toggle('is-dead', state === 'dead');
        part.classList.toggle('is-busy', state === 'up' && rate >= BUSY);
        part.classList.toggle('is-back', Boolean(link) && link.rate[1] > 2 * link.rate[0]);
      }
      const line = parts[0];
      if (state === 'down' || state === 'gone') marks.push(this.cross(line));
      else if (link && rate >= BUSY) marks.push(this.note(line, `${short(rate)}/s`, 'rate'));
      if (link?.dropping) marks.push(this.note(line, `${short(link.dropping)} dropped`, 'dropped', 26));
    }
    for (const { name, asked } of lab.links) {
      const line = this.links.get(name)?.[0];
      if (line && asked.some((one) => one !== 'none')) marks.push(this.note(line, asked[0] === asked[1] ? asked[0] : asked.filter((one) => one !== 'none').join(' | '), 'asked', 14));
    }
    this.marks.replaceChildren(...marks);
    for (const [name, parts] of this.nodes) {
      for (const part of parts) {
        part.classList.toggle('is-down', down.nodes.has(name) || down.below.has(name));
      }
    }
  }

  middle(line) {
    return line.getPointAtLength(line.getTotalLength() / 2);
  }

  cross(line) {
    const { x, y } = this.middle(line);
    return svg('path', { class: 'cross', d: `M${x - 6} ${y - 6}L${x + 6} ${y + 6}M${x + 6} ${y - 6}L${x - 6} ${y + 6}` });
  }

  note(line, text, kind, lower = 0) {
    const { x, y } = this.middle(line);
    return svg('text', { class: `note ${kind}`, x, y: y + 4 + lower, 'text-anchor': 'middle' }, text);
  }

  /** Something happened to a node or link: it flashes. */
  happened({ node, link }) {
    for (const part of [...(this.nodes.get(node) ?? []), ...(this.links.get(link) ?? [])]) {
      part.classList.remove('flash');
      part.getBoundingClientRect();
      part.classList.add('flash');
    }
  }

  // ---- selection and traces --------------------------------------------------------------------------------

  mark(kind, nodes, links) {
    this.svg?.querySelectorAll(`.${kind}`).forEach((part) => part.classList.remove(kind));
    for (const name of nodes) this.nodes.get(name)?.forEach((part) => part.classList.add(kind));
    for (const name of links) this.links.get(name)?.forEach((part) => part.classList.add(kind));
  }

  select(thing) {
    this.mark('selected', thing?.kind === 'node' ? [thing.name] : [], thing?.kind === 'link' ? [thing.name] : []);
    const shown = thing && (thing.kind === 'node' ? this.nodes.get(thing.name)?.find((part) => part.classList.contains('node')) : this.links.get(thing.name)?.[0]);
    if (shown && !this.fitted) shown.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }

  from(name) {
    this.mark('sends', name ? [name] : [], []);
  }

  /** The wires that a probe crossed, and where it came from and went to. */
  way(trace) {
    const stacks = (trace?.hops ?? []).map((hop) => hop.captured ?? hop.computed).filter(Boolean);
    this.mark('traced', trace ? [trace.from, trace.to] : [], stacks.map((stack) => `base/${stack.link}`));
    this.mark('hop', [], []);
  }

  /** One wire of a trace. */
  highlight(stack) {
    this.mark('hop', stack ? [`base/${stack.from}`, `base/${stack.to}`] : [], stack ? [`base/${stack.link}`] : []);
  }

  // ---- pointer and keyboard --------------------------------------------------------------------------------

  thing(element) {
    const own = element.closest?.('[data-node], [data-link]');
    if (!own || !this.place.contains(own)) return null;
    return own.dataset.node ? { kind: 'node', name: own.dataset.node } : { kind: 'link', name: own.dataset.link };
  }

  clicked(event) {
    if (this.dragged) return;
    this.pick(this.thing(event.target), { second: event.shiftKey });
  }

  pressed(event) {
    const thing = this.thing(event.target);
    if (!thing || (event.key !== 'Enter' && event.key !== ' ')) return;
    event.preventDefault();
    this.pick(thing, { second: event.shiftKey });
  }

  grabbed(start) {
    this.dragged = false;
    if (start.button !== 0) return;
    const { scrollLeft, scrollTop } = this.place;
    const move = (event) => {
      const [x, y] = [event.clientX - start.clientX, event.clientY - start.clientY];
      if (Math.hypot(x, y) > STILL) this.dragged = true;
      if (this.dragged) this.place.scrollTo(scrollLeft - x, scrollTop - y);
    };
    const drop = () => document.removeEventListener('pointermove', move);
    document.addEventListener('pointermove', move);
    document.addEventListener('pointerup', drop, { once: true });
    document.addEventListener('pointercancel', drop, { once: true });
  }

  wheeled(event) {
    if (!event.ctrlKey) return;
    event.preventDefault();
    this.zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15, event);
  }

  fit() {
    if (!this.svg) return;
    const { clientWidth, clientHeight } = this.place;
    this.scaled(Math.min((clientWidth - 8) / this.size.wide, (clientHeight - 8) / this.size.high, 1.6));
    this.fitted = true;
  }

  /** By a factor, around the pointer or the middle. */
  zoom(factor, pointer) {
    if (!this.svg) return;
    const box = this.place.getBoundingClientRect();
    const x = pointer ? pointer.clientX - box.left : box.width / 2;
    const y = pointer ? pointer.clientY - box.top : box.height / 2;
    const [left, top, old] = [this.place.scrollLeft + x, this.place.scrollTop + y, this.scale];
    this.scaled(this.scale * factor);
    this.place.scrollTo(left * (this.scale / old) - x, top * (this.scale / old) - y);
    this.fitted = false;
  }

  scaled(scale) {
    this.scale = Math.min(LARGEST, Math.max(SMALLEST, scale));
    this.svg.style.setProperty('--scale', this.scale);
    this.svg.style.width = `${this.size.wide * this.scale}px`;
    this.svg.style.height = `${this.size.high * this.scale}px`;
  }
}
