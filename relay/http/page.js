// What the page does with each snapshot. Text is only ever written as text.

const get = (id) => document.getElementById(id);
const SILENT_AFTER = 4, ASK_AGAIN_AFTER = 3000;
const SIGNS = {
  healthy: "M6 26L19 39 42 11", degraded: "M24 5L45 42H3zM24 19v10M24 35v.5",
  outage: "M10 10L38 38M38 10L10 38", starting: "M24 5a19 19 0 1 1-.1 0zM24 14v10l7 5", unknown: "M15 17a9 9 0 1 1 12 9q-3 1-3 5M24 39v.5",
};
const COLOURS = { healthy: "#2a9d52", degraded: "#d98e04", outage: "#d9303e" };
const CHECKS = { postgres: "Postgres", schema: "Schema", lease: "Lease", nats: "NATS", lag: "Lag" };
let token = null, latest = null, newsAt = 0, source = null;

// What can't be seen, or turns the direction of reading, is written out.
const plain = (text) => String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (mark) => `\\u{${mark.codePointAt(0).toString(16)}}`);

function setText(element, text) {
  const shown = plain(text);
  if (element.textContent !== shown) element.textContent = shown;
}

function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

// Rows are kept and only their text changes, so that a focus or a selection stays where it is.
function fill(list, items, make, write) {
  const kept = new Map([...list.children].map((child) => [child.key, child]));
  items.forEach((item, place) => {
    const child = kept.get(item.key) ?? Object.assign(make(item), { key: item.key });
    kept.delete(item.key);
    write(child, item);
    if (list.children[place] !== child) list.insertBefore(child, list.children[place] ?? null);
  });
  const focused = [...kept.values()].some((child) => child.contains(document.activeElement));
  for (const child of kept.values()) child.remove();
  return focused;
}

function fillLines(list, lines) {
  const make = () => {
    const line = document.createElement("li");
    line.append(document.createElement("b"), " ", document.createElement("span"));
    return line;
  };
  fill(list, lines, make, (line, item) => {
    setAttribute(line, "data-ok", item.ok ?? "");
    setText(line.children[0], item.name);
    setText(line.children[1], item.text);
  });
}

function makeRow(columns) {
  const row = document.createElement("tr");
  row.setAttribute("role", "row");
  for (const [name, kind] of columns) {
    const cell = row.insertCell();
    cell.setAttribute("role", "cell");
    if (name) cell.setAttribute("data-name", name);
    if (kind) cell.className = kind;
  }
  return row;
}

function showSummary(level, headline, reasons) {
  setAttribute(get("summary"), "data-level", level);
  setAttribute(get("sign"), "d", SIGNS[level] ?? SIGNS.unknown);
  setText(get("headline"), headline);
  const lines = reasons.map((text, place) => ({ key: place, text }));
  fill(get("reasons"), lines, () => document.createElement("li"), (line, item) => setText(line, item.text));
  const mark = { outage: "✕ ", degraded: "! ", unknown: "? " }[level] ?? "";
  document.title = `${mark}${headline} · relay`;
  const dot = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="${COLOURS[level] ?? "#808890"}"/></svg>`;
  setAttribute(get("icon"), "href", `data:image/svg+xml,${encodeURIComponent(dot)}`);
}

function showFigures(figures) {
  for (const name of ["waiting", "parked", "dead", "delivered", "duplicates", "retries"]) {
    setText(get(name), figures[name] === null ? "–" : numbers.format(figures[name]));
  }
  setAttribute(get("dead"), "data-bad", figures.dead ? "yes" : "no");
}

function showCharts(state) {
  if (!Past.points.length) return;
  const point = state.point;
  const now = { rate: point[RATE], lag: state.figures.lag, latency: point[LATENCY] };
  for (const figure of document.querySelectorAll("[data-series]")) draw(figure, figure.dataset.series, now[figure.dataset.series]);
  if (get("as-table").open) tabulate(get("as-table").querySelector("tbody"));
}

const since = (instant) => inWhole(latest.at - Date.parse(instant) / 1000);

function showRelays(relays) {
  setText(get("who"), relays.this ? `· ${relays.this}` : "");
  const lines = [];
  if (relays.leader) {
    const lasts = relays.since ? `, for ${since(relays.since)}` : "";
    lines.push({ key: "leader", ok: "yes", name: relays.leads ? "This relay leads" : "Leader", text: `${relays.leader}, epoch ${relays.epoch}${lasts}` });
  } else {
    lines.push({ key: "leader", name: "Leader", text: relays.standbys === null ? "not known yet" : "none at this moment" });
  }
  for (const each of relays.standbys ?? []) {
    lines.push({ key: each.pid, name: "Standby", text: `from ${each.address ?? "Postgres's own machine"}, session ${each.pid}, for ${since(each.since)}` });
  }
  if (relays.standbys?.length === 0) lines.push({ key: "none", name: "Standby", text: "none: if the leader dies, nobody takes over" });
  fillLines(get("relays"), lines);
}

function showStreams(streams) {
  const lines = streams.map((each) => ({
    key: each.name, name: each.name, ok: each.trouble ? "no" : each.path ? "yes" : "",
    text: each.trouble ? `takes nothing: ${each.trouble}` : each.path ? `by ${each.path}` : "not published to by this relay yet",
  }));
  if (!lines.length) lines.push({ key: "none", name: "None yet", text: "a stream is met with its first event" });
  fillLines(get("streams"), lines);
}

function noteOf(parked, shown, total, nothing) {
  if (parked.trouble) return `Can't be looked at now: ${parked.trouble}.${parked.age === null ? "" : ` Shown is what was there ${inWhole(parked.age)} ago.`}`;
  if (parked.age === null) return "Not looked at yet.";
  return total === 0 ? nothing : shown < total ? `The first ${shown} of ${numbers.format(total)}: python -m relay dead list shows all.` : "";
}

function makeRetry(what) {
  const button = document.createElement("button");
  button.type = "button";
  button.addEventListener("click", () => retry(button.what));
  button.what = what;
  return button;
}

// Events with the same error stand together, below the error.
function groupByError(events) {
  const groups = new Map();
  for (const event of events) {
    const error = event.code ? `${event.error} (${event.code})` : event.error;
    groups.set(error, [...(groups.get(error) ?? []), event]);
  }
  return [...groups].flatMap(([error, members]) => [
    { key: `error ${error}`, error, members },
    ...members.map((event) => ({ key: event.id, event })),
  ]);
}

function makeDeadRow(item) {
  if (item.event) {
    const row = makeRow([["Event", "short"], ["Subject", "name"], ["Key", "name"], ["Tries", "short"], ["Died", "short"], ["", ""]]);
    const button = makeRetry({ name: `event ${item.event.id}`, body: { id: item.event.id } });
    button.textContent = "Retry";
    button.setAttribute("aria-label", `Retry event ${item.event.id}`);
    row.className = "event";
    row.cells[5].append(button);
    return row;
  }
  const row = makeRow([["", "error"], ["", ""]]);
  row.className = "group";
  row.cells[0].colSpan = 5;
  row.button = makeRetry();
  return row;
}

function writeDeadRow(row, item, canRetry) {
  if (item.event) {
    const { id, subject, key, attempts, died_at: diedAt } = item.event;
    [id, subject, key ?? "none", attempts, `${since(diedAt)} ago`].forEach((cell, place) => setText(row.cells[place], cell));
    row.querySelector("button").hidden = !canRetry;
    return;
  }
  const count = item.members.length, { button } = row;
  setText(row.cells[0], count === 1 ? item.error : `${count} events: ${item.error}`);
  setText(button, `Retry these ${count}`);
  button.what = { name: `these ${count} events`, body: { ids: item.members.map((event) => event.id) } };
  if (!canRetry || count === 1) button.remove();
  else if (!button.isConnected) row.cells[1].append(button);
}

function showDead(parked, canRetry) {
  const table = get("dead-table"), total = parked.total_dead;
  const lost = fill(table.tBodies[0], groupByError(parked.dead), makeDeadRow, (row, item) => writeDeadRow(row, item, canRetry));
  table.hidden = parked.dead.length === 0;
  setText(get("retry-all"), `Retry all ${numbers.format(total)}`);
  const wasFocused = document.activeElement === get("retry-all");
  get("retry-all").hidden = !canRetry || total < 2;
  if (lost || (wasFocused && get("retry-all").hidden)) (table.querySelector(".event button:not([hidden])") ?? get("h-dead")).focus();
  const readOnly = parked.dead.length && !canRetry ? " This page only shows: set RELAY_HTTP_TOKEN to retry from here, or run python -m relay dead retry ID." : "";
  setText(get("dead-note"), noteOf(parked, parked.dead.length, total, "None.") + readOnly);
}

function showKeys(parked) {
  const columns = [["", "name"], ["Events", "short"], ["First", "short"], ["Subject", "name"], ["", "error"], ["Next try", ""]];
  fill(get("keys-table").tBodies[0], parked.keys.map((each) => ({ ...each, key_: each.key, key: each.id })), () => makeRow(columns), (row, each) => {
    const next = each.held_by ? `held by ${each.held_by}` : each.next_at === null ? "behind a dead one" : Date.parse(each.next_at) / 1000 > latest.at ? `in ${inWhole(Date.parse(each.next_at) / 1000 - latest.at)}` : "now";
    [each.key_ ?? "no key", each.events, `event ${each.id}, ${each.attempts} tries`, each.subject, each.error, next].forEach((cell, place) => setText(row.cells[place], cell));
  });
  get("keys-table").hidden = parked.keys.length === 0;
  setText(get("keys-note"), noteOf(parked, parked.keys.length, parked.keys.length, "None: no key waits."));
}

function show(state) {
  latest = state;
  newsAt = performance.now();
  showSummary(state.level, state.headline, state.reasons);
  showCharts(state);
  showFigures(state.figures);
  fillLines(get("checks"), state.checks.map((check) => ({ key: check.name, ok: check.ok ? "yes" : "no", name: CHECKS[check.name] ?? check.name, text: check.reason })));
  showRelays(state.relays);
  showStreams(state.streams);
  showDead(state.parked, state.can_retry);
  showKeys(state.parked);
}

// What was the truth once must not pass for it: without news the page says so itself.
function watchContact() {
  const silent = latest === null ? 0 : (performance.now() - newsAt) / 1000;
  const live = latest !== null && silent < SILENT_AFTER;
  setAttribute(get("contact"), "data-live", live ? "yes" : "no");
  setText(get("contact"), live ? "live" : latest === null ? "connecting …" : `no news for ${inWhole(silent)}`);
  if (latest !== null && !live) {
    showSummary("unknown", "No contact with this relay", [`It said nothing for ${inWhole(silent)}: it has ended, or the way to it is cut.`, "What is below is old. Another relay may lead; this page goes on asking."]);
  }
}

function connect() {
  source = new EventSource("/events");
  source.addEventListener("history", (event) => Past.begin(JSON.parse(event.data).history));
  source.addEventListener("state", (event) => {
    const state = JSON.parse(event.data);
    if (state.point) Past.add(state.point);
    show(state);
    watchContact();
  });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, ASK_AGAIN_AFTER);
  });
}

async function retry(what) {
  if (token === null) return ask(what, "");
  setText(get("retry-answer"), `Asking for ${what.name} …`);
  let answer, sentence;
  try {
    answer = await fetch("/retry", { method: "POST", headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" }, body: JSON.stringify(what.body) });
    sentence = (await answer.json()).says;
  } catch {
    setText(get("retry-answer"), "The relay did not answer: nothing is known of the retry.");
    return;
  }
  if (answer.status === 401) {
    token = null;
    setText(get("retry-answer"), "");
    ask(what, sentence);
  } else {
    setText(get("retry-answer"), `${sentence[0].toUpperCase()}${sentence.slice(1)}.`);
  }
}

function ask(what, error) {
  setText(get("ask-what"), what.name);
  setText(get("ask-error"), error);
  get("token").value = "";
  get("ask").what = what;
  if (!get("ask").open) get("ask").showModal();
  get("token").focus();
}

get("ask").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = get("token").value.trim();
  if (!/^[!-~]+$/.test(given)) return ask(get("ask").what, "no token looks like that");
  token = given;
  get("token").value = "";
  get("ask").close();
  retry(get("ask").what);
});
get("retry-all").addEventListener("click", () => retry({ name: "all dead events", body: { ids: "all" } }));
get("ask-cancel").addEventListener("click", () => get("ask").close());
get("as-table").addEventListener("toggle", () => latest && showCharts(latest));
for (const figure of document.querySelectorAll("[data-series]")) readOff(figure, figure.dataset.series);
setAttribute(get("sign"), "d", SIGNS.unknown);
setInterval(watchContact, 1000);
connect();
