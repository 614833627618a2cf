// SPDX-License-Identifier: Apache-2.0
// Shows what the control API of the proxy says, and changes nothing there.
// What the API says may come from an origin, so it only ever becomes text.
'use strict';

(() => {
  // Milliseconds: between two rounds, after failures at most, for an answer.
  const PERIOD = 2000;
  const LONGEST = 30000;
  const PATIENCE = 10000;
  // A map may take this part of the time, however large it is.
  const SHARE = 0.1;
  const MOST_IMAGES = 200;
  const MOST_JOBS = 100;
  const MOST_RUNS = 100;
  // Rounds that the rates are shown of, once there were so many.
  const HISTORY = 150;
  const SHORTEST = 30;
  const STATES = ['hot', 'cached', 'flight', 'missing'];
  const WORDS = {
    hot: 'hot', cached: 'cached', flight: 'in flight', missing: 'missing',
  };
  // Pixels.
  const CELL = 9;
  const LARGE_CELL = 16;
  const ROWS = 12;
  const CHART_HEIGHT = 70;

  const get = (id) => document.getElementById(id);
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

  // Text

  const isNumber = Number.isFinite;
  const list = (value) => (Array.isArray(value) ? value : []);
  const object = (value) => Object(value);

  /** Letters that would hide or reorder others become visible. */
  function plain(value) {
    return String(value ?? '').replace(
      /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu,
      (letter) => `\\u{${letter.codePointAt(0).toString(16)}}`,
    );
  }

  function number(value) {
    return isNumber(value) ? value.toLocaleString('en') : '–';
  }

  function bytes(value) {
    if (!isNumber(value)) {
      return '–';
    }
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
    let index = 0;
    let amount = value;
    // What would be shown as 1,024 is 1 of the next unit.
    while (Math.abs(amount) >= 1023.5 && index < units.length - 1) {
      amount /= 1024;
      index += 1;
    }
    const text = amount.toLocaleString('en', {
      maximumSignificantDigits: Math.abs(amount) < 999.5 ? 3 : 4,
    });
    return `${text} ${units[index]}`;
  }

  const rate = (value) => `${bytes(value)}/s`;

  function share(part, whole) {
    if (!isNumber(part) || !(whole > 0)) {
      return '–';
    }
    // Rounded down: all is only all.
    return `${Math.floor(100 * part / whole)} %`;
  }

  function time(seconds) {
    if (!isNumber(seconds)) {
      return '–';
    }
    const whole = Math.max(0, Math.floor(seconds));
    for (const [size, name] of [[86400, 'd'], [3600, 'h'], [60, 'min']]) {
      if (whole >= 2 * size) {
        return `${Math.floor(whole / size)} ${name}`;
      }
    }
    return `${whole} s`;
  }

  function ago(moment) {
    const now = (Date.now() + ahead) / 1000;
    return isNumber(moment) ? `${time(now - moment)} ago` : '–';
  }

  // Elements

  /** A text that stays the same is left alone: it may be selected. */
  function put(node, text) {
    if (node.textContent !== text) {
      node.textContent = text;
    }
  }

  function fill(root, fields) {
    for (const [name, text] of Object.entries(fields)) {
      put(root.querySelector(`[data-field="${name}"]`), text);
    }
  }

  /** Show a text only where there is one. */
  function tell(node, text) {
    const wanted = plain(text);
    put(node, wanted);
    node.hidden = !wanted;
  }

  const field = (root, name) => root.querySelector(`[data-field="${name}"]`);

  /** Have one element for each item, in their order, and know them by key. */
  function sync(parent, template, items, key, known) {
    const wanted = new Map(items.map((item) => [key(item), item]));
    for (const [name, entry] of known) {
      if (!wanted.has(name)) {
        seen.unobserve(entry.root);
        entry.root.remove();
        known.delete(name);
      }
    }
    let place = parent.firstElementChild;
    for (const [name, item] of wanted) {
      let entry = known.get(name);
      if (!entry) {
        const copy = get(template).content.cloneNode(true);
        entry = {root: copy.firstElementChild};
        known.set(name, entry);
      }
      entry.item = item;
      // What is where it should be is not moved: it may have the focus.
      if (entry.root === place) {
        place = place.nextElementSibling;
      } else {
        parent.insertBefore(entry.root, place);
      }
    }
  }

  const color = (name) => getComputedStyle(document.documentElement)
    .getPropertyValue(`--${name}`).trim();

  /** Give a canvas a height, and the pixels that the screen has. */
  function prepare(canvas, width, height) {
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const context = canvas.getContext('2d');
    context.scale(scale, scale);
    return context;
  }

  // The map of an image

  /** How many blocks of each state there are in each cell. */
  function divide(runs, count, per) {
    const cells = Array.from({length: count}, () => ({}));
    let block = 0;
    for (const [state, length] of runs) {
      let rest = length;
      while (rest > 0 && block < count * per) {
        const part = Math.min(rest, per - block % per);
        const cell = cells[Math.floor(block / per)];
        cell[state] = (cell[state] || 0) + part;
        block += part;
        rest -= part;
      }
    }
    return cells;
  }

  /** What the API says, with nothing in it that makes no sense. */
  function runsOf(map) {
    const runs = [];
    let left = map.blocks;
    for (const run of list(map.runs)) {
      const [state, said] = list(run);
      const length = Math.min(left, Math.floor(said));
      if (length > 0) {
        runs.push([STATES.includes(state) ? state : 'missing', length]);
        left -= length;
      }
    }
    if (left > 0) {
      runs.push(['missing', left]);
    }
    return runs;
  }

  function draw(entry) {
    const canvas = entry.root.querySelector('canvas');
    const width = canvas.clientWidth;
    const {blocks, block_bytes: size} = entry.map;
    if (!width) {
      return;
    }
    const large = blocks <= Math.floor(width / LARGE_CELL) * ROWS / 2;
    const side = large ? LARGE_CELL : CELL;
    const columns = Math.max(1, Math.floor(width / side));
    const per = Math.ceil(blocks / (columns * ROWS));
    const count = Math.ceil(blocks / per);
    const height = Math.ceil(count / columns) * side;
    const context = prepare(canvas, width, height);
    const colors = Object.fromEntries(STATES.map((s) => [s, color(s)]));
    divide(entry.runs, count, per).forEach((cell, index) => {
      const x = index % columns * side;
      let bottom = Math.floor(index / columns) * side + side - 1;
      const all = Object.values(cell).reduce((a, b) => a + b, 0) || 1;
      context.fillStyle = colors.missing;
      context.fillRect(x, bottom - side + 1, side - 1, side - 1);
      for (const state of ['hot', 'cached', 'flight']) {
        if (cell[state]) {
          // Even one of a million shows.
          const tall = Math.max(1, (side - 1) * cell[state] / all);
          context.fillStyle = colors[state];
          context.fillRect(x, bottom - tall, side - 1, tall);
          bottom -= tall;
        }
      }
    });
    fill(entry.root, {
      scale: `a square is ${number(per)} ${per === 1 ? 'block' : 'blocks'}, `
        + bytes(per * size),
    });
  }

  /** The same as text. */
  function describe(entry) {
    const counts = Object.fromEntries(STATES.map((s) => [s, 0]));
    for (const [state, length] of entry.runs) {
      counts[state] += length;
    }
    fill(entry.root, Object.fromEntries(
      STATES.map((state) => [state, number(counts[state])]),
    ));
    entry.root.querySelector('canvas').setAttribute(
      'aria-label',
      `Map of ${number(entry.map.blocks)} blocks: `
        + STATES.map((s) => `${number(counts[s])} ${WORDS[s]}`).join(', '),
    );
  }

  function listRuns(entry) {
    const details = entry.root.querySelector('details');
    if (!details.open || !entry.runs) {
      return;
    }
    const size = entry.map.block_bytes;
    const lines = [];
    let block = 0;
    for (const [state, length] of entry.runs) {
      if (lines.length === MOST_RUNS) {
        lines.push(`and ${number(entry.runs.length - MOST_RUNS)} more`);
        break;
      }
      const end = Math.min((block + length) * size, entry.item.size);
      lines.push(`${bytes(block * size)} – ${bytes(end)}: ${WORDS[state]}`);
      block += length;
    }
    const wanted = details.querySelector('ol');
    while (wanted.children.length > lines.length) {
      wanted.lastElementChild.remove();
    }
    lines.forEach((line, index) => {
      put(wanted.children[index]
        || wanted.appendChild(document.createElement('li')), line);
    });
  }

  function showMap(entry) {
    if (entry.map) {
      draw(entry);
      describe(entry);
      listRuns(entry);
    }
  }

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
    sync(get('images'), 'image-template', shown, (i) => i.id, images);
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
})();
