// What the page asks its server. The token comes with the address, is kept for this tab alone, and goes with every request.

const KEY = 'vilab-token';
const AGAIN_MS = 2000;

function token() {
  const address = new URL(location.href);
  const given = address.searchParams.get('token');
  if (given) {
    sessionStorage.setItem(KEY, given);
    address.searchParams.delete('token');
    history.replaceState(null, '', address.pathname);
  }
  return sessionStorage.getItem(KEY) ?? '';
}

const headers = { 'x-vilab-token': token() };

/** An answer of the server that says what went wrong. */
export class Failure extends Error {
  constructor(text, hint, status) {
    super(text);
    this.hint = hint;
    this.status = status;
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  } catch {
    throw new Failure('vilab view does not answer', 'It has ended, or the lab went down.', 0);
  }
  if (response.ok) return response;
  const text = await response.text();
  try {
    const { error, causes, hint } = JSON.parse(text);
    throw new Failure([error, ...causes].join(': '), hint, response.status);
  } catch (e) {
    throw e instanceof Failure ? e : new Failure(text.trim() || response.statusText, null, response.status);
  }
}

export async function get(path, query = {}) {
  const words = new URLSearchParams(query).toString();
  return (await ask(words ? `${path}?${words}` : path)).json();
}

export async function post(path, body) {
  const options = { method: 'POST', body: JSON.stringify(body), headers: { 'content-type': 'application/json' } };
  return (await ask(path, options)).json();
}

/** Server-sent events, whose own client cannot send a header. */
async function* messages(response) {
  let rest = '';
  for (const reader = response.body.pipeThrough(new TextDecoderStream()).getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split('\n\n');
    rest = blocks.pop();
    for (const block of blocks) {
      const field = (name) => block.split('\n').filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2)).join('\n');
      if (field('event')) yield { type: field('event'), data: field('data') };
    }
  }
}

/** Calls `told` with each message, and `connected` when there is a connection and when there is none, until the last message. */
export async function listen(told, connected) {
  for (;;) {
    try {
      const response = await ask('/api/live');
      connected(true);
      for await (const message of messages(response)) {
        told(message);
        if (message.type === 'end') return;
      }
    } catch (e) {
      if (e.status === 401) throw e;
    }
    connected(false);
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}
