"use strict";
// Figures from snapshots; nothing here touches the page. A snapshot is an event of /api/live: counts that only grow.

const KEPT = 180;  // snapshots: three minutes

/** Snapshots with one more. Counts of other workers than before cannot be compared: then it begins anew. */
function withSnapshot(history, one) {
  const last = history[history.length - 1];
  const goesOn = last && one.at > last.at && String(last.instances) === String(one.instances);
  return goesOn ? [...history.slice(1 - KEPT), one] : [one];
}

/** The first and the last of so many seconds up to the one at `end`; null while there is but one. */
function span(history, seconds, end = history.length - 1) {
  const last = history[end];
  let i = end;
  // half a second more, for snapshots do not come to the millisecond
  while (i > 0 && history[i - 1].at >= last.at - seconds - 0.5) i--;
  return i < end ? { first: history[i], last, seconds: last.at - history[i].at } : null;
}

function sum(numbers) { return Object.values(numbers).reduce((total, number) => total + number, 0); }

/** What came about between two snapshots, by name. */
function growth(first, last) {
  return Object.fromEntries(Object.entries(last).map(([name, number]) => [name, number - (first[name] || 0)]));
}

/** The duration that a share of the requests did not exceed, estimated as Prometheus does; null where there is none. */
function quantile(bounds, buckets, share) {
  const all = sum(buckets);
  if (!(all > 0)) return null;
  let before = 0;
  for (let i = 0; i < bounds.length; i++) {
    if (before + buckets[i] >= share * all && buckets[i] > 0) {
      const lower = i ? bounds[i - 1] : 0;
      return lower + (bounds[i] - lower) * (share * all - before) / buckets[i];
    }
    before += buckets[i];
  }
  return bounds[bounds.length - 1];
}

/** Between two snapshots; no longer than the slowest request of late, which is known to the millisecond. */
function latency({ first, last }, share) {
  const found = quantile(last.bounds, last.buckets.map((number, i) => number - first.buckets[i]), share);
  const longest = last.slow.length ? last.slow[0].seconds : last.slowSeconds;
  return found === null ? null : Math.min(found, longest);
}

/** A figure over a sliding window of so many seconds, for each snapshot; null where there is none. */
function series(history, seconds, figure) {
  return history.map((_, i) => {
    const between = span(history, seconds, i);
    return between && figure(between);
  });
}

/** Hits among hits and misses, in percent; null while there is neither. */
function hitRate(counts) {
  const all = counts.hits + counts.misses;
  return all > 0 ? 100 * counts.hits / all : null;
}

/** Answers with 5xx. */
function failed(statuses) { return statuses["5xx"] || 0; }

// -- in words

function rounded(number) {
  const digits = number >= 100 || Number.isInteger(number) ? 0 : number >= 10 ? 1 : 2;
  return number.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function sentence(text) { return `${String(text).charAt(0).toUpperCase()}${String(text).slice(1)}.`; }

function counted(number, word) { return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`; }

function seconds(number) {
  if (number === null) return "–";
  if (number < 1) return `${rounded(Math.round(number * 1e5) / 100)} ms`;
  if (number < 120) return `${rounded(number)} s`;
  if (number < 7200) return `${rounded(number / 60)} min`;
  return `${rounded(number / 3600)} h`;
}

function bytes(number) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (number >= 1024 && i < units.length - 1) { number /= 1024; i++; }
  return `${rounded(number)} ${units[i]}`;
}

function percent(number) { return number === null ? "–" : `${number.toFixed(number < 100 && number >= 99.95 ? 2 : 1)} %`; }

function clock(at) { return new Date(at * 1000).toLocaleTimeString("en-GB"); }

// -- a chart

/** Lines of a chart of 180 by 36: pieces between gaps, each a list of points. least -- what the top stands for at least. */
function lines(values, least) {
  const top = Math.max(least, ...values.filter((value) => value !== null)) || 1;
  const pieces = [[]];
  values.forEach((value, i) => {
    if (value === null) { pieces.push([]); return; }
    const x = KEPT - values.length + i + 1;
    pieces[pieces.length - 1].push([x, 34.5 - 33 * value / top]);
  });
  return pieces.filter((piece) => piece.length > 1).map((piece) => piece.map(([x, y]) => [x, Math.round(y * 10) / 10]));
}
