"use strict";

// The token is in the fragment of the address, which browsers send to nobody.
const token = location.hash.slice(1);
const PAUSE = 2000;
const SVG = "http://www.w3.org/2000/svg";
const MOST = 300;
const NAMED = 20;
const LONG = 240; // letters of what a client or a library says
const STATES = {
  running: "running",
  completed: "completed",
  interrupted: "interrupted; go on with --resume",
  failed: "failed; go on with --resume once the cause is corrected",
  gone: "its server ended without a word, as one that is killed; go on with --resume",
};

// Everything that comes from elsewhere becomes text, and never markup.
function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = String(text);
  if (kind) made.className = kind;
  return made;
}

const cut = (text) => (text.length > LONG ? `${text.slice(0, LONG)}\u2026` : text);

function duration(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

// No number is shown as better than it is.
function rounded(value, places, up) {
  const near = Number(value.toFixed(places));
  const kinder = up ? near < value : near > value;
  return (kinder ? near + (up ? 1 : -1) * 10 ** -places : near).toFixed(places);
}

const epsilon = (value) => rounded(value, 2, true);
const achieved = (value, run) => rounded(value, 4, run.direction === "lower");

function listed(names) {
  const more = names.length > NAMED ? ` and ${names.length - NAMED} more` : "";
  return `${names.slice(0, NAMED).join(", ")}${more}`;
}

// A text that did not change is not written again: it would be read out again.
function say(text, kind) {
  const state = document.getElementById("state");
  if (state.textContent !== text) state.textContent = text;
  state.className = kind;
}

function figures(run) {
  const list = element("dl", null, "figures");
  const add = (name, value, note) => {
    const box = element("div");
    const shown = element("dd", value);
    if (note) shown.append(element("small", note));
    box.append(element("dt", name), shown);
    list.append(box);
  };
  add("round", `${run.round} of ${run.rounds}`, run.seconds === null ? null : `for ${duration(run.seconds)}`);
  if (run.cohort !== null) add("answered", `${run.answers} of ${run.cohort}`);
  if (run.value !== null) add(run.metric, achieved(run.value, run), run.baseline === null ? null : `baseline ${run.baseline.toFixed(4)}`);
  if (run.budget !== null) {
    const protects = run.noise === "seeded" ? "; simulation: protects nobody, since its noise is seeded" : "";
    add("epsilon", run.epsilon === null ? "not known" : epsilon(run.epsilon), `of ${run.budget} at delta ${run.delta}${protects}`);
  } else {
    add("privacy", "none", "no guarantee is given");
  }
  if (run.left !== null) add("time left", duration(run.left));
  return list;
}

function curve(run) {
  const points = run.history.filter((entry) => entry.value !== null);
  if (points.length < 2) return null;
  const values = points.map((entry) => entry.value).concat(run.baseline === null ? [] : [run.baseline]);
  const low = Math.min(...values);
  const high = Math.max(...values);
  const span = high - low || 1;
  const first = points[0].round;
  const across = points[points.length - 1].round - first || 1;
  const x = (round) => (600 * (round - first)) / across;
  const y = (value) => 150 - (140 * (value - low)) / span - 5;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 600 150");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const last = points[points.length - 1];
  svg.setAttribute("aria-label", `${run.metric} from ${achieved(points[0].value, run)} in round ${first} to ${achieved(last.value, run)} in round ${last.round}`);
  const draw = (name, attributes, kind) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.setAttribute("class", kind);
    svg.append(made);
  };
  draw("rect", { x: 0, y: 0, width: 600, height: 150 }, "frame");
  if (run.baseline !== null) draw("line", { x1: 0, x2: 600, y1: y(run.baseline), y2: y(run.baseline) }, "baseline");
  draw("polyline", { points: points.map((entry) => `${x(entry.round).toFixed(1)},${y(entry.value).toFixed(1)}`).join(" ") }, "curve");
  return svg;
}

function table(headings, rows) {
  const made = element("table");
  const head = element("tr");
  for (const heading of headings) head.append(element("th", heading));
  const top = element("thead");
  top.append(head);
  const body = element("tbody");
  for (const row of rows.slice(0, MOST)) {
    const line = element("tr");
    for (const [text, kind] of row) line.append(element("td", text, kind));
    body.append(line);
  }
  made.append(top, body);
  const scroll = element("div", null, "scroll");
  scroll.append(made);
  if (rows.length > MOST) scroll.append(element("p", `and ${rows.length - MOST} more`, "faint"));
  return scroll;
}

function sites(run) {
  if (run.withheld || run.sites.length === 0) return null;
  const rows = run.sites.map((site) => {
    const answer = site.answered === null ? "" : site.late ? "late" : site.answered ? "answered" : "asked";
    const spent = site.budget === null ? "" : `${site.epsilon === null ? "not known" : epsilon(site.epsilon)} of ${site.budget}`;
    return [[site.name], [answer, site.late ? "bad" : ""], [spent]];
  });
  const simulated = run.noise === "seeded" ? " (simulated)" : "";
  return table(["site", "this round", `epsilon of its own budget${simulated}`], rows);
}

function clock(seconds) {
  return new Date(1000 * seconds).toLocaleTimeString();
}

const tone = (run) => (run.state === "running" ? "" : run.state === "completed" ? "good" : "bad");

function section(run) {
  const made = element("section");
  // A run that is alone on the page has its name and its state in the head, and its parts come right below that.
  const part = run.run === undefined ? "h2" : "h3";
  if (run.run !== undefined) made.append(element("h2", `run ${run.run}`), element("p", STATES[run.state] || run.state, tone(run)));
  if (run.reason) made.append(element("p", run.reason, "bad reason"));
  const bar = element("progress");
  bar.max = run.rounds || 1;
  bar.value = run.done;
  bar.setAttribute("aria-label", `${run.done} of ${run.rounds} rounds are complete`);
  made.append(bar, figures(run));
  if (run.late.length > 0) made.append(element("p", `late: ${listed(run.late)}`, "bad"));
  for (const shown of [curve(run), sites(run)]) if (shown !== null) made.append(shown);
  if (run.withheld) made.append(element("p", "Cohorts are secret: nothing here tells of them.", "faint"));
  if (run.problems.length > 0) {
    made.append(element(part, "last errors"));
    const list = element("ul");
    for (const problem of run.problems.slice(0, 10)) {
      list.append(element("li", `${clock(problem.time)}  round ${problem.round}: ${problem.site}: ${cut(problem.reason)}`));
    }
    made.append(list);
  }
  if (run.notices.length > 0) {
    made.append(element(part, "notices"));
    const list = element("ul");
    for (const notice of run.notices.slice(0, 10)) list.append(element("li", notice, "reason"));
    made.append(list);
  }
  return made;
}

// Which nodes follow the newest directions of the operator, as they said when the run began that is shown.
function following(found) {
  const groups = new Map();
  for (const node of [...found.nodes].sort((one, other) => (other.directions ?? -1) - (one.directions ?? -1))) {
    const version = node.directions;
    const what = version === null ? "not known" : version >= found.directions ? "follow them" : version ? `follow version ${version}` : "follow their kit";
    groups.set(what, [...(groups.get(what) || []), node.name]);
  }
  return [...groups].map(([what, names]) => element("p", `${what}: ${listed(names)}`, ["follow them", "not known"].includes(what) ? "" : "bad"));
}

function nodes(found) {
  const now = found.now;
  const made = element("section");
  made.append(element("h2", `nodes: ${found.connected} of ${found.nodes.length} connected`));
  const rows = [...found.nodes]
    .sort((one, other) => (one.state === "connected") - (other.state === "connected") || one.client - other.client)
    .map((node) => [
      [node.name],
      [node.since === null ? node.state : `${node.state} for ${duration(now - node.since)}`, node.state === "connected" ? "good" : "bad"],
      [node.seen === null ? "" : `${duration(now - node.seen)} ago`],
      [node.software === null ? "" : `says ${node.software}`],
    ]);
  made.append(table(["node", "state", "last seen", "fedtrain"], rows));
  if (found.directions) {
    made.append(element("h3", `directions of the operator, version ${found.directions}, as nodes say when a run begins`), ...following(found));
  }
  return made;
}

function show(found) {
  if (found.nodes !== undefined) {
    document.getElementById("title").textContent = `federation ${found.federation.slice(0, 8)} at ${found.address}`;
    say(!found.up ? "the server is not up" : found.answers ? "up" : "up, and its SuperLink does not answer", found.up && found.answers ? "good" : "bad");
  } else {
    document.getElementById("title").textContent = found.runs[0].name;
    say(STATES[found.runs[0].state], tone(found.runs[0]));
  }
  document.title = `${document.getElementById("title").textContent} – fedtrain`;
  const parts = found.runs.map(section);
  if (found.nodes !== undefined) parts.push(nodes(found));
  document.getElementById("main").replaceChildren(...parts);
  document.getElementById("foot").textContent = `as of ${clock(found.now)}; this page is read-only`;
  document.documentElement.dataset.shown = "yes";
}

async function look() {
  try {
    const answer = await fetch("status", { headers: { Authorization: `Bearer ${token}` }, cache: "no-store" });
    if (answer.status === 401) {
      say("the token in this address is not the one that the command printed", "bad");
      return;
    }
    if (!answer.ok) throw new Error(await answer.text());
    show(await answer.json());
  } catch (error) {
    // In the head: what was shown last stays, and looks as if it were so now.
    say(`not up to date, this page has no answer: ${error.message}`, "bad");
  }
  setTimeout(look, PAUSE);
}

look();
