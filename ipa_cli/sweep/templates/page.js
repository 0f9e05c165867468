"use strict";
(() => {
  const sweep = JSON.parse(document.getElementById("sweep").textContent);
  const byId = (id) => document.getElementById(id);
  const columns = sweep.scales.length;
  const pointAt = (row, column) => sweep.points[row * columns + column];
  const pictureOf = (point) => document.querySelector(`[data-point="${point.number}"] img`);
  const clamp = (value, length) => Math.min(Math.max(value, 0), length - 1);

  for (const section of document.querySelectorAll(".needs-script")) section.hidden = false;
  document.querySelector(".without-script").hidden = true;
  for (const thumb of document.querySelectorAll("[data-reference]")) {
    showReference(thumb, sweep.references[thumb.dataset.reference]);
  }

  // References given as embeddings have no picture.
  function showReference(image, reference) {
    image.hidden = !reference.src;
    if (reference.src) image.src = reference.src;
  }

  function option(label, value) {
    const made = document.createElement("option");
    made.textContent = label;
    made.value = value;
    return made;
  }

  /** Put a point's picture, or why it has none, into a figure. */
  function fill(view, point) {
    const picture = pictureOf(point);
    const image = view.querySelector("img");
    const failure = view.querySelector(".failure");
    const holder = view.querySelector(".enlarge") ?? image;
    holder.hidden = !picture;
    failure.hidden = Boolean(picture);
    failure.textContent = point.error ?? "not drawn";
    image.alt = picture ? picture.alt : "";
    if (picture) image.src = picture.src;
    else image.removeAttribute("src");
  }

  function changeInWords(point) {
    if (point.mean === null) return "";
    const mean = `${point.mean.toFixed(2)} of 255 on average`;
    const share = `${(100 * point.share).toFixed(1)} % of the pixels`;
    return `Differs from scale ${sweep.labels[point.before]} by ${mean}, in ${share}.`;
  }

  // --- through the scale ---

  const state = { row: 0, column: 0 };
  const slider = byId("scale");
  slider.max = columns - 1;
  sweep.scales.forEach((_, column) => byId("ticks").append(option("", column)));
  sweep.rows.forEach((row, index) => byId("row").append(option(row.label, index)));
  byId("first").textContent = sweep.labels[0];
  byId("last").textContent = sweep.labels[columns - 1];

  function show(row, column) {
    state.row = row;
    state.column = column;
    const point = pointAt(row, column);
    const reference = sweep.references[sweep.rows[row].reference];
    fill(byId("stage"), point);
    slider.value = column;
    slider.setAttribute("aria-valuetext", sweep.labels[column]);
    byId("row").value = row;
    byId("scale-now").textContent = sweep.labels[column];
    byId("change").textContent = changeInWords(point);
    showReference(byId("reference"), reference);
    byId("reference").alt = `Reference picture ${reference.name}`;
    byId("reference-name").textContent = reference.name;
    byId("prompt").textContent = sweep.prompts[sweep.rows[row].prompt];
  }

  const step = (by) => show(state.row, clamp(state.column + by, columns));
  slider.addEventListener("input", () => show(state.row, Number(slider.value)));
  byId("row").addEventListener("change", (event) => show(Number(event.target.value), state.column));
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));

  let timer = null;
  const play = byId("play");
  function playing(on) {
    clearInterval(timer);
    timer = on ? setInterval(() => show(state.row, (state.column + 1) % columns), 700) : null;
    play.textContent = on ? "Pause" : "Play";
    play.setAttribute("aria-pressed", String(on));
  }
  play.addEventListener("click", () => playing(timer === null));

  // --- side by side ---

  function side(element, row, column) {
    const rows = element.querySelector(".choose-row");
    const scales = element.querySelector(".choose-scale");
    sweep.rows.forEach((one, index) => rows.append(option(one.label, index)));
    sweep.labels.forEach((label, index) => scales.append(option(label, index)));
    const chosen = () => pointAt(Number(rows.value), Number(scales.value));
    const set = (toRow, toColumn) => {
      rows.value = toRow;
      scales.value = toColumn;
      fill(element.querySelector(".view"), chosen());
    };
    for (const select of [rows, scales]) {
      select.addEventListener("change", () => set(Number(rows.value), Number(scales.value)));
    }
    element.querySelector(".enlarge").addEventListener("click", () => open(chosen()));
    set(row, column);
    return set;
  }
  const setLeft = side(byId("left"), 0, 0);
  const setRight = side(byId("right"), 0, columns - 1);

  // --- enlarged ---

  const viewer = byId("viewer");
  let enlarged = sweep.points[0];

  function open(point) {
    enlarged = point;
    const row = sweep.rows[point.row];
    fill(byId("large"), point);
    byId("viewer-title").textContent = `Scale ${sweep.labels[point.column]}, row ${point.row + 1}`;
    const change = changeInWords(point);
    const settings = [
      ["scale", sweep.labels[point.column]],
      ["reference", sweep.references[row.reference].source],
      ["prompt", sweep.prompts[row.prompt]],
      ["size", `${row.width} × ${row.height}`],
      ["seed", row.seed],
      ...Object.entries(row.values),
      ...sweep.settings,
      ...(change ? [["difference", change]] : []),
      ...(point.sha256 ? [["file", point.file], ["SHA-256", point.sha256]] : []),
    ];
    byId("viewer-settings").replaceChildren(
      ...settings.flatMap(([name, value]) => {
        const term = document.createElement("dt");
        const text = document.createElement("dd");
        term.textContent = name;
        text.textContent = value;
        return [term, text];
      }),
    );
    if (!viewer.open) {
      playing(false);
      viewer.showModal();
    }
  }

  function move(down, right) {
    open(pointAt(clamp(enlarged.row + down, sweep.rows.length), clamp(enlarged.column + right, columns)));
  }

  byId("stage").querySelector(".enlarge").addEventListener("click", () => open(pointAt(state.row, state.column)));
  for (const button of document.querySelectorAll("[data-point]")) {
    button.addEventListener("click", () => open(sweep.points[button.dataset.point - 1]));
  }
  byId("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
  byId("viewer-before").addEventListener("click", () => move(0, -1));
  byId("viewer-after").addEventListener("click", () => move(0, 1));
  byId("to-left").addEventListener("click", () => compareWith(setLeft));
  byId("to-right").addEventListener("click", () => compareWith(setRight));
  function compareWith(set) {
    set(enlarged.row, enlarged.column);
    viewer.close();
    byId("compare-title").scrollIntoView({ block: "start" });
  }

  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  document.addEventListener("keydown", (event) => {
    const by = moves[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (viewer.open) {
      move(...by);
    } else if (by[1] && !event.target.closest("input, select, .scroll:focus")) {
      step(by[1]);
    } else {
      return;
    }
    event.preventDefault();
  });

  // Not the first: it is usually scale 0, the one picture without the reference.
  show(0, Math.floor(columns / 2));
})();
