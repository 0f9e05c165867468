// The pictures of this session: a strip of them, the one that is shown, and the one to compare it with.

const byId = (id) => document.getElementById(id);
const MOST = 100; // pictures that are kept; each is a file of a megabyte or more
const strip = byId("history");
let entries = [];
let shown = null;
let before = null;
let hear = { chosen() {} };

/** Tell `listener.chosen(entry)` which picture is clicked. */
export function onHistory(listener) {
  hear = listener;
}

/** The picture that the page is at. */
export const current = () => shown;

/** Keep a picture: `url`, `label` and whatever the page needs of it. */
export function remember(entry) {
  entries.unshift(entry);
  for (const old of entries.splice(MOST)) {
    URL.revokeObjectURL(old.url);
    old.button.remove();
    if (old === before) before = null;
  }
  entry.button = button(entry);
  strip.prepend(entry.button);
  byId("history-section").hidden = false;
}

/** Put a picture on the stage, and make it the one the page is at. */
export async function show(entry) {
  if (shown !== entry && entries.includes(shown)) before = shown;
  shown = entry;
  for (const one of entries) {
    one.button.setAttribute("aria-current", String(one === entry));
    one.button.tabIndex = one === entry ? 0 : -1;
  }
  byId("compare").disabled = before === null;
  await stage(entry);
}

let turns = 0;

async function stage(entry, badge = "") {
  const turn = ++turns;
  const next = new Image();
  next.src = entry.url;
  await next.decode().catch(() => {}); // so that nothing flickers between two pictures
  if (turn !== turns) return; // another picture has come meanwhile
  const picture = byId("picture");
  picture.src = entry.url;
  picture.alt = entry.alt;
  picture.hidden = false;
  byId("empty").hidden = true;
  byId("badge").textContent = badge;
  byId("badge").hidden = !badge;
}

function button(entry) {
  const made = document.createElement("button");
  const image = document.createElement("img");
  const label = document.createElement("span");
  made.type = "button";
  made.setAttribute("aria-label", `${entry.label}: ${entry.alt}`);
  image.src = entry.url;
  image.alt = "";
  label.textContent = entry.short;
  made.append(image, label);
  made.addEventListener("click", () => hear.chosen(entry));
  made.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && peek(entry));
  made.addEventListener("pointerleave", back);
  return made;
}

strip.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const at = entries.findIndex((one) => one.button === document.activeElement);
  if (!by || at < 0) return;
  entries[Math.min(Math.max(at + by, 0), entries.length - 1)].button.focus();
  event.preventDefault();
});

// --- comparing: another picture for as long as the pointer is there, or the button is held ---

function peek(entry) {
  if (shown && entry !== shown) stage(entry, entry.label);
}

function back() {
  if (shown) stage(shown);
}

const compare = byId("compare");
compare.addEventListener("pointerdown", (event) => {
  compare.setPointerCapture(event.pointerId);
  if (before) peek(before);
});
for (const name of ["pointerup", "pointercancel", "blur"]) compare.addEventListener(name, back);
compare.addEventListener("keydown", (event) => {
  if (event.key !== " " && event.key !== "Enter") return;
  event.preventDefault();
  if (before && !event.repeat) peek(before);
});
compare.addEventListener("keyup", back);
