// Elements out of names, properties and children; nothing is ever parsed as HTML.

export const byId = (id) => document.getElementById(id);

/** el('td', {class: 'n', onclick: f}, 'text', other): an element; children that are null or false are left out. */
export function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const button = (text, onclick, properties = {}) => el('button', { type: 'button', onclick, ...properties }, text);

/** Pairs of a term and what it is; those without a value are left out. */
export function pairs(list) {
  const shown = list.filter(([, value]) => value !== null && value !== undefined && value !== false && value !== '' && value.length !== 0);
  return el('dl', {}, shown.map(([term, value]) => [el('dt', {}, term), el('dd', {}, value)]));
}

export function table(caption, titles, rows) {
  const cell = (value) => (value instanceof Node && value.nodeName === 'TD' ? value : el('td', {}, value ?? ''));
  const row = (cells) => el('tr', { class: cells.mark }, cells.map(cell));
  return el('div', { class: 'scroll', tabindex: '0', role: 'group', 'aria-label': caption },
    el('table', {},
      el('caption', {}, caption),
      el('thead', {}, el('tr', {}, titles.map((title) => el('th', { scope: 'col' }, title)))),
      el('tbody', {}, rows.map(row))));
}

const UNITS = [[1e9, 'G'], [1e6, 'M'], [1e3, 'k']];

/** 1234567 as 1.23M. */
export function short(value) {
  const unit = UNITS.find(([scale]) => value >= scale);
  if (!unit) return String(Math.round(value));
  const scaled = value / unit[0];
  return scaled.toFixed(scaled < 10 ? 2 : scaled < 100 ? 1 : 0) + unit[1];
}
