// The page of the sandbox: what the server sends is text, and is only ever shown as text.

const BASE = "/_sandbox/page/";
const ROWS = 200; // requests that the list holds
const SECONDS = 60;
const NAMES = {
  v1: "Server-side API, version 1",
  v2: "Server-side API, version 2",
  web: "Web API",
  mail: "Mail API",
  export: "Export analytics API",
  other: "Other paths",
};
const FAULTS = [
  ["error", "Server errors", "500, 502, 503 or 504; not carried out", 10],
  ["throttled", "Throttling", "429, whatever the rate", 10],
  ["reset", "Dropped connections", "reset before the operation", 5],
  ["reset_after", "Lost responses", "carried out, then reset", 5],
  ["stall", "Stalled requests", "no response until the client disconnects", 1],
  ["latency", "Latency", "between the operation and its response", 200],
];

const $ = (id) => document.getElementById(id);
const clone = (id) => $(id).content.firstElementChild.cloneNode(true);
const number = (value) => value.toLocaleString("en");
const clock = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 1,
});

async function call(method, path, value, signal) {
  const options = { method, signal };
  if (value !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(value);
  }
  const response = await fetch(BASE + path, options);
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

// Requests

let latest = []; // newest first
let rows = []; // those of them, and older ones, that the filter selects
let isPaused = false;
let skipped = 0;

const MATCHES = {
  all: () => true,
  failed: (row) => !isPending(row) && (row.status < 200 || row.status > 299),
  throttled: (row) => row.status === 429,
  fault: (row) => row.fault !== null,
};

function isPending(row) {
  return row.status === 0 && row.fault === null;
}

function statusOf(row) {
  if (row.status === 429) return ["429 throttled", "throttled"];
  if (row.status >= 500) return [String(row.status), "bad"];
  if (row.status >= 400) return [String(row.status), "client"];
  if (row.status > 0) return [String(row.status), "good"];
  return isPending(row) ? ["pending", ""] : ["none", "bad"];
}

function paintStatus(element, row) {
  const [status, mood] = statusOf(row);
  element.textContent = status;
  element.className = `status ${mood}`;
}

function requestRow(row) {
  const element = clone("request-row");
  const text = (name, value) => { element.querySelector(name).textContent = value; };
  paintStatus(element.querySelector(".status"), row);
  text(".method", row.method);
  text(".path", row.sent === null ? row.path : row.sent.target);
  text(".identity", row.identity ?? "");
  text(".fault-name", row.fault === null ? "" : `fault: ${row.fault}`);
  text(".time", clock.format(row.at * 1000));
  const button = element.querySelector(".code");
  button.disabled = row.sent === null;
  button.setAttribute("aria-label", `Code of request ${row.number}`);
  button.addEventListener("click", () => showCode(row));
  row.element = element;
  return element;
}

function showRequests(added) {
  const list = $("requests");
  if (added === undefined) {
    list.replaceChildren(...rows.map(requestRow));
  } else {
    const elements = added.map(requestRow);
    for (const element of elements) element.classList.add("new");
    list.prepend(...elements);
    for (const one of [...list.children].slice(ROWS)) {
      if (!one.contains(document.activeElement)) one.remove(); // the focus stays where it is
    }
  }
  const parts = [rows.length ? `The latest ${number(rows.length)}` : "None yet"];
  if (skipped) parts.push(`${number(skipped)} came too fast to be shown`);
  $("requests-text").textContent = `${parts.join("; ")}.`;
}

// Paint the responses that were delayed; return the rows that match only now.
function settle(statuses, matches) {
  const added = [];
  for (const row of latest) {
    if (!(row.number in statuses)) continue;
    const matched = matches(row);
    row.status = statuses[row.number];
    if (matches(row) && !matched) added.push(row);
    else if (row.element) paintStatus(row.element.querySelector(".status"), row);
  }
  return added;
}

function onRequests(data) {
  if (data.reset) { latest = []; rows = []; skipped = 0; }
  skipped += data.skipped;
  const matches = MATCHES[$("requests-filter").value];
  const arrived = data.rows.reverse();
  const added = [...arrived.filter(matches), ...settle(data.settled, matches)];
  latest = [...arrived, ...latest].slice(0, ROWS);
  rows = [...added, ...rows].slice(0, ROWS);
  if (!isPaused) showRequests(data.reset ? undefined : added);
}

$("requests-pause").addEventListener("click", (event) => {
  isPaused = !isPaused;
  event.target.setAttribute("aria-pressed", String(isPaused));
  if (!isPaused) showRequests();
});
$("requests-filter").addEventListener("change", (event) => {
  rows = latest.filter(MATCHES[event.target.value]);
  showRequests();
});

// Code

async function showCode(row) {
  const { method, sent } = row;
  let code;
  try {
    code = await call("POST", "code", { method, ...sent });
  } catch (error) {
    code = { python: String(error), curl: String(error) };
  }
  $("code-request").textContent = `${method} ${sent.target}`;
  $("python").textContent = code.python;
  $("curl").textContent = code.curl;
  $("code-text").textContent = "";
  $("code").showModal();
}

async function copy(id) {
  try {
    await navigator.clipboard.writeText($(id).textContent);
    $("code-text").textContent = "Copied.";
  } catch { // no permission, or not a secure context
    getSelection().selectAllChildren($(id));
    $("code-text").textContent = "Selected: copy it with the keyboard.";
  }
}

$("code-close").addEventListener("click", () => $("code").close());
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(button.dataset.copy));
}

// Rate

const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  set(element, attributes);
  return element;
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
}

const bars = Array.from({ length: SECONDS }, (_, x) =>
  ["served", "throttled"].map((kind) => shape("rect", { class: kind, x: x + 0.1, width: 0.8 })));
const limitLine = shape("line", { x1: 0, x2: SECONDS, visibility: "hidden" });
$("chart").append(...bars.flat(), limitLine);

function busiest(rates) {
  const total = (api) => rates[api].reduce((sum, [served, late]) => sum + served + late, 0);
  return Object.keys(rates).sort((one, other) => total(other) - total(one))[0];
}

function offerApis(apis) {
  const select = $("rate-api");
  for (const api of Object.keys(NAMES)) {
    const exists = [...select.options].some((option) => option.value === api);
    if (apis.has(api) && !exists) select.append(new Option(NAMES[api], api));
  }
}

function drawRate({ rates, limits }) {
  offerApis(new Set([...Object.keys(rates), ...Object.keys(limits)]));
  const api = $("rate-api").value || busiest(rates);
  const series = rates[api] ?? Array(SECONDS).fill([0, 0]);
  const limit = limits[api];
  const peak = Math.max(...series.map(([served, throttled]) => served + throttled));
  const top = Math.max(5, peak * 1.1, (limit ?? 0) * 1.2);
  const height = (count) => (count / top) * 100;
  series.forEach(([served, throttled], index) => {
    const [low, high] = bars[index];
    set(low, { y: 100 - height(served), height: height(served) });
    set(high, { y: 100 - height(served + throttled), height: height(throttled) });
  });
  $("chart-top").textContent = `${number(Math.round(top))}/s`;
  const y = 100 - height(limit ?? 0);
  set(limitLine, { y1: y, y2: y, visibility: limit === undefined ? "hidden" : "visible" });
  $("chart-limit").hidden = limit === undefined;
  $("chart-limit").style.top = `${y}%`;
  $("chart-limit").textContent = `limit ${limit}/s`;
  $("rate-text").textContent = describe(api, series, peak, limit);
}

function describe(api, series, peak, limit) {
  if (!peak) return "No requests in the last minute.";
  const [served, throttled] = series[SECONDS - 1];
  const bound = limit === undefined ? "no limit" : `the limit is ${limit}/s`;
  return `${NAMES[api]}: ${number(served)} served and ${number(throttled)} throttled in the last ` +
    `second, at most ${number(peak)} in one; ${bound}.`;
}

// Faults

const faults = new Map();
let isSettingFaults = false;

for (const [name, title, hint, initial] of FAULTS) {
  const element = clone("fault-row");
  const [box, share] = element.querySelectorAll("input");
  element.querySelector(".switch span").textContent = title;
  element.querySelector(".unit").textContent = name === "latency" ? "ms" : "%";
  element.querySelector("small").textContent = hint;
  box.id = `fault-${name}`;
  share.id = `share-${name}`;
  share.setAttribute("aria-label", `${title}, ${name === "latency" ? "milliseconds" : "percent"}`);
  share.value = initial;
  if (name !== "latency") share.max = 100;
  box.addEventListener("change", setFaults);
  share.addEventListener("change", () => { if (box.checked) setFaults(); });
  faults.set(name, { box, share, scale: name === "latency" ? 1000 : 100 });
  $("faults").append(element);
}
$("faults").addEventListener("submit", (event) => event.preventDefault());

function say(text, isWrong = false) {
  $("faults-text").textContent = text;
  $("faults-text").classList.toggle("wrong", isWrong);
}

let conditions = null; // as the server has them

function showConditions(now) {
  $("next-text").textContent = now.next.length ? `Waiting: ${now.next.join(", ")}.` : "";
  conditions = now;
  const values = { ...now.faults, latency: now.latency };
  for (const [name, { box, share, scale }] of faults) {
    box.checked = values[name] > 0;
    if (values[name] > 0 && share !== document.activeElement) {
      share.value = Number((values[name] * scale).toPrecision(6));
    }
  }
}

async function change(method, path, value, done) {
  isSettingFaults = true;
  try {
    const now = await call(method, path, value);
    showConditions(now);
    say(done(now));
  } catch (error) {
    if (conditions) showConditions(conditions);
    say(error.message, true);
  } finally {
    isSettingFaults = false;
  }
}

function setFaults() {
  const values = {};
  for (const [name, { box, share, scale }] of faults) {
    values[name] = box.checked ? Number(share.value) / scale : 0;
  }
  const { latency, ...shares } = values;
  return change("PUT", "faults", { faults: shares, latency }, describeFaults);
}

function describeFaults(now) {
  const values = { ...now.faults, latency: now.latency };
  const on = FAULTS.filter(([name]) => values[name] > 0).map(([, title]) => title);
  return on.length ? `On: ${on.join(", ")}.` : "All off.";
}

$("faults-off").addEventListener("click", () => {
  for (const { box } of faults.values()) box.checked = false;
  setFaults();
});
$("next-add").addEventListener("click", () =>
  change("POST", "fail-next", { faults: [$("next-fault").value] }, () => ""));

// Profiles

let cursors = []; // of the pages before this one, newest first
let before = null; // of this page; null is the first one
let older = null;
let searching = null;
let known = ""; // the counts that the list was read with
let readAt = 0;

function profileRow(profile) {
  const element = clone("profile-row");
  element.querySelector(".id").textContent = profile.id ?? "";
  element.querySelector(".other-id").textContent = profile.other_id ?? "";
  for (const level of profile.access_levels) {
    const badge = document.createElement("bdi");
    const end = document.createElement("small");
    badge.className = level.is_active ? "level" : "level ended";
    if (!level.is_active) end.textContent = "not active";
    else if (level.expires_at !== null) end.textContent = `until ${level.expires_at.slice(0, 10)}`;
    badge.append(level.access_level_id, end);
    element.querySelector(".levels").append(badge);
  }
  const names = Object.keys(profile.attributes);
  const details = element.querySelector("details");
  if (names.length === 0) details.remove();
  details.querySelector("summary").textContent =
    names.length === 1 ? "1 attribute" : `${names.length} attributes`;
  details.querySelector("pre").textContent = JSON.stringify(profile.attributes, null, 2);
  return element;
}

async function readProfiles() {
  searching?.abort();
  searching = new AbortController();
  readAt = performance.now();
  const query = new URLSearchParams({ api: $("profiles-api").value });
  const text = $("profiles-search").value;
  if (text) query.set("text", text);
  if (before !== null) query.set("before", before);
  try {
    const page = await call("GET", `profiles?${query}`, undefined, searching.signal);
    older = page.next;
    $("profiles").replaceChildren(...page.profiles.map(profileRow));
    $("profiles-newer").disabled = before === null;
    $("profiles-older").disabled = older === null;
    const shown = page.profiles.length;
    const some = shown === 1 ? "1 profile" : `${shown} profiles`;
    const order = before === null ? "newest first" : `page ${cursors.length + 1}`;
    $("profiles-text").textContent = shown ? `${some}, ${order}.` : "None.";
  } catch (error) {
    if (error.name !== "AbortError") $("profiles-text").textContent = error.message;
  }
}

function startOver() {
  cursors = [];
  before = null;
  return readProfiles();
}

function isInUse() {
  const list = $("profiles");
  return list.matches(":hover") || list.contains(document.activeElement) ||
    list.querySelector("details[open]") !== null;
}

function followProfiles(overview) {
  const counts = `${overview.profiles} ${overview.mail_profiles}`;
  const isDue = performance.now() - readAt > 900 || known === "";
  if (counts === known || !isDue || before !== null || $("profiles-search").value || isInUse()) {
    return;
  }
  known = counts;
  readProfiles();
}

let typing;
$("profiles-search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(startOver, 200);
});
$("profiles-api").addEventListener("change", startOver);
$("profiles-older").addEventListener("click", () => {
  cursors.push(before);
  before = older;
  readProfiles();
});
$("profiles-newer").addEventListener("click", () => {
  before = cursors.pop();
  readProfiles();
});

// Events

function onOverview(overview) {
  const { statuses } = overview;
  const sum = (holds) => Object.entries(statuses)
    .filter(([status]) => holds(Number(status)))
    .reduce((total, [, count]) => total + count, 0);
  const counts = {
    profiles: overview.profiles,
    mail: overview.mail_profiles,
    events: overview.mail_events,
    requests: sum(() => true),
    throttled: sum((status) => status === 429),
    errors: sum((status) => status >= 500),
    none: sum((status) => status === 0),
  };
  for (const [name, count] of Object.entries(counts)) {
    $(`count-${name}`).textContent = number(count);
  }
  drawRate(overview);
  if (!isSettingFaults) showConditions(overview);
  followProfiles(overview);
}

let source = null;
let retry; // the timer of the next connection, after a server that rejected one
let lastEventId = "";

function connected(text, kind) {
  if ($("connection").textContent !== text) $("connection").textContent = text;
  $("connection").className = kind;
}

function connect() {
  disconnect();
  // A new source sends no Last-Event-ID of an earlier one.
  const opened = new EventSource(`${BASE}events?after=${encodeURIComponent(lastEventId)}`);
  source = opened;
  opened.addEventListener("open", () => connected("Live", "live"));
  opened.addEventListener("error", () => {
    connected("Not connected; trying again …", "lost");
    if (opened.readyState === EventSource.CLOSED) retry = setTimeout(connect, 1000);
  });
  opened.addEventListener("requests", (event) => {
    lastEventId = event.lastEventId;
    onRequests(JSON.parse(event.data));
  });
  opened.addEventListener("overview", (event) => onOverview(JSON.parse(event.data)));
}

function disconnect() {
  clearTimeout(retry);
  source?.close();
}

// A browser opens six connections to one origin: tabs that nobody sees leave theirs to others.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") connect();
  else disconnect();
});
connect();
