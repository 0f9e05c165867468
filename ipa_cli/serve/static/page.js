// The page at `/`: a form, a slider that redraws while it moves, and the pictures drawn so far.

import "./token.js";
import { data, ready, request } from "./api.js";
import { makeDrawing } from "./drawing.js";
import { fill, makeForm, valueOf, valueOr, values, wrongField } from "./form.js";
import { current, onHistory, remember, show } from "./history.js";
import { addReferences, bytes, onReferences, references, setReferences } from "./references.js";

const byId = (id) => document.getElementById(id);
const REST = 150; // milliseconds after which a slider that has not moved rests
const slider = byId("scale");
const number = byId("scale-number");
let facts = null;

const say = (text) => (byId("status").textContent = text);

function fail(message, hint = "") {
  byId("problem").hidden = !message;
  byId("problem-message").textContent = message;
  byId("problem-hint").textContent = hint;
}

function listed(texts) {
  byId("notes").replaceChildren(...texts.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  byId("notes").hidden = texts.length === 0;
}

// --- orders: the body of a job, and what the page needs to know of it ---

const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];
const scaleNow = () => (number.value === "" ? facts.defaults.scale : Number(number.value));

function order(settings, rest = {}) {
  const used = references();
  const body = { ...settings };
  if (facts.adapters > 0 && scaleNow() !== facts.defaults.scale) body.scale = scaleNow();
  if (used.length) {
    body.image = used.map((one) => one.name);
    body.files = Object.fromEntries(used.map((one) => [one.name, one.base64]));
  }
  return { body, used, settings, scale: scaleNow(), ...rest };
}

/** The first field that holds what it must not, the number of the scale among them. */
const wrongInput = () => wrongField() ?? (number.checkValidity() ? null : number);

function draw() {
  const wrong = wrongInput();
  if (wrong) {
    wrong.closest("details")?.setAttribute("open", "");
    wrong.reportValidity();
    return;
  }
  if (byId("seed").value === "" || byId("lock").getAttribute("aria-pressed") === "false") byId("seed").value = newSeed();
  clearTimeout(resting);
  say("Asking the server…");
  drawing.instead(order(values()));
}

// While the slider moves, one picture after the other is drawn, each with the newest scale. Once it rests, one for an
// older scale is cancelled, and the last is drawn in full.
let resting = 0;

/** An order for the picture that is shown, as the form has it now: with its seed, and alone. */
function redrawing(rest) {
  return order({ ...values(), seed: valueOf("seed") ?? current().seed, num_images: undefined }, { live: true, ...rest });
}

function moved() {
  if (!current() || wrongInput()) return; // nothing is drawn that could change
  clearTimeout(resting);
  const part = Number(byId("preview").value);
  const passing = redrawing({ passing: true, full: part === 1 });
  if (part < 1) passing.body.steps = Math.max(1, Math.round(valueOr("steps") * part));
  drawing.after(passing);
  resting = setTimeout(rested, REST);
}

function rested() {
  clearTimeout(resting);
  if (!current() || wrongInput()) return;
  const [scale, newest] = [scaleNow(), drawing.newest];
  if (newest?.live && !newest.over && newest.scale === scale && (newest.full || !newest.passing)) {
    newest.passing = false; // it is the picture to keep
    if (newest !== drawing.current) drawing.instead(newest);
  } else if (!newest && current().passing && current().full && current().scale === scale) {
    keep([current()]);
  } else if (newest || current().passing || current().scale !== scale) {
    drawing.instead(redrawing());
  }
}

slider.addEventListener("input", () => {
  number.value = slider.value;
  moved();
});
slider.addEventListener("change", rested);
number.addEventListener("input", () => {
  if (!number.checkValidity()) return;
  slider.value = scaleNow();
  moved();
});

// --- what comes of them ---

const drawing = makeDrawing({
  progress(order, job) {
    const bar = byId("progress");
    bar.hidden = false;
    byId("cancel").hidden = false;
    if (job.status === "running" && job.step > 0) {
      bar.max = job.steps;
      bar.value = job.step;
    } else {
      bar.removeAttribute("value");
    }
    if (job.status === "queued") say(job.position > 0 ? `Waiting: ${job.position} before this` : "Waiting for its turn");
    else if (job.status === "running" && !order.live) say(job.doing === "drawing" ? "Drawing…" : `${job.doing || "Preparing"}…`);
  },
  async drawn(order, job, blobs) {
    fail("");
    listed([...job.warnings, ...job.notes]);
    const entries = job.pictures.map((picture, at) => entryOf(order, job, picture, blobs[at]));
    if (order.passing) await pass(entries[0]);
    if (!order.passing) await keep(entries); // it may have become the last one meanwhile
  },
  failed(order, failure) {
    fail(failure.message, failure.hint);
    say("");
  },
  cancelled: (order) => order.live || say("Cancelled"),
  lost: (reason = "The connection is lost. Trying again…") => say(reason),
  found(now) {
    facts = now; // another model, perhaps
    introduce();
    say("Connected again");
  },
  idle() {
    byId("progress").hidden = true;
    byId("cancel").hidden = true;
  },
});

function entryOf(order, job, picture, blob) {
  const [first, at] = [BigInt(order.body.seed), job.pictures.indexOf(picture)];
  const seed = first + BigInt(at);
  const exact = seed <= Number.MAX_SAFE_INTEGER ? Number(seed) : String(seed);
  return {
    url: URL.createObjectURL(blob),
    blob,
    seed: exact,
    scale: order.scale,
    settings: { ...order.settings, seed: exact },
    body: { ...order.body, seed: exact, num_images: undefined },
    used: order.used,
    command: picture.command,
    file: `ipa-${seed}.png`,
    alt: picture.prompt,
    short: order.used.length || facts.reference ? `${order.scale}` : `${seed}`,
    label: facts.adapters ? `scale ${order.scale}, seed ${seed}` : `seed ${seed}`,
    size: `${picture.width} × ${picture.height}`,
    timings: job.timings,
    saved: job.request.steps_saved ? ` with step cache ${job.request.step_cache}` : "",
    backend: job.graph.backend,
    passing: order.passing,
    full: order.full,
  };
}

let passed = null; // the address of the last picture that was shown in passing

/** Show a picture of a slider that still moves. */
async function pass(entry) {
  await look(entry);
  if (passed) URL.revokeObjectURL(passed);
  passed = entry.url;
}

/** Show the first of some pictures, and put all of them into the history. */
async function keep(entries) {
  passed = null;
  for (const entry of entries.toReversed()) remember(Object.assign(entry, { passing: false }));
  await look(entries[0]);
  say(summary(entries[0], entries.length));
}

/** Show a picture with what goes with it. */
async function look(entry) {
  await show(entry);
  Object.assign(byId("download"), { href: entry.url, download: entry.file, hidden: false });
  byId("command").textContent = entry.command;
  for (const id of ["copy-command", "copy-json", "command-details"]) byId(id).hidden = false;
}

/** Calls of the UNet a second, below one the seconds of a call; as `rate` of ipa_cli/config/units.py. */
function rate(it_per_s) {
  if (!it_per_s) return "";
  const [number, unit] = it_per_s >= 1 ? [it_per_s, "it/s"] : [1 / it_per_s, "s/it"];
  return `${number.toFixed(number >= 10 ? 1 : 2)} ${unit}`;
}

function summary(entry, count = 1) {
  const { total_s, it_per_s } = entry.timings;
  const parts = [entry.size, `seed ${entry.seed}`, `${total_s.toFixed(2)} s`, `${rate(it_per_s)}${entry.saved ?? ""}`, entry.backend];
  return `${count > 1 ? `${count} pictures: ` : ""}${parts.filter(Boolean).join(" · ")}`;
}

onHistory({
  chosen(entry) {
    fill(entry.settings);
    setScale(entry.scale);
    setReferences(entry.used);
    look(entry);
    say(summary(entry));
  },
});

function setScale(scale) {
  number.value = scale;
  slider.value = scale;
}

// --- copying ---

async function copied(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied`);
  } catch {
    // Browsers keep the clipboard from pages that came without TLS, but for those of this machine.
    byId("command").textContent = text;
    byId("command-details").open = true;
    getSelection().selectAllChildren(byId("command"));
    say("Copy the selected text: this browser lets the page copy nothing itself");
  }
}

byId("copy-command").addEventListener("click", () => copied(current().command, "Command line"));
byId("copy-json").addEventListener("click", () => {
  const { files, ...body } = current().body;
  const named = files && Object.fromEntries(Object.keys(files).map((name) => [name, `${name} in base64`]));
  copied(JSON.stringify(named ? { ...body, files: named } : body, null, 2), "JSON for POST /v1/jobs");
});

// --- pictures that are dropped, pasted, chosen ---

const pictureFiles = (transfer) => [...transfer.files].filter((file) => file.type.startsWith("image/") || !file.type);

async function add(files) {
  try {
    await addReferences(files);
  } catch (error) {
    fail(error.message, error.hint);
  }
}

async function dropped(files, asReference) {
  fail("");
  if (files.length === 0) return say("That is no picture");
  if (files.length === 1 && !asReference) {
    try {
      const read = await data("/v1/pictures/settings", { method: "POST", body: await bytes(files[0]) });
      if (read.settings) return bringBack(files[0].name, read);
    } catch (error) {
      return fail(error.message || "The server cannot be reached", error.hint);
    }
  }
  await add(files); // like most pictures, they have no settings in them
}

function bringBack(name, read) {
  fill(read.settings);
  setScale(read.settings.scale ?? facts.defaults.scale);
  byId("lock").setAttribute("aria-pressed", "true");
  const named = read.references.map((one) => one.source).filter(Boolean);
  const missing = named.filter((source) => !references().some((one) => one.name === source));
  listed([
    ...(missing.length ? [`Drawn with the reference ${missing.join(", ")}: drop it too.`] : []),
    ...(read.model && read.model !== facts.model ? [`Drawn with the model ${read.model}, and this server has ${facts.model}.`] : []),
    ...(read.left_out.length ? [`Left out: ${read.left_out.join(", ")}.`] : []),
  ]);
  fail("");
  say(`Settings of ${name} filled in. Dropped on the field Reference, it would be one.`);
}

addEventListener("dragover", (event) => {
  event.preventDefault();
  if (event.dataTransfer.types.includes("Files")) byId("drop").hidden = false;
  byId("well").classList.toggle("over", Boolean(event.target.closest?.("#references")));
});
addEventListener("dragleave", (event) => event.relatedTarget === null && (byId("drop").hidden = true));
addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").hidden = true;
  byId("well").classList.remove("over");
  dropped(pictureFiles(event.dataTransfer), Boolean(event.target.closest?.("#references")));
});
addEventListener("paste", (event) => {
  const files = pictureFiles(event.clipboardData);
  if (files.length === 0) return; // text goes where the cursor is
  event.preventDefault();
  add(files);
});
byId("files").addEventListener("change", () => {
  add(byId("files").files);
  byId("files").value = "";
});
onReferences(() => {
  if (facts?.adapters !== 1) return;
  const own = facts?.reference ? "Without one, the server's own is used." : "Without one, only the prompt counts.";
  byId("reference-hint").textContent = references().length ? "" : own;
});

// --- the rest of the form ---

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  draw();
});
byId("cancel").addEventListener("click", () => drawing.cancel());
byId("lock").addEventListener("click", () => {
  const on = byId("lock").getAttribute("aria-pressed") !== "true";
  byId("lock").setAttribute("aria-pressed", String(on));
});
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) draw();
});
addEventListener("pagehide", () => drawing.cancel());

// --- the beginning ---

function introduce() {
  const devices = facts.engines.map((one) => `${one.device} ${one.dtype}`);
  byId("server-facts").textContent = [facts.model, facts.adapter ? `adapter ${facts.adapter}` : "no adapter", ...new Set(devices)].join(" · ");
  const several = facts.adapters > 1;
  if (facts.adapters !== 1) {
    byId("well").hidden = true;
    byId("reference-hint").textContent = several
      ? `This server has ${facts.adapters} adapters, each with the references it was started with; the API takes others.`
      : "This server has no adapter that could follow a reference: start it with --ip-adapter.";
  }
  byId("scale-row").classList.toggle("off", facts.adapters === 0);
  slider.disabled = number.disabled = facts.adapters === 0;
}

try {
  say("Asking the server…");
  facts = await ready((reason = "The server cannot be reached. Trying again…") => say(reason));
  const api = await (await request("/openapi.json")).json();
  makeForm(facts, api.components.schemas.Body);
  introduce();
  setScale(facts.defaults.scale);
  setReferences([]);
  byId("draw").disabled = false;
  say("Ready");
} catch (error) {
  fail(error.message, error.hint);
  say("");
}
