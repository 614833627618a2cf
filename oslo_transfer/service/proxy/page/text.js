// SPDX-License-Identifier: Apache-2.0
// Values as people read them. What is none becomes a dash.

export const isNumber = Number.isFinite;
export const list = (value) => (Array.isArray(value) ? value : []);
export const object = (value) => Object(value);

/** Letters that would hide or reorder others become visible. */
export function plain(value) {
  return String(value ?? '').replace(
    /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu,
    (letter) => `\\u{${letter.codePointAt(0).toString(16)}}`,
  );
}

export function number(value) {
  return isNumber(value) ? value.toLocaleString('en') : '–';
}

export function bytes(value) {
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

export const rate = (value) => `${bytes(value)}/s`;

export function share(part, whole) {
  if (!isNumber(part) || !(whole > 0)) {
    return '–';
  }
  // Rounded down: all is only all.
  return `${Math.floor(100 * part / whole)} %`;
}

export function time(seconds) {
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
