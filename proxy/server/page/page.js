// The page. What comes from elsewhere is only ever text: paths are chosen by clients.

const MEANINGS = {
  "hit": "fresh, from the cache",
  "stale": "stale, validated behind",
  "stale-if-error": "stale, for the origin failed",
  "validated": "the origin confirmed it",
  "collapsed": "shared another's answer",
  "miss": "from the origin, may be stored",
  "pass": "from the origin, not the cache's",
  "bypass": "BYPASS is on",
  "tunnel": "upgraded connection",
  "local": "answered by Siding itself",
  "refused": "the client's fault",
  "origin-error": "the origin failed",
  "client-gone": "the client left",
  "cut": "Siding stopped before it was answered",
  "internal-error": "a fault of Siding's own",
};
const SILENT_SECONDS = 5;
const AGAIN_SECONDS = 3;
const TOKEN = "siding-admin-token";

const byId = (id) => document.getElementById(id);
const switches = [...document.querySelectorAll("[role=switch]")];
let past = [];
let heard = null;  // when the last snapshot came, by performance.now(), and by the clock
let settings = {};  // of the flags, here
let refused = "";  // why there is no stream

/** Set a text only where it differs, so that nothing is redrawn or read out for nothing. */
function put(id, text) {
  const element = typeof id === "string" ? byId(id) : id;
  if (element.textContent !== text) element.textContent = text;
}

function show(id, visible) { byId(id).hidden = !visible; }

function made(name, text, className) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

// -- charts

const SVG = "http://www.w3.org/2000/svg";

function draw(svg, values, least) {
  svg.setAttribute("viewBox", `0 0 ${KEPT} 36`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.replaceChildren(...lines(values, least).flatMap((piece) => {
    const line = document.createElementNS(SVG, "polyline");
    const points = piece.map((point) => point.join(",")).join(" ");
    line.setAttribute("points", points);
    const area = document.createElementNS(SVG, "path");
    area.setAttribute("d", `M${piece[0][0]},36 L${points} L${piece[piece.length - 1][0]},36 Z`);
    return [area, line];
  }));
}

// -- the numbers

function showNow(history) {
  const last = history[history.length - 1];
  const ten = span(history, 10), minute = span(history, 60);
  const rate = (between) => sum(growth(between.first.outcomes, between.last.outcomes)) / between.seconds;
  const hits = (between) => hitRate(growth(between.first.counts, between.last.counts));
  const failures = (between) => failed(growth(between.first.statuses, between.last.statuses));

  put("rate", ten ? `${rounded(rate(ten))} /s` : "–");
  put("rate-more", `${counted(last.levels.inFlight, "request")} in flight; ${counted(sum(last.outcomes), "request")} since start`);
  put("hit-rate", minute ? percent(hits(minute)) : "–");
  put("hit-more", `last minute; ${percent(hitRate(last.counts))} since start`);
  for (const [id, share] of [["p50", 0.5], ["p95", 0.95], ["p99", 0.99]]) put(id, minute ? seconds(latency(minute, share)) : "–");
  put("latency-more", `last minute, estimated from a histogram; the chart is p95`);
  const bad = minute ? failures(minute) : 0;
  const recent = minute ? sum(growth(minute.first.statuses, minute.last.statuses)) : 0;
  put("failures", minute ? percent(recent ? 100 * bad / recent : 0) : "–");
  put("failures-more", `5xx: ${rounded(bad)} in the last minute, ${rounded(failed(last.statuses))} since start; no answer from the origin: ${counted(last.counts.originErrors, "time")}`);
  draw(byId("rate-spark"), series(history, 2, rate), 1);
  draw(byId("hit-spark"), series(history, 10, hits), 100);
  draw(byId("latency-spark"), series(history, 10, (between) => latency(between, 0.95)), 0);
  draw(byId("failures-spark"), series(history, 2, (between) => failures(between) / between.seconds), 1);

  put("seconds-saved", seconds(last.counts.originSecondsSaved));
  const spared = minute ? last.counts.originSecondsSaved - minute.first.counts.originSecondsSaved : null;
  put("seconds-more", `since start; ${seconds(spared)} in the last minute`);
  put("bytes-saved", bytes(last.counts.bytesSavedNotModified + last.counts.bytesSavedCoding));
  put("bytes-more", `since start: ${bytes(last.counts.bytesSavedCoding)} by coding, ${bytes(last.counts.bytesSavedNotModified)} by 304`);
  put("stored", last.levels.storedResponses.toLocaleString("en"));
  put("stored-more", `${bytes(last.levels.storedBytes)} of ${bytes(last.levels.storedBytesLimit)}`);
  put("origin", `${last.levels.originInUse} in use`);
  put("origin-more", `${last.levels.originIdle} idle; ${counted(last.levels.originWaiting, "request")} waiting for one`);
}

const outcomeRows = new Map();

function outcomeRow(name) {
  const row = made("tr"), head = made("th", name);
  head.scope = "row";
  head.append(made("small", MEANINGS[name] || ""));
  const cells = [made("td", "", "number"), made("td", "", "number"), made("td", "", "number")];
  const chart = document.createElementNS(SVG, "svg");
  chart.setAttribute("class", "spark");
  chart.setAttribute("aria-hidden", "true");
  const last = made("td", undefined, "wide");
  last.append(chart);
  row.append(head, ...cells, last);
  outcomeRows.set(name, { row, cells, chart });
  const order = [...Object.keys(MEANINGS), ...outcomeRows.keys()];
  const sorted = [...outcomeRows.keys()].sort((a, b) => order.indexOf(a) - order.indexOf(b));
  byId("outcomes").tBodies[0].replaceChildren(...sorted.map((one) => outcomeRows.get(one).row));
}

function showOutcomes(history) {
  const last = history[history.length - 1];
  const ten = span(history, 10), minute = span(history, 60);
  const all = minute ? sum(growth(minute.first.outcomes, minute.last.outcomes)) : 0;
  const since = (between, name) => (between.last.outcomes[name] || 0) - (between.first.outcomes[name] || 0);
  for (const name of Object.keys(last.outcomes)) if (last.outcomes[name] && !outcomeRows.has(name)) outcomeRow(name);
  for (const [name, { cells, chart }] of outcomeRows) {
    put(cells[0], ten ? rounded(since(ten, name) / ten.seconds) : "–");
    put(cells[1], all ? percent(100 * since(minute, name) / all) : "–");
    put(cells[2], (last.outcomes[name] || 0).toLocaleString("en"));
    draw(chart, series(history, 2, (between) => since(between, name) / between.seconds), 1);
  }
  show("outcomes", outcomeRows.size > 0);
  show("no-outcomes", outcomeRows.size === 0);
}

let slowShown = "";

function showSlow(one) {
  const text = JSON.stringify(one.slow);
  if (text === slowShown) return;
  slowShown = text;
  byId("slow").tBodies[0].replaceChildren(...one.slow.map((request) => {
    const row = made("tr"), what = made("td");
    what.append(made("code", `${request.method} ${request.path}`), made("small", clock(request.at), "narrow"));
    const origin = request.originSeconds === null ? "origin not asked" : `origin ${seconds(request.originSeconds)}`;
    const rule = request.route === request.path ? "" : `rule: ${request.route === "other" ? "none" : request.route}; `;
    what.append(made("small", rule + origin));
    row.append(made("td", clock(request.at)), what, made("td", request.outcome),
      made("td", request.status ? String(request.status) : "none", "number"), made("td", seconds(request.seconds), "number"));
    return row;
  }));
  show("slow", one.slow.length > 0);
  show("no-slow", one.slow.length === 0);
}

// -- the monitor

function showMonitor(monitor) {
  const here = monitor.state === "here";
  const why = {
    off: "Not known here: POOL_MONITOR_URL is not set.",
    waiting: "Asking the pool monitor…",
    away: `Not known now: ${monitor.reason} at ${clock(monitor.at || 0)} (${monitor.url}).`,
  }[monitor.state];
  show("pool-figures", here && monitor.pool.state !== "off");
  show("grading-figures", here && Boolean(monitor.grading.estimated));
  byId("pool-verdict").classList.toggle("bad", here && !["healthy", "off"].includes(monitor.pool.state));
  put("pool-verdict", here ? sentence(monitor.pool.verdict) : why);
  put("pool-advice", here && monitor.pool.advice ? `What to do: ${monitor.pool.advice}.` : "");
  put("grading-words", here ? sentence(monitor.grading.inWords || "no figures yet") : why);
  put("monitor-flags-more", here
    ? `It has its own, which the proxy's switches do not change. To flip one: siding rollback --admin ${monitor.url} --set NAME=off, or PATCH ${monitor.url}/api/flags. To hand all back to its settings: --settings.`
    : why);
  const { pinned, settings, untold, ...flags } = here ? monitor.flags : {};
  const chips = byId("monitor-flags");
  const told = JSON.stringify([flags, pinned, untold]);
  if (chips.dataset.shown !== told) {
    chips.dataset.shown = told;
    chips.replaceChildren(...Object.entries(flags).map(([name, on]) => {
      const chip = made("li", `${name}: `);
      chip.append(made("b", on ? "on" : "off"), name in (pinned || {}) ? ", pinned" : "", name in (untold || {}) ? ", not told to others" : "");
      return chip;
    }));
  }
  if (!here) return;
  showPool(monitor.pool);
  if (monitor.grading.estimated) showGrading(monitor.grading);
}

function showPool(pool) {
  const meter = byId("pool-meter");
  meter.max = pool.maxConnections || 1;
  meter.high = 0.75 * meter.max;
  meter.optimum = 0;
  meter.value = pool.activeConnections;
  put("pool-active", `${pool.activeConnections} of ${pool.maxConnections}`);
  put("pool-waiting", String(pool.waitingCount));
  put("pool-idle", String(pool.idleCount));
  const wait = pool.waitMs || {};
  put("pool-wait", [wait.p50, wait.p95, wait.p99].map((number) => seconds((number || 0) / 1000)).join(", "));
  put("pool-timeouts", String(pool.timeoutsTotal || 0));
  const holder = (pool.holders || [])[0];
  put("pool-holder", holder ? `${holder.name}, ${seconds(holder.heldMs / 1000)}` : "none held");
}

function showGrading(grading) {
  const { input, output, dollars } = grading.estimated;
  const told = (one, form) => `${form(one.saved)} of ${form(one.before)} (${one.savedShare || "–"})`;
  const whole = (number) => number.toLocaleString("en");
  const money = (number) => `$${number.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: Math.abs(number) < 1 ? 4 : 2 })}`;
  put("grading-requests", whole(grading.requests));
  put("grading-never", whole(grading.neverAsked));
  put("grading-input", told(input, whole));
  put("grading-output", told(output, whole));
  put("grading-money", dollars ? told(dollars, money) : "prices of these models are not known");
  put("grading-reported", `${whole(grading.reported.input)} in, ${whole(grading.reported.output)} out`);
}

// -- flags

function showFlags(one) {
  for (const button of switches) {
    const on = one.flags[button.dataset.flag];
    if (button.getAttribute("aria-busy") === "true") continue;
    button.disabled = false;
    showSwitch(button, on);
  }
  show("bypass-banner", one.flags.BYPASS);
  put("switch-scope", one.flags.BYPASS
    ? "While BYPASS is on the other switches have no effect; they keep their places for when it is off."
    : `They take effect with the next request. ${one.shared ? "" : "They are this proxy's alone, and back to its settings after a restart."}`);
  put("d-ENABLE_REDIS_CACHE", one.shared
    ? "Off: the tier that replicas share is not used." : "No effect: REDIS_URL is not set, so there is no shared tier.");
  show("scope", one.shared);
  const listed = (pins) => Object.entries(pins || {}).map(([name, on]) =>
    `${name} ${on === null ? "as its setting says" : word(on)}${one.flags[name] === (on ?? one.settings[name]) ? "" : " (not here)"}`);
  const pins = listed(one.pinned);
  show("pinned-box", pins.length > 0 || one.pinned === null);
  put("pinned", one.pinned === null
    ? "Which are pinned in all replicas is not known: nothing has been heard from Redis yet."
    : `Pinned in all replicas, whatever their settings say: ${pins.join(", ")}. To hand one back: siding rollback --set NAME=setting.`);
  const untold = listed(one.untold);
  show("untold", untold.length > 0);
  put("untold", `Redis does not answer, so the other replicas are not told yet: ${untold.join(", ")}. If this proxy ends before it answers, that is lost.`);
  settings = one.settings;
}

const word = (on) => on ? "on" : "off";

/** Of a change that not all workers have said they make. */
const notAnswered = ({ workers, workersExpected }) => workersExpected ? ` But only ${workers} of ${workersExpected} workers answered.` : "";

async function handBack() {
  const differ = switches.map((button) => [button.dataset.flag, settings[button.dataset.flag], button.getAttribute("aria-checked") === "true"])
    .filter(([, setting, on]) => setting !== on).map(([name, setting]) => `${name} ${word(setting)}`);
  if (!await confirmed("Hand all flags back?",
    `In each replica they are from now on what its settings say, also after a restart. Here that changes: ${differ.join(", ") || "none"}.`, "Hand all back")) return;
  const all = Object.fromEntries(Object.keys(settings).map((name) => [name, null]));
  const answer = await change("PATCH", "/api/flags", { ...all, everywhere: true });
  if (!answer.ok) return result("flag-result", false, `Nothing was handed back: ${answer.reason}`);
  for (const button of switches) showSwitch(button, answer.document[button.dataset.flag]);
  result("flag-result", answer.document.everywhere && !answer.document.workersExpected,
    `All flags are what the settings say${notTold(answer.document) || " of each replica"}.${notAnswered(answer.document)}`);
}

/** Of a change everywhere: what is wrong with it, if anything. */
const notTold = (document) => document.everywhere === false
  ? " here alone: Redis does not answer. The other replicas hear of it once it does; if this proxy ends before, it is lost" : "";

function showSwitch(button, on) {
  button.setAttribute("aria-checked", String(on));
  put(button.querySelector(".word"), word(on));
}

async function flip(button) {
  const name = button.dataset.flag, on = button.getAttribute("aria-checked") !== "true";
  if (button.getAttribute("aria-busy") === "true") return;
  const everywhere = !byId("scope").hidden && byId("everywhere").checked;
  const where = everywhere ? " in all replicas" : "";
  if (name === "BYPASS" && on && !await confirmed("Switch BYPASS on?",
    `Every request${where} goes to the origin from now on, which has to bear all the load that the cache takes off it.`, "Switch BYPASS on")) return;
  button.setAttribute("aria-busy", "true");
  const answer = await change("PATCH", "/api/flags", { [name]: on, ...(everywhere ? { everywhere: true } : {}) });
  button.setAttribute("aria-busy", "false");
  if (answer.ok) {
    const now = answer.document;
    showSwitch(button, now[name]);
    result("flag-result", now.everywhere !== false && !now.workersExpected,
      `${name} is ${word(now[name])}${notTold(now) || where}.${notAnswered(now)}`);
  } else {
    result("flag-result", false, `${name} was not changed: ${answer.reason}`);
  }
}

// -- purging

function purgeKindChanged() {
  const kind = byId("purge-kind").value;
  show("purge-value-box", kind !== "all");
  byId("purge-value-box").querySelector("label").textContent = kind === "tag" ? "Tag" : "Path or URL";
  byId("purge-value").placeholder = { url: "/api/reports?page=1", prefix: "/api/", tag: "reports", all: "" }[kind];
}

async function purge() {
  const kind = byId("purge-kind").value, value = byId("purge-value").value.trim(), soft = byId("purge-soft").checked;
  if (kind !== "all" && !value) {
    result("purge-result", false, "Say what is to be purged.");
    byId("purge-value").focus();
    return;
  }
  if (kind === "all" && !await confirmed("Purge everything?",
    `${soft ? "Every stored response is made stale" : "Every stored response is gone"}, and the origin is asked for all of it again.`, "Purge everything")) return;
  const answer = await change("POST", "/api/purge", { [kind]: kind === "all" ? true : value, soft });
  if (!answer.ok) return result("purge-result", false, `Nothing was purged: ${answer.reason}`);
  const what = { url: value, prefix: `What begins with ${value}`, tag: `What is tagged ${value}`, all: "Everything" }[kind];
  const part = (notAnswered(answer.document) && `${notAnswered(answer.document)} Purge again.`)
    + (answer.document.everywhere === false ? " But Redis does not answer: the other replicas purge it once it does, and not if this proxy ends before." : "");
  result("purge-result", !part, `${what} ${soft ? "is made stale" : "is purged"} (${clock(Date.now() / 1000)}).${part}`);
}

// -- changing something

function result(id, good, text) {
  byId(id).classList.toggle("bad", !good);
  // emptied first, so that the same words are read out again
  byId(id).textContent = "";
  setTimeout(() => put(id, text), 50);
}

function keptToken() {
  try { return sessionStorage.getItem(TOKEN); } catch { return null; }
}

function keepToken(token) {
  try {
    if (token === null) sessionStorage.removeItem(TOKEN); else sessionStorage.setItem(TOKEN, token);
  } catch { /* without storage it is asked for each time */ }
  show("forget", token !== null);
}

/** A changing call: {ok, document} or {ok: false, reason}. Asks for the token where it is needed. */
async function change(method, path, content) {
  let token = keptToken(), wrong = "";
  for (;;) {
    const headers = { "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    let answer, told;
    try {
      answer = await fetch(path, { method, headers, body: JSON.stringify(content), credentials: "omit", cache: "no-store", signal: AbortSignal.timeout(15000) });
      told = await answer.json();
    } catch {
      return { ok: false, reason: "the proxy did not answer. It may have been changed all the same." };
    }
    if (answer.ok) {
      if (token) keepToken(token);
      return { ok: true, document: told };
    }
    if (answer.status !== 401) return { ok: false, reason: told.error ? told.error.message : `status ${answer.status}` };
    if (token) { keepToken(null); wrong = "That is not the token."; }
    token = await askedToken(wrong);
    if (token === null) return { ok: false, reason: "no token was given." };
  }
}

/** Show a dialog until one of its ways out is taken; Escape counts as `otherwise`. */
function shown(dialog, otherwise, ways) {
  const before = document.activeElement;
  return new Promise((resolve) => {
    const over = new AbortController();
    const leave = (value) => { over.abort(); dialog.close(); if (before) before.focus(); resolve(value); };
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); leave(otherwise); }, { signal: over.signal });
    for (const [element, kind, value] of ways) {
      element.addEventListener(kind, (event) => { event.preventDefault(); leave(value()); }, { signal: over.signal });
    }
    dialog.showModal();
  });
}

function confirmed(title, text, yes) {
  put("confirm-title", title);
  put("confirm-text", text);
  put("confirm-yes", yes);
  return shown(byId("confirm"), false, [[byId("confirm-no"), "click", () => false], [byId("confirm-yes"), "click", () => true]]);
}

function askedToken(wrong) {
  put("token-wrong", wrong);
  byId("token").value = "";
  const asked = shown(byId("ask-token"), null, [
    [byId("token-no"), "click", () => null],
    [byId("token-form"), "submit", () => { const given = byId("token").value.trim(); byId("token").value = ""; return given; }],
  ]);
  byId("token").focus();
  return asked;
}

// -- the stream

function take(one) {
  past = withSnapshot(past, one);
  heard = { at: performance.now(), clock: Date.now() / 1000 };
  showLink();
  put("about", `Siding ${one.version} at ${location.host}, ${one.workers === 1 ? "one worker" : `${one.instances.length} of ${one.workers} workers answer`}`);
  show("ready-banner", !one.ready);
  put("ready-banner", one.ready ? "" : `Not ready: ${one.readyReason}.`);
  showFlags(one);
  showNow(past);
  showOutcomes(past);
  showSlow(one);
  showMonitor(one.monitor);
}

function showLink() {
  const silent = heard === null || performance.now() - heard.at > SILENT_SECONDS * 1000;
  const link = byId("link");
  link.classList.toggle("live", !silent);
  link.classList.toggle("lost", silent && (heard !== null || refused !== ""));
  document.querySelector("main").classList.toggle("stale", silent && heard !== null);
  if (!silent) return put(link, "Live");
  if (heard !== null) put("switch-scope", `Not known now: this is how they were at ${clock(heard.clock)}.`);
  const why = refused ? ` (${refused})` : "";
  if (heard !== null) put(link, `No data since ${clock(heard.clock)}${why}; trying again`);
  else if (refused) put(link, `No data${why}; trying again`);
}

function listen() {
  const source = new EventSource("/api/live");
  source.onmessage = (event) => { refused = ""; take(JSON.parse(event.data)); };
  source.onerror = async () => {
    // a browser tries again by itself, unless it was refused
    if (source.readyState !== EventSource.CLOSED) return;
    await poll();
    setTimeout(listen, AGAIN_SECONDS * 1000);
  };
}

/** One snapshot without the stream, or why there is none. */
async function poll() {
  try {
    const answer = await fetch("/api/live", { headers: { Accept: "application/json" }, cache: "no-store", signal: AbortSignal.timeout(10000) });
    const told = await answer.json();
    refused = answer.ok ? "" : told.error.message;
    if (answer.ok) take(told);
  } catch { /* not there at all, which shows */ }
  showLink();
}

for (const button of switches) button.addEventListener("click", () => flip(button));
byId("hand-back").addEventListener("click", handBack);
byId("purge-form").addEventListener("submit", (event) => { event.preventDefault(); purge(); });
byId("purge-kind").addEventListener("change", purgeKindChanged);
byId("forget").addEventListener("click", () => { keepToken(null); byId("purge-kind").focus(); });
show("forget", keptToken() !== null);
purgeKindChanged();
setInterval(showLink, 1000);
listen();
