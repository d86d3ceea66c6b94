// The way of one probe: a row for each wire, a box for each header, inner headers below one another.

import { button, el } from './dom.js';

/** What the words of a header begin with: `base X -> Y`, `link(inner) a -> b`, `net A -> F`. */
const KIND = /^(\S+?)(?:\(([^)]*)\))? /;

export class TracePane {
  constructor(place, app, { run, highlight, forget }) {
    this.place = place;
    this.app = app;
    this.run = run;
    this.highlight = highlight;
    this.forgotten = forget;
  }

  /** The lab is another: what can be chosen has changed. */
  lab() {
    if (!this.place.childElementCount) this.place.replaceChildren(this.form({}));
  }

  form(asked, ...more) {
    const { lab } = this.app;
    const nodes = (chosen) => lab.networks.map((net) => el('optgroup', { label: net.name },
      lab.nodes.filter((node) => node.network === net.name && node.address).map(({ name }) => el('option', { value: name, selected: name === chosen }, name))));
    const last = lab.networks.at(-1)?.name;
    const own = lab.nodes.filter((node) => node.network === last && node.address);
    const form = el('form', { class: 'ask', 'aria-label': 'Trace' },
      el('label', {}, 'from', el('select', { name: 'from' }, nodes(asked.from ?? own[0]?.name))),
      el('label', {}, 'to', el('select', { name: 'to' }, nodes(asked.to ?? own.at(-1)?.name))),
      el('label', {}, 'bytes', el('input', { name: 'size', inputmode: 'numeric', size: '6', placeholder: '84', value: asked.size ?? '' })),
      el('button', { type: 'submit', class: 'deed' }, 'Send a probe'), more);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const { from, to, size } = Object.fromEntries(new FormData(form));
      this.run({ from, to, ...(size.trim() ? { size: Number(size) } : {}) });
    });
    return form;
  }

  running(asked) {
    this.asked = asked;
    this.place.replaceChildren(this.form(asked), el('p', { role: 'status', class: 'hint' }, `A probe goes from ${asked.from} to ${asked.to} …`));
  }

  failed(error, asked) {
    this.place.replaceChildren(this.form(asked), el('p', { role: 'alert', class: 'verdict bad' }, error.message, error.hint ? el('small', {}, ` ${error.hint}`) : null));
  }

  show(trace) {
    const good = trace.arrived && trace.as_computed;
    const lost = trace.arrived ? '' : ' not';
    const verdict = [
      `${trace.length} bytes did${lost} arrive at ${trace.to}`.replace('did arrive', 'arrived'),
      trace.arrived && trace.ttl[1] !== null && ` with TTL ${trace.ttl[1]}`,
      trace.mtu && `; MTU ${trace.mtu}`,
      trace.ways > 1 && `; one of ${trace.ways} ways of equal cost`,
      trace.as_computed && '; all is as computed',
    ].filter(Boolean).join('');
    const causes = trace.causes.map((cause) => el('li', {}, `at ${cause.at}: ${cause.what}`));
    this.depth = Math.max(1, ...trace.hops.flatMap((hop) => [hop.computed, hop.captured]).filter(Boolean).map((stack) => stack.headers.length));
    const rows = el('ol', { class: 'hops' }, trace.hops.map((hop) => this.hop(trace, hop)),
      trace.end.length ? el('li', {}, this.acts(trace.end)) : null);
    const show = el('input', { type: 'checkbox', onchange: (event) => rows.classList.toggle('bytes', event.target.checked) });
    rows.querySelectorAll('.stack').forEach((stack) => stack.style.setProperty('--depth', this.depth));
    this.place.replaceChildren(
      this.form(this.asked ?? trace, el('label', { class: 'more' }, show, ' bytes of each header'), button('Forget', () => this.forget())),
      el('p', { role: 'status', class: `verdict ${good ? 'good' : 'bad'}` }, el('span', { 'aria-hidden': 'true' }, good ? '✓ ' : '✗ '), verdict),
      causes.length ? el('ul', { class: 'causes' }, causes) : '',
      rows);
  }

  forget() {
    this.highlight(null);
    this.forgotten();
    this.place.replaceChildren(this.form(this.asked ?? {}));
  }

  hop(trace, hop) {
    const differs = trace.difference === hop.hop;
    const { computed, captured } = hop;
    const stacks = [];
    if (captured && computed && differs) stacks.push(this.stack(computed, 'computed', 'missing'), this.stack(captured, 'captured', 'wrong'));
    else if (captured) stacks.push(this.stack(captured, differs ? 'not computed' : '', differs ? 'wrong' : ''));
    else if (computed) stacks.push(this.stack(computed, 'not seen', 'missing'));
    const shown = captured ?? computed;
    const light = () => this.highlight(shown);
    const dark = () => this.highlight(null);
    return el('li', { class: differs ? 'differs' : '' },
      this.acts(hop.before),
      el('div', { class: 'wire', tabindex: '0', onmouseenter: light, onmouseleave: dark, onfocus: light, onblur: dark,
        'aria-label': `Wire ${hop.hop}, from ${shown?.from} to ${shown?.to}` },
        el('span', { class: 'number' }, String(hop.hop)),
        el('span', { class: 'ends' }, `${shown?.from} → ${shown?.to}`),
        el('div', {}, stacks)));
  }

  /** What is done to the packet: `+` put on, `-` taken off, else forwarded. */
  acts(acts) {
    if (!acts.length) return null;
    const kind = (act) => (/(^|[\s:])\+/.test(act) ? 'on' : /(^|[\s:])-\s/.test(act) ? 'off' : 'ttl');
    return el('ul', { class: 'acts' }, acts.map((act) => el('li', { class: kind(act) }, act)));
  }

  stack(stack, title, kind) {
    const { headers } = stack;
    const box = (header) => el('div', { class: `header ${header.words.match(KIND)?.[1]} p${this.colour(header)}` },
      el('b', {}, header.words),
      el('small', {}, `TTL ${header.ttl} · ${header.length} bytes${header.sealed ? ' · ESP' : ''}`),
      header.bytes ? el('code', {}, header.bytes.replace(/\s/g, '').replace(/(.{8})/g, '$1 ').trim()) : null);
    const lost = stack.received ? '' : ' lost here';
    const column = (element, number) => {
      element.style.gridColumn = String(number);
      return element;
    };
    const room = `${headers[0]?.length ?? 0} of ${stack.mtu}`;
    return el('div', { class: `stack ${kind}` },
      headers.map((header, index) => column(box(header), this.depth - headers.length + index + 1)),
      column(el('div', { class: 'header data' }, el('b', {}, 'data'), el('small', { title: 'Bytes of the packet, of what the wire can carry' }, room)), this.depth + 1),
      title || lost ? el('span', { class: 'why' }, [title, lost.trim()].filter(Boolean).join(', ')) : null);
  }

  /** The colour of the network whose header it is, as in the picture. */
  colour(header) {
    const planes = [...this.app.lab.networks].sort((a, b) => a.depth - b.depth).map((net) => net.name);
    const [, kind, named] = header.words.match(KIND) ?? [];
    const name = kind === 'base' ? 'base' : named ?? this.asked?.from.split('/')[0];
    const index = Math.max(0, planes.indexOf(name));
    return index === 0 ? 0 : ((index - 1) % 7) + 1;
  }
}
