// What is known of the selected node or link, and what may be done to it; of the lab where nothing is selected.

import { button, el, pairs, short, table } from './dom.js';
import { get } from './server.js';

const ROLES = { host: 'virtual host', router: 'virtual router', both: 'host and router', phantom: 'phantom host' };
const STATES = { up: 'up', down: 'down', dead: 'cut off below', gone: 'gone' };

const chip = (state, text) => el('span', { class: `chip ${state}` }, text);

export class Details {
  constructor(place, app, deeds) {
    this.place = place;
    this.app = app;
    this.deeds = deeds;
    /** What is filled in again with each look at the lab. */
    this.live = [];
    this.asked = 0;
  }

  /** Fills the pane; what is typed or opened in it stays where the same thing is shown again. */
  async show(thing) {
    const number = ++this.asked;
    const same = this.shown && thing && this.shown.kind === thing.kind && this.shown.name === thing.name;
    const link = thing?.kind === 'link' ? this.known(thing.name) : null;
    // What is impaired is filled in below.
    const facts = link && JSON.stringify({ ...link, asked: null });
    if (same && link && facts === this.facts) {
      this.update();
      return;
    }
    const node = thing?.kind === 'node' ? await get('/api/node', { name: thing.name }) : null;
    if (number !== this.asked) return;
    this.facts = facts;
    const scrolled = same ? this.place.scrollTop : 0;
    const focus = same ? document.activeElement?.dataset?.key : null;
    this.live = [];
    this.shown = thing;
    const parts = node ? this.node(node) : link ? this.link(link) : this.lab();
    this.place.replaceChildren(...parts.filter(Boolean));
    this.update();
    this.place.scrollTop = scrolled;
    if (focus) this.place.querySelector(`[data-key="${focus}"]`)?.focus();
  }

  known(link) {
    return this.app.lab.links.find(({ name }) => name === link);
  }

  update() {
    this.live.forEach((fill) => fill());
  }

  /** An element that `fill` fills now and with each look. */
  lively(element, fill) {
    this.live.push(() => fill(element));
    return element;
  }

  to(kind, name, text = name) {
    return button(text, () => this.deeds.select({ kind, name }), { class: 'to' });
  }

  // ---- the lab ---------------------------------------------------------------------------------------------

  lab() {
    const { lab } = this.app;
    const depth = [...lab.networks].sort((a, b) => a.depth - b.depth);
    const network = (net, index) => {
      const of = (list) => list.filter((thing) => thing.network === net.name).length;
      return [el('span', { class: `name p${index === 0 ? 0 : ((index - 1) % 7) + 1}` }, net.name), net.over.join(', '), String(of(lab.nodes)), String(of(lab.links))];
    };
    return [
      el('h2', {}, `Lab ${lab.lab}`),
      lab.description && el('p', {}, lab.description.replaceAll('`', '')),
      el('p', { class: 'hint' }, 'Click a node or link. For a trace press “Trace” and click two nodes, or click one, and another with Shift.'),
      table('Networks', ['network', 'over', 'nodes', 'links'], depth.map(network)),
      pairs([['Dataplane', lab.dataplane], ['File', lab.file], ['Up since', new Date(lab.up_since).toLocaleString()]]),
      ...this.services(lab.services, 'Services of the lab', true),
    ];
  }

  services(list, title, withLab) {
    if (!list.length && !withLab) return [];
    const place = el('div', {});
    const log = (name) => button('Log', () => this.log(name, place), { 'data-key': `log-${name}`, 'aria-label': `Log of ${name}` });
    const row = (s) => [s.name, chip(s.state === 'running' ? 'up' : 'down', s.state), s.restarts ? String(s.restarts) : '', log(s.name)];
    const rows = list.map(row);
    if (withLab) rows.push(['lab', '', '', log('lab')]);
    if (this.open && rows.some(([name]) => name === this.open)) this.log(this.open, place);
    return [table(title, ['service', 'state', 'restarts', ''], rows), place];
  }

  async log(name, place) {
    try {
      const { text } = await get('/api/log', { name });
      const shown = el('pre', { tabindex: '0' }, text || 'It has printed nothing.');
      const close = button('Close', () => { this.open = null; place.replaceChildren(); });
      this.open = name;
      place.replaceChildren(el('h3', {}, `Log of ${name}`), shown, button('Again', () => this.log(name, place)), ' ', close);
      shown.scrollTop = shown.scrollHeight;
    } catch (e) {
      this.deeds.failed(e);
    }
  }

  // ---- a node ----------------------------------------------------------------------------------------------

  node(node) {
    const role = node.at ? ROLES[node.role] : 'base node';
    const state = this.lively(el('span', {}), (span) => {
      const { down } = this.app;
      const is = down.nodes.has(node.name) ? ['down', 'down'] : down.below.has(node.name) ? ['down', 'down with what it is on'] : ['up', 'up'];
      span.replaceChildren(chip(...is));
    });
    const set = this.lively(button('', () => this.deeds.setDown('node', node.name, !this.app.down.nodes.has(node.name)), { 'data-key': 'set', class: 'deed' }), (own) => {
      own.textContent = this.app.down.nodes.has(node.name) ? 'Set up again' : 'Set down';
    });
    return [
      el('h2', {}, node.name, ' ', state),
      el('p', { class: 'deeds' }, set, button('Trace from here', () => this.deeds.startTrace(node.name), { 'data-key': 'trace' })),
      pairs([
        ['Role', role],
        ['Address', node.host_address ?? node.interfaces[0]?.address],
        ['Placed on', node.at && this.to('node', node.at)],
        ['Base node', node.at && node.base !== node.at && this.to('node', node.base)],
        ['Dataplane', node.dataplane],
        ['Carries', node.carries.map((name) => this.to('node', name))],
        ['Link addresses of VIs above', node.link_addresses_of_others.join(', ')],
      ]),
      this.interfaces(node),
      this.routes(node),
      ...this.services(node.services, 'Services', false),
      this.counters(node.name),
    ];
  }

  interfaces(node) {
    const rate = (name) => this.lively(el('td', { class: 'number' }), (cell) => {
      const link = this.app.links.get(name);
      cell.textContent = !link ? '' : link.state === 'up' ? `${short(link.rate[0] + link.rate[1])}/s` : STATES[link.state];
    });
    const row = (i) => [i.device, el('span', {}, i.address, i.link_address && el('small', {}, el('br'), `over ${i.link_address}`)), this.to('link', i.link, i.link.split('/')[1]), this.to('node', i.peer, i.peer.replace(`${node.name.split('/')[0]}/`, '')), String(i.mtu), rate(i.link)];
    return table('Interfaces', ['device', 'address', 'link', 'peer', 'MTU', 'packets'], node.interfaces.map(row));
  }

  routes(node) {
    const wrong = node.routes.filter((route) => route.differs);
    if (!node.routes_are_known) {
      return table('Routes of the kernel (not vilab’s to compute)', ['prefix', 'via'], node.routes.map((r) => [r.prefix, r.found]));
    }
    if (!node.routes.length) return el('p', { class: 'hint' }, 'The kernel has no routes, as computed.');
    if (!wrong.length) {
      return table(`Routes: the kernel has all ${node.routes.length} as computed`, ['prefix', 'via'], node.routes.map((r) => [r.prefix, r.found]));
    }
    const row = (r) => Object.assign([r.prefix, r.expected, r.found], { mark: r.differs ? 'wrong' : null });
    return table(`Routes: ${wrong.length} of ${node.routes.length} are not as computed`, ['prefix', 'computed', 'kernel'], [...wrong, ...node.routes.filter((r) => !r.differs)].map(row));
  }

  counters(name) {
    return this.lively(el('div', {}), (place) => {
      const counters = Object.entries(this.app.drops[name] ?? {});
      place.replaceChildren(counters.length ? table('Counters of the dataplane', ['counter', 'packets'], counters.map(([what, count]) => [what, el('td', { class: 'number' }, String(count))])) : '');
    });
  }

  // ---- a link ----------------------------------------------------------------------------------------------

  link(link) {
    const { name } = link;
    const state = this.lively(el('span', {}), (span) => {
      const is = this.app.links.get(name)?.state;
      span.replaceChildren(is ? chip(is, STATES[is]) : '');
    });
    const set = this.lively(button('', () => this.deeds.setDown('link', name, !this.app.down.links.has(name)), { 'data-key': 'set', class: 'deed' }), (own) => {
      own.textContent = this.app.down.links.has(name) ? 'Restore' : 'Cut';
    });
    const [a, b] = link.ends;
    const own = (end) => end.replace(`${link.network}/`, '');
    const way = (from, to, side) => [`${own(from)} → ${own(to)}`,
      ...['packets', 'rate', 'bits'].map((what) => this.lively(el('td', { class: 'number' }), (cell) => {
        const value = this.app.links.get(name)?.[what][side];
        cell.textContent = value === undefined ? '' : what === 'packets' ? String(value) : short(value);
      })), this.lively(el('td', { class: 'words' }), (cell) => { cell.textContent = this.known(name)?.asked[side] ?? ''; })];
    return [
      el('h2', {}, name, ' ', state),
      el('p', { class: 'deeds' }, set),
      pairs([
        ['Ends', link.ends.map((end) => this.to('node', end))],
        ['Devices', link.devices.join(' and ')],
        ['Addresses', link.addresses.join(' and ')],
        ['Link addresses', link.link_addresses.map((pair) => pair.join(' and ')).join('; ')],
        ['MTU', String(link.mtu)],
        ['Cost', link.cost === 1 ? '' : String(link.cost)],
        ['Protected by', link.security],
        ['Dropped by devices', this.lively(el('span', {}), (span) => { span.textContent = String(this.app.links.get(name)?.dropped ?? 0); })],
      ]),
      table('What passes', ['direction', 'packets', 'packets/s', 'bit/s', 'impaired'], [way(a, b, 0), way(b, a, 1)]),
      link.can_be_impaired && this.impairing(link),
    ];
  }

  impairing(link) {
    const field = (name, example) => el('label', {}, name, el('input', { name, placeholder: example, autocomplete: 'off', spellcheck: 'false', size: '8' }));
    const said = el('p', { role: 'status' });
    const [a, b] = link.ends;
    const way = el('select', { name: 'from' }, el('option', { value: '' }, 'both directions'), [[a, b], [b, a]].map(([from, to]) => el('option', { value: from }, `${from} → ${to}`)));
    const form = el('form', {},
      field('delay', '10ms'), field('jitter', '1ms'), field('loss', '0.1%'), field('rate', '10mbit'),
      el('label', {}, 'of', way),
      el('p', { class: 'deeds' }, el('button', { type: 'submit', class: 'deed' }, 'Impair'), button('Clear', () => ask({ clear: true }), {})));
    const ask = async (what) => {
      said.textContent = 'measuring …';
      const from = way.value;
      const done = await this.deeds.impair({ link: link.name, ...(from ? { from } : {}), ...what });
      said.textContent = done ? `Measured: ${done.measured.map((m) => m ?? 'nothing').join('; back: ')}` : '';
    };
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const fields = [...new FormData(form)].filter(([key, value]) => key !== 'from' && value.trim());
      if (fields.length) ask(Object.fromEntries(fields));
      else said.textContent = 'Fill in what the link is to do to packets.';
    });
    return el('div', { class: 'impair' }, el('h3', {}, 'Impair'), form, said);
  }
}
