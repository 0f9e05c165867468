// The reference pictures: their bytes, their names, and their small pictures on the page.

import { Failure } from "./api.js";

const thumbs = document.getElementById("thumbs");
let pictures = [];
let changed = () => {};

/** Call `listener` when references come or go. */
export function onReferences(listener) {
  changed = listener;
}

/** All reference pictures: `name`, `base64` and `url` of each. */
export const references = () => pictures;

/** Add files, each under a name that no other has. Throws Failure where one cannot be read. */
export async function addReferences(files) {
  const read = await Promise.all([...files].map(async (file) => ({ file, base64: await base64(file) })));
  const added = []; // named after the reading, during which others may have come
  for (const { file, base64 } of read) {
    const name = unique(file.name || "pasted.png", [...pictures, ...added]);
    added.push({ name, base64, url: URL.createObjectURL(file) });
  }
  setReferences([...pictures, ...added]);
}

/** Show these reference pictures, which `references` gave earlier. */
export function setReferences(shown) {
  pictures = shown;
  thumbs.replaceChildren(...pictures.map(thumb));
  changed();
}

function unique(name, others) {
  const [, stem, suffix] = name.match(/^(.*?)(\.[^.]*)?$/s);
  for (let number = 1; ; number++) {
    const candidate = number === 1 ? name : `${stem}-${number}${suffix ?? ""}`;
    if (!others.some((one) => one.name === candidate)) return candidate;
  }
}

/** The bytes of a file. Throws Failure where it cannot be read. */
export async function bytes(file) {
  try {
    return new Blob([await file.arrayBuffer()]);
  } catch {
    throw new Failure(`${file.name} cannot be read`, "it is a folder, or has been moved or changed: take the picture files themselves");
  }
}

async function base64(file) {
  const whole = await bytes(file);
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(whole);
  });
}

function thumb(picture) {
  const figure = document.createElement("figure");
  const image = document.createElement("img");
  const caption = document.createElement("figcaption");
  const remove = document.createElement("button");
  figure.className = "thumb";
  image.src = picture.url;
  image.alt = ""; // its name is beside it
  caption.textContent = caption.title = picture.name;
  remove.type = "button";
  remove.textContent = "✕";
  remove.setAttribute("aria-label", `Remove ${picture.name}`);
  remove.addEventListener("click", () => {
    setReferences(pictures.filter((one) => one !== picture));
    document.getElementById("files").focus();
  });
  figure.append(image, caption, remove);
  return figure;
}
