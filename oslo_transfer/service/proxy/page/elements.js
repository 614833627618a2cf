// SPDX-License-Identifier: Apache-2.0
// Elements of the page. What they are given only ever becomes text.

import {plain} from './text.js';

export const get = (id) => document.getElementById(id);

/** A text that stays the same is left alone: it may be selected. */
export function put(node, text) {
  if (node.textContent !== text) {
    node.textContent = text;
  }
}

export function fill(root, fields) {
  for (const [name, text] of Object.entries(fields)) {
    put(root.querySelector(`[data-field="${name}"]`), text);
  }
}

/** Show a text only where there is one. */
export function tell(node, text) {
  const wanted = plain(text);
  put(node, wanted);
  node.hidden = !wanted;
}

export const field = (root, name) => root.querySelector(`[data-field="${name}"]`);

/**
 * Have one element for each item, in their order, and know them by key; the
 * elements of others are told to leave.
 */
export function sync(parent, template, items, key, known, leave = () => {}) {
  const wanted = new Map(items.map((item) => [key(item), item]));
  for (const [name, entry] of known) {
    if (!wanted.has(name)) {
      leave(entry.root);
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

export const color = (name) => getComputedStyle(document.documentElement)
  .getPropertyValue(`--${name}`).trim();

/** Give a canvas a height, and the pixels that the screen has. */
export function prepare(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext('2d');
  context.scale(scale, scale);
  return context;
}
