// Labels films by keyboard or pointer, keeps what was done in this browser, and saves a CSV.
// Names of films are text here: they are never read as markup.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const films = data.films;
  const $ = (id) => document.getElementById(id);
  const view = { at: 0, cam: false, model: false, zoom: 1, x: 0, y: 0 };
  let kept = true;

  // What was done: item -> { label, note, at, knew }; what undo goes back by; and the items of which
  // the model's answer or its evidence was shown, which no undo takes back.
  let done = { answers: {}, undo: [], seen: {} };
  try {
    done = JSON.parse(localStorage.getItem(data.key)) || done;
  } catch {
    kept = false;
  }

  function keep() {
    try {
      localStorage.setItem(data.key, JSON.stringify(done));
    } catch {
      kept = false;
    }
  }

  const answer = (n) => done.answers[films[n].item] || {};
  const decided = (n) => "label" in answer(n);
  const count = () => films.filter((_, n) => decided(n)).length;

  function remember(item) {
    done.undo.push([item, done.answers[item] || null]);
    if (done.undo.length > 1000) done.undo.shift();
  }

  function label(name) {
    const item = films[view.at].item;
    remember(item);
    const given = { label: name, knew: Boolean(done.seen[item]), at: new Date().toISOString() };
    done.answers[item] = { ...done.answers[item], ...given };
    keep();
    const said = name ? `Film ${view.at + 1}: ${name}. ` : `Film ${view.at + 1}: not sure. `;
    const order = films.map((_, n) => (view.at + 1 + n) % films.length);
    const next = order.find((n) => !decided(n));
    show(next === undefined ? view.at : next, said + (next === undefined ? "All films are done. " : ""));
  }

  // A note is kept as it is typed, since a page may be closed at any letter. What is typed in one
  // stay in its field is one step of undo.
  let noted = false;
  let soon = 0;

  function keepNote() {
    clearTimeout(soon);
    const item = films[view.at].item;
    const note = $("note").value;
    if (note === (answer(view.at).note || "")) return;
    if (!noted) remember(item);
    noted = true;
    done.answers[item] = { ...done.answers[item], note };
    keep();
  }

  function undo() {
    const last = done.undo.pop();
    noted = false;
    if (!last) return show(view.at, "Nothing to undo. ");
    const [item, before] = last;
    if (before) done.answers[item] = before;
    else delete done.answers[item];
    keep();
    show(films.findIndex((film) => film.item === item), "Undone. ");
  }

  function picture(film) {
    const frame = $("frame");
    frame.replaceChildren();
    const [width, height] = film.size;
    frame.style.aspectRatio = `${width}/${height}`;
    frame.style.width = `${Math.min(100, (100 * width) / height)}%`;
    if (!film.jpeg) {
      const said = document.createElement("p");
      said.textContent = `Cannot be shown: ${film.reason}`;
      frame.append(said);
      return;
    }
    const image = document.createElement("img");
    image.src = film.jpeg;
    image.alt = `Film ${film.name.slice(0, 80)}`;
    image.className = "film-image";
    frame.append(image);
    if (film.cam) {
      const cam = document.createElement("img");
      cam.src = film.cam;
      cam.alt = "";
      cam.className = "cam";
      ["left", "top", "width", "height"].forEach((side, n) => {
        cam.style[side] = `${100 * film.box[n]}%`;
      });
      frame.append(cam);
    }
  }

  function draw() {
    const film = films[view.at];
    const cam = $("frame").querySelector(".cam");
    if (cam) cam.hidden = !view.cam;
    $("frame").style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
    const centre = Number($("centre").value) / 255;
    const width = Number($("width").value) / 255;
    // 0 where the window begins, 1 where it ends.
    for (const part of document.querySelectorAll("#window feComponentTransfer > *")) {
      part.setAttribute("slope", String(1 / width));
      part.setAttribute("intercept", String(0.5 - centre / width));
    }
    const plain = centre > 0.49 && centre < 0.51 && width === 1;
    const image = $("frame").querySelector(".film-image");
    if (image) image.style.filter = plain ? "" : "url(#window)";
    let said = "";
    if (view.model) said = `Model: ${(100 * film.probability).toFixed(1)} %. ${film.said}`;
    if (view.cam && !film.cam) said += film.mapped ? " Nothing in it speaks for the disease." : " There is no map of the evidence of this film.";
    $("said").textContent = said;
    press("cam", view.cam);
    press("model", view.model);
  }

  function press(action, on) {
    document.querySelector(`[data-do=${action}]`).setAttribute("aria-pressed", String(on));
  }

  function show(n, said = "") {
    const moved = n !== view.at || !$("frame").firstChild;
    view.at = n;
    if (moved) {
      noted = false;
      Object.assign(view, { zoom: 1, x: 0, y: 0 });
      picture(films[n]);
    }
    see();
    const film = films[n];
    const name = document.createElement("bdi");
    name.className = "name";
    name.title = film.name;
    name.textContent = film.name.length > 90 ? `${film.name.slice(0, 44)}…${film.name.slice(-44)}` : film.name;
    $("name").replaceChildren(`Film ${n + 1} of ${films.length}: `, name);
    $("note").value = answer(n).note || "";
    for (const button of document.querySelectorAll("[data-class]")) {
      const mine = decided(n) && answer(n).label === data.classes[button.dataset.class];
      button.setAttribute("aria-pressed", String(mine));
    }
    press("unsure", decided(n) && answer(n).label === "");
    $("progress").max = films.length;
    $("progress").value = count();
    const where = kept ? "" : " This browser keeps nothing: save before you close the page.";
    $("status").textContent = `${said}${count()} of ${films.length} films are done.${where}`;
    list();
    draw();
  }

  function list() {
    const items = $("list");
    if (!items.firstChild) {
      films.forEach((_, n) => {
        const entry = document.createElement("li");
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = String(n + 1);
        button.addEventListener("click", () => show(n));
        entry.append(button);
        items.append(entry);
      });
    }
    films.forEach((_, n) => {
      const button = items.children[n].firstChild;
      const state = decided(n) ? answer(n).label || "not sure" : "to be done";
      button.setAttribute("aria-label", `Film ${n + 1}: ${state}`);
      button.title = state;
      button.className = decided(n) ? "done" : "";
      if (n === view.at) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
  }

  // A spreadsheet takes a cell that begins so for a formula.
  const harmless = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const cell = (text) => (/[",;\t\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  function csv() {
    const head = "job_id,item_no,sha256,label,note,why,probability,seen_model,labelled_at,film_name";
    const rows = films.map((film, n) => {
      const given = answer(n);
      return [
        String(data.job), String(film.item), film.sha256, given.label || "", harmless(given.note || ""),
        film.why, String(film.probability), decided(n) ? String(Number(given.knew)) : "",
        decided(n) ? given.at : "", harmless(film.name),
      ].map(cell).join(",");
    });
    return `\ufeff${[head, ...rows].join("\n")}\n`;
  }

  function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = data.csv;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    show(view.at, `${data.csv} is saved. `);
  }

  function slide(id, by) {
    $(id).value = String(Number($(id).value) + by);
    draw();
  }

  function zoom(by) {
    view.zoom = Math.min(8, Math.max(1, view.zoom * by));
    if (view.zoom === 1) Object.assign(view, { x: 0, y: 0 });
    draw();
  }

  const actions = {
    unsure: () => label(""),
    undo,
    before: () => show((view.at + films.length - 1) % films.length),
    next: () => show((view.at + 1) % films.length),
    cam: () => { view.cam = !view.cam; see(); draw(); },
    model: () => { view.model = !view.model; see(); draw(); },
    larger: () => zoom(1.25),
    smaller: () => zoom(0.8),
    reset: () => { Object.assign(view, { zoom: 1, x: 0, y: 0 }); $("centre").value = 128; $("width").value = 255; draw(); },
    save,
  };

  function see() {
    if (!view.model && !view.cam) return;
    done.seen[films[view.at].item] = true;
    keep();
  }

  const keys = {
    0: actions.unsure, u: undo, arrowleft: actions.before, arrowright: actions.next,
    o: actions.cam, m: actions.model, "+": actions.larger, "=": actions.larger,
    "-": actions.smaller, r: actions.reset, s: save,
    "[": () => slide("width", -16), "]": () => slide("width", 16),
    ",": () => slide("centre", 8), ".": () => slide("centre", -8),
    n: () => $("note").focus(),
  };

  document.addEventListener("keydown", (event) => {
    const inText = event.target === $("note");
    if (inText && event.key === "Escape") return document.querySelector("[data-class]").focus();
    const inRange = event.target.type === "range" && event.key.startsWith("Arrow");
    if (inText || inRange || event.altKey || event.metaKey || !$("keys-on").checked) return;
    if (event.ctrlKey) {
      if (event.key.toLowerCase() !== "z") return;
      event.preventDefault();
      return undo();
    }
    const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] };
    if (event.shiftKey && step[event.key]) {
      event.preventDefault();
      view.x += step[event.key][0];
      view.y += step[event.key][1];
      return draw();
    }
    const place = "123456789".indexOf(event.key);
    if (place >= 0 && place < data.classes.length) {
      event.preventDefault();
      return label(data.classes[place]);
    }
    const act = keys[event.key.toLowerCase()];
    if (act) {
      event.preventDefault();
      act();
    }
  });

  for (const button of document.querySelectorAll("[data-class]")) {
    button.addEventListener("click", () => label(data.classes[button.dataset.class]));
  }
  for (const button of document.querySelectorAll("[data-do]")) {
    button.addEventListener("click", () => actions[button.dataset.do]());
  }
  $("note").addEventListener("focus", () => { noted = false; });
  $("note").addEventListener("change", keepNote);
  $("note").addEventListener("input", () => {
    clearTimeout(soon);
    soon = setTimeout(keepNote, 300);
  });
  // Before what a click does: on some phones a button takes no focus from the note.
  document.addEventListener("click", keepNote, true);
  window.addEventListener("pagehide", keepNote);
  document.addEventListener("visibilitychange", keepNote);
  for (const id of ["centre", "width"]) $(id).addEventListener("input", draw);
  $("stage").addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.1 : 1 / 1.1);
  }, { passive: false });
  $("stage").addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    $("stage").setPointerCapture(event.pointerId);
    const begin = { x: event.clientX - view.x, y: event.clientY - view.y };
    const move = (to) => {
      if (view.zoom === 1) return;
      view.x = to.clientX - begin.x;
      view.y = to.clientY - begin.y;
      draw();
    };
    $("stage").addEventListener("pointermove", move);
    $("stage").addEventListener("pointerup", () => $("stage").removeEventListener("pointermove", move), { once: true });
  });

  const first = films.findIndex((_, n) => !decided(n));
  show(first < 0 ? 0 : first);
})();
