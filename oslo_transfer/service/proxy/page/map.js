// SPDX-License-Identifier: Apache-2.0
// The map of an image: which of its blocks are here.

import {color, fill, prepare, put} from './elements.js';
import {bytes, list, number} from './text.js';

const MOST_RUNS = 100;
const STATES = ['hot', 'cached', 'flight', 'missing'];
const WORDS = {
  hot: 'hot', cached: 'cached', flight: 'in flight', missing: 'missing',
};
// Pixels.
const CELL = 9;
const LARGE_CELL = 16;
const ROWS = 12;

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
export function runsOf(map) {
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

export function listRuns(entry) {
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

export function showMap(entry) {
  if (entry.map) {
    draw(entry);
    describe(entry);
    listRuns(entry);
  }
}
