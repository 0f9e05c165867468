// The settings: fields made from the server's schema and defaults, read and filled in again.

const byId = (id) => document.getElementById(id);
const MAIN = ["steps", "guidance_scale", "num_images", "scheduler", "ip_mode"];
const OWN_FIELDS = ["prompt", "negative_prompt", "seed", "width", "height"];
// Not fields: pictures, the file's format, how pictures are batched, and what several adapters need.
const LEFT_OUT = [
  ...["image", "mask", "embeds", "adapter", "files", "members", "format", "quality", "defaults"],
  ...["image_weight", "batch_size", "scale"],
];
const RATIOS = [["Square", 1, 1], ["Landscape", 4, 3], ["Landscape", 3, 2], ["Landscape", 16, 9]];
const LABELS = {
  guidance_scale: "Guidance", scheduler: "Sampler", schedule: "Noise schedule", ip_mode: "Mode", num_images: "Pictures", ip_layers: "Layers (JSON)",
  ip_start: "Reference from", ip_end: "Reference until", guidance_start: "Guidance from", guidance_end: "Guidance until",
};
const LIMITS = { steps: "steps", num_images: "pictures" };

let defaults = {};
let fields = {}; // name -> the element that holds its value

/** Make the fields of a server: `facts` are those of `/readyz`, `schema` is that of a job's body. */
export function makeForm(facts, schema) {
  defaults = facts.defaults;
  fields = Object.fromEntries(OWN_FIELDS.map((name) => [name, byId(name)]));
  for (const made of document.querySelectorAll("[data-made]")) made.remove();
  for (const [name, property] of Object.entries(schema.properties)) {
    if (OWN_FIELDS.includes(name) || LEFT_OUT.includes(name) || !typeOf(property)) continue;
    const limit = facts.limits[LIMITS[name]];
    const made = field(name, { ...property, maximum: Math.min(property.maximum ?? Infinity, limit ?? Infinity) });
    if (!MAIN.includes(name)) byId("more-fields").append(made);
  }
  for (const name of MAIN) if (fields[name]) byId("main-fields").append(fields[name].closest(".field"));
  for (const name of ["width", "height"]) {
    const { minimum, maximum, multipleOf } = schema.properties[name];
    Object.assign(fields[name], { min: minimum, max: maximum, step: multipleOf });
  }
  sizes(facts.limits.pixels);
  fields.prompt.placeholder = defaults.prompt ?? "a red fox in the snow";
  fill({});
}

/** The settings that are not the server's own, for the body of a job. */
export function values() {
  const found = {};
  for (const name of Object.keys(fields)) {
    const value = valueOf(name);
    if (value !== null && value !== (defaults[name] ?? null)) found[name] = value;
  }
  return found;
}

/** What one field says; the server's own value where it is empty. */
export const valueOr = (name) => valueOf(name) ?? defaults[name];

/** Fill in settings; those that are not given get the server's own. */
export function fill(settings) {
  for (const [name, element] of Object.entries(fields)) {
    const value = settings[name] ?? (name === "prompt" || name === "seed" ? "" : defaults[name]);
    if (element.type === "checkbox") element.checked = Boolean(value);
    else element.value = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : value;
    if (element.tagName === "SELECT" && element.selectedIndex < 0) element.add(new Option(value, value, true, true)); // it is refused in the server's words
  }
  showSize();
}

/** The first field that holds what it must not, null when all is well. */
export function wrongField() {
  return Object.values(fields).find((element) => !element.checkValidity()) ?? null;
}

/** What one field says, null where it is empty. */
export function valueOf(name) {
  const element = fields[name];
  if (!element) return null;
  if (element.type === "checkbox") return element.checked;
  const text = name.endsWith("prompt") ? element.value : element.value.trim();
  if (name === "negative_prompt") return text; // none is also one
  if (text === "") return null;
  if (name === "seed") return Number.isSafeInteger(Number(text)) ? Number(text) : text;
  return element.type === "number" ? Number(text) : text;
}

// --- fields from the schema ---

function typeOf(property) {
  const types = (property.anyOf ?? [property]).map((one) => one.type);
  return ["string", "integer", "number", "boolean"].find((type) => types.includes(type));
}

function field(name, property) {
  const holder = document.createElement("div");
  const label = document.createElement("label");
  const type = typeOf(property);
  const choices = property.enum ?? property.examples;
  const element = document.createElement(choices ? "select" : "input");
  holder.className = type === "boolean" ? "field check" : "field";
  holder.dataset.made = "";
  holder.title = property.description ?? "";
  label.htmlFor = element.id = element.name = name;
  label.textContent = LABELS[name] ?? capital(name);
  if (choices) {
    // Without a default it is the model that chooses.
    if ((defaults[name] ?? null) === null) element.append(new Option("model's own", ""));
    for (const value of choices) if (value !== null) element.append(new Option(value, value));
  } else if (type === "boolean") {
    element.type = "checkbox";
  } else if (type === "string") {
    element.type = "text";
  } else {
    element.type = "number";
    element.step = type === "integer" ? 1 : "any";
    if (property.minimum !== undefined) element.min = property.minimum;
    if (Number.isFinite(property.maximum)) element.max = property.maximum;
  }
  if (property.description) element.setAttribute("aria-description", property.description);
  fields[name] = element;
  holder.append(...(type === "boolean" ? [element, label] : [label, element]));
  return holder;
}

const capital = (name) => name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");

// --- the size: usual proportions of as many pixels as the model's own, or any ---

const FREE = "other";

function sizes(mostPixels) {
  const select = byId("size");
  const side = Math.sqrt(defaults.width * defaults.height);
  const step = side >= 512 ? 64 : 16;
  const round = (value) => Math.round(value / step) * step;
  const found = new Map([[`${defaults.width}x${defaults.height}`, `${defaults.width} × ${defaults.height}, the usual size`]]);
  for (const [word, wide, high] of RATIOS) {
    const [width, height] = [round(side * Math.sqrt(wide / high)), round(side * Math.sqrt(high / wide))];
    for (const [w, h, name] of [[width, height, word], [height, width, wide === high ? word : "Portrait"]]) {
      const key = `${w}x${h}`;
      if (w * h <= mostPixels && !found.has(key)) found.set(key, `${w} × ${h}, ${name.toLowerCase()}`);
    }
  }
  select.replaceChildren(...[...found].map(([key, text]) => new Option(text, key)), new Option("Other…", FREE));
  select.onchange = () => {
    if (select.value !== FREE) [fields.width.value, fields.height.value] = select.value.split("x");
    free(select.value === FREE);
  };
}

function showSize() {
  const key = `${fields.width.value}x${fields.height.value}`;
  const known = [...byId("size").options].some((one) => one.value === key);
  byId("size").value = known ? key : FREE;
  free(!known);
}

function free(shown) {
  for (const holder of document.querySelectorAll(".size-free")) holder.hidden = !shown;
}
