// SPDX-License-Identifier: Apache-2.0
// Shows what the control API of the proxy says, and changes nothing there.
// What the API says may come from an origin, so it only ever becomes text.

import {
  color, field, fill, get, prepare, put, sync, tell,
} from './elements.js';
import {listRuns, runsOf, showMap} from './map.js';
import {
  bytes, isNumber, list, number, object, plain, rate, share, time,
} from './text.js';

// Milliseconds: between two rounds, after failures at most, for an answer.
const PERIOD = 2000;
const LONGEST = 30000;
const PATIENCE = 10000;
// A map may take this part of the time, however large it is.
const SHARE = 0.1;
const MOST_IMAGES = 200;
const MOST_JOBS = 100;
// Rounds that the rates are shown of, once there were so many.
const HISTORY = 150;
const SHORTEST = 30;
// Pixels.
const CHART_HEIGHT = 70;

const content = get('content');
let token = '';
let timer = 0;
let pause = PERIOD;
let paused = false;
let busy = false;
// The proxy's clock minus ours.
let ahead = 0;
let answered = 0;
const history = [];

function ago(moment) {
  const now = (Date.now() + ahead) / 1000;
  return isNumber(moment) ? `${time(now - moment)} ago` : '–';
}

// The maps of images

/** Ask for a map again, not too often where it is large. */
async function refresh(entry) {
  const {id} = entry.item;
  const start = performance.now();
  if (!(typeof id === 'string' && /^[0-9a-z]+$/i.test(id))
      || start < entry.due) {
    return;
  }
  let map;
  try {
    map = object(await ask(`proxy/maps/${id}`));
  } catch (exc) {
    if (exc instanceof Missing) {
      return;  // It was evicted meanwhile.
    }
    throw exc;
  }
  if (!(Number.isSafeInteger(map.blocks) && map.blocks > 0)) {
    return;
  }
  entry.map = map;
  entry.runs = runsOf(map);
  showMap(entry);
  const end = performance.now();
  entry.due = end + (end - start) / SHARE - PERIOD;
}

// Only those on the screen have a map.
const images = new Map();
const seen = new IntersectionObserver((changes) => {
  const byRoot = new Map([...images.values()].map((e) => [e.root, e]));
  for (const change of changes) {
    const entry = byRoot.get(change.target);
    if (entry) {
      const appears = change.isIntersecting && !entry.visible;
      entry.visible = change.isIntersecting;
      if (appears) {
        refresh(entry).catch(() => {});  // The next round tells.
      }
    }
  }
});

// What is shown

function showTotals(proxy) {
  const totals = object(proxy.totals);
  const rates = object(proxy.rates);
  const store = object(proxy.store);
  const known = totals.hits + totals.misses;
  put(get('datacenter'), plain(proxy.datacenter));
  document.title = `Proxy ${plain(proxy.datacenter)}`.trim();
  put(get('about'), `oslo.transfer ${plain(proxy.version)}, up for `
    + time(proxy.uptime_seconds));
  tell(get('problem'), proxy.problem);
  const limit = store.bytes_limit
    ? `of ${bytes(store.bytes_limit)}` : 'without a limit';
  fill(get('totals'), {
    saved: bytes(totals.bytes_saved),
    'saved-note': 'served, and not fetched again',
    hits: share(totals.hits, known),
    'hits-note': `${number(totals.hits)} hits, `
      + `${number(totals.misses)} misses`,
    out: rate(rates.out),
    'out-note': `${bytes(totals.bytes_served)} served`,
    in: rate(rates.in),
    'in-note': `${bytes(totals.bytes_fetched)} fetched`,
    connections: number(totals.connections),
    'connections-note': `${number(totals.requests)} requests, `
      + `${number(totals.refused)} refused`,
    disk: bytes(store.bytes_used),
    'disk-note': store.keeps === 0 ? 'nothing can be kept' : limit,
  });
  history.push([Number(rates.out) || 0, Number(rates.in) || 0]);
  history.splice(0, history.length - HISTORY);
  showRates();
}

function showRates() {
  const canvas = get('rates');
  const width = canvas.clientWidth;
  if (!width || !history.length) {
    return;
  }
  const most = [0, 1].map((i) => Math.max(...history.map((r) => r[i])));
  const top = Math.max(...most, 1);
  const context = prepare(canvas, width, CHART_HEIGHT);
  context.fillStyle = color('card');
  context.fillRect(0, 0, width, CHART_HEIGHT);
  context.lineWidth = 2;
  ['cached', 'hot'].forEach((name, index) => {
    context.strokeStyle = color(name);
    // They differ by more than their colour.
    context.setLineDash(index ? [6, 3] : []);
    context.beginPath();
    history.forEach((rates, step) => {
      const x = step * width / (Math.max(history.length, SHORTEST) - 1);
      const y = CHART_HEIGHT - 2 - (CHART_HEIGHT - 4) * rates[index] / top;
      context.lineTo(x, y);
    });
    context.stroke();
  });
  const text = `Since the page was opened, ${HISTORY * PERIOD / 60000} `
    + `minutes at most: up to ${rate(most[0])} to clients, up to `
    + `${rate(most[1])} from origins (dashed)`;
  put(get('rates-text'), text);
  canvas.setAttribute('aria-label', text);
}

let said = [];

function showImages() {
  const wanted = get('filter').value.toLowerCase();
  const found = said
    .filter((i) => plain(i.origin).toLowerCase().includes(wanted))
    .sort((a, b) => (plain(a.origin) < plain(b.origin) ? -1 : 1));
  const shown = found.slice(0, MOST_IMAGES);
  const some = shown.length < said.length ? `${number(shown.length)} of ` : '';
  put(get('count'), `${some}${number(said.length)} `
    + (said.length === 1 ? 'image' : 'images'));
  sync(
    get('images'), 'image-template', shown, (i) => i.id, images,
    (root) => seen.unobserve(root),
  );
  for (const entry of images.values()) {
    if (!entry.watched) {
      entry.watched = true;
      seen.observe(entry.root);
      entry.root.querySelector('details').addEventListener(
        'toggle', () => listRuns(entry),
      );
    }
    showImage(entry.root, entry.item);
  }
}

function showImage(root, image) {
  const rates = object(image.rates);
  fill(root, {
    origin: plain(image.origin),
    size: bytes(image.size),
    here: bytes(image.bytes_here),
    'here-note': share(image.bytes_here, image.size),
    saved: bytes(image.bytes_saved),
    out: rate(rates.out),
    'out-note': `${bytes(image.bytes_served)} served`,
    in: rate(rates.in),
    'in-note': `${bytes(image.bytes_fetched)} fetched`,
    hits: share(image.hits, image.hits + image.misses),
    'hits-note': `${number(image.hits)} of `
      + number(image.hits + image.misses),
    readers: number(image.readers),
    used: ago(image.used),
  });
  field(root, 'pinned').hidden = !image.pinned;
  tell(field(root, 'problem'), image.problem);
}

const jobs = new Map();
const RANKS = ['running', 'waiting', 'failed'];

function showJobs(all) {
  const rank = (job) => (RANKS.indexOf(job.state) + 1) || RANKS.length + 1;
  const shown = all.sort((a, b) => rank(a) - rank(b)).slice(0, MOST_JOBS);
  get('no-jobs').hidden = shown.length > 0;
  get('jobs-table').hidden = !shown.length;
  sync(get('jobs'), 'job-template', shown, (j) => j.id, jobs);
  for (const {root, item} of jobs.values()) {
    const known = item.bytes_wanted > 0 && isNumber(item.bytes_here);
    const bar = root.querySelector('progress');
    bar.value = known ? Math.min(1, item.bytes_here / item.bytes_wanted) : 0;
    fill(root, {
      origin: plain(item.origin),
      kind: plain(item.kind),
      state: plain(item.state),
      here: known ? `${share(item.bytes_here, item.bytes_wanted)} of `
        + bytes(item.bytes_wanted) : bytes(item.bytes_here),
      seconds: time(item.seconds),
    });
    tell(field(root, 'problem'), item.problem);
  }
}

const origins = new Map();

function showOrigins(all) {
  get('no-origins').hidden = all.length > 0;
  get('origins-table').hidden = !all.length;
  sync(get('origins'), 'origin-template', all, (o) => o.origin, origins);
  for (const {root, item} of origins.values()) {
    fill(root, {
      origin: plain(item.origin),
      fetched: bytes(item.bytes_fetched),
      requests: number(item.requests),
      failures: number(item.failures),
    });
    tell(field(root, 'problem'), item.problem);
  }
}

// Asking

class Refused extends Error {}
class Missing extends Error {}

async function ask(path) {
  const headers = {Accept: 'application/json'};
  if (token) {
    headers.Authorization = `Bearer ${token}`;
  }
  const answer = await fetch(`v1/${path}`, {
    headers,
    cache: 'no-store',
    redirect: 'error',
    referrerPolicy: 'no-referrer',
    signal: AbortSignal.timeout(PATIENCE),
  });
  if (!answer.ok) {
    const said = object(await answer.json().catch(() => null));
    const text = plain(said.message) || `it says ${answer.status}`;
    const kinds = {401: Refused, 403: Refused, 404: Missing};
    throw new (kinds[answer.status] || Error)(text);
  }
  const date = Date.parse(answer.headers.get('Date'));
  ahead = isNumber(date) ? date - Date.now() : 0;
  return answer.json();
}

/** Ask for all, and show it. */
async function round() {
  const [proxy, cached, prefetches] = await Promise.all(
    ['proxy', 'proxy/images', 'proxy/prefetches'].map(ask),
  );
  get('ask').hidden = true;
  get('forget').hidden = !token;
  content.hidden = false;
  showTotals(object(proxy));
  showJobs(list(object(prefetches).prefetches).map(object));
  said = list(object(cached).images).map(object);
  showImages();
  showOrigins(list(object(proxy).origins).map(object));
  for (const entry of [...images.values()]) {
    if (entry.visible) {
      await refresh(entry);
    }
  }
}

function askWho(why) {
  content.hidden = true;
  get('ask').hidden = false;
  put(get('why'), why);
  put(get('state'), token ? 'The token was refused' : 'A token is needed');
  token = '';
  get('forget').hidden = true;
  get('token').value = '';
  get('token').focus();
}

async function go() {
  clearTimeout(timer);
  if (busy) {
    return;
  }
  busy = true;
  try {
    await round();
    answered = Date.now();
    pause = PERIOD;
    put(get('state'), paused ? 'Paused' : 'Up to date');
  } catch (exc) {
    if (exc instanceof Refused) {
      askWho(exc.message);
      return;
    }
    pause = Math.min(2 * pause, LONGEST);
    const old = answered
      ? `; this is from ${time((Date.now() - answered) / 1000)} ago` : '';
    put(get('state'), `No answer: ${exc.message}${old}`);
  } finally {
    busy = false;
  }
  if (!paused && !document.hidden) {
    timer = setTimeout(go, pause);
  }
}

// What people do

get('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  const given = get('token').value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) {
    put(get('why'), 'A token has only letters, digits and signs of ASCII.');
    return;
  }
  token = given;
  get('token').value = '';
  go();
});
get('forget').addEventListener('click', () => location.reload());
get('pause').addEventListener('click', () => {
  paused = !paused;
  get('pause').setAttribute('aria-pressed', String(paused));
  clearTimeout(timer);
  if (paused) {
    put(get('state'), 'Paused');
  } else {
    go();
  }
});
get('filter').addEventListener('input', showImages);
document.addEventListener('visibilitychange', () => {
  clearTimeout(timer);
  if (!document.hidden && !paused && get('ask').hidden) {
    go();
  }
});

function redraw() {
  showRates();
  for (const entry of images.values()) {
    if (entry.visible) {
      showMap(entry);
    }
  }
}
matchMedia('(prefers-color-scheme: dark)')
  .addEventListener('change', redraw);
window.addEventListener('resize', redraw);

go();
