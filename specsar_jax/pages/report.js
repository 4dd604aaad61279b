"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const NONE = 255;

  // One stop of the keyboard for a group: arrows move in it. Up and down go to the same place of the row before or after.
  const roving = (box) => {
    const items = () => all(box.dataset.rove, box).filter((item) => !item.hidden);
    const focus = (item) => {
      items().forEach((other) => { other.tabIndex = other === item ? 0 : -1; });
      item.focus();
    };
    const step = (from, key) => {
      const list = items(), place = list.indexOf(from);
      const rows = box.dataset.rows ? all(box.dataset.rows, box).map((row) => all(box.dataset.rove, row)) : [];
      const row = rows.findIndex((others) => others.includes(from));
      const beside = (by) => list[Math.min(Math.max(place + by, 0), list.length - 1)];
      const below = (by) => {
        if (row < 0) return beside(by);
        const next = rows[Math.min(Math.max(row + by, 0), rows.length - 1)];
        return next[Math.min(rows[row].indexOf(from), next.length - 1)];
      };
      return {
        ArrowRight: () => beside(1), ArrowLeft: () => beside(-1), ArrowDown: () => below(1), ArrowUp: () => below(-1),
        Home: () => list[0], End: () => list[list.length - 1],
      }[key]?.();
    };
    items().forEach((item, place) => { item.tabIndex = place ? -1 : 0; });
    box.addEventListener("focusin", (event) => {
      const item = event.target.closest(box.dataset.rove);
      if (item) items().forEach((other) => { other.tabIndex = other === item ? 0 : -1; });
    });
    box.addEventListener("keydown", (event) => {
      const item = event.target.closest(box.dataset.rove);
      if (!item || event.ctrlKey || event.altKey || event.metaKey) return;
      const next = step(item, event.key);
      if (!next) return;
      event.preventDefault();
      focus(next);
    });
  };

  // Class ids of a picture, from its colours.
  const buttons = all("#legend button[data-drawn]");
  const drawn = buttons.map((button) => parseInt(button.dataset.drawn, 16));
  const nearest = (value) => {
    const off = (other) => [16, 8, 0].reduce((sum, shift) => sum + (((value >> shift) & 255) - ((other >> shift) & 255)) ** 2, 0);
    return drawn.reduce((best, other, id) => (off(other) < off(drawn[best]) ? id : best), 0);
  };
  const known = new Map(drawn.map((value, id) => [value, id]));
  const read = new WeakMap();
  const classes = (picture) => {
    if (read.has(picture)) return read.get(picture);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const ids = new Uint8Array(data.length / 4);
    for (let i = 0; i < ids.length; i += 1) {
      const value = (data[4 * i] << 16) | (data[4 * i + 1] << 8) | data[4 * i + 2];
      if (data[4 * i + 3] < 128) { ids[i] = NONE; continue; }
      // A browser that guards against fingerprints may give a colour that is a little off.
      if (!known.has(value)) known.set(value, nearest(value));
      ids[i] = known.get(value);
    }
    read.set(picture, ids);
    return ids;
  };

  // Pictures in other colours, or of one class only: a canvas over the picture.
  const safe = document.querySelector("#safe-colours");
  let only = NONE;
  const dot = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const colour = (name) => {
    dot.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name);
    dot.fillRect(0, 0, 1, 1);
    return dot.getImageData(0, 0, 1, 1).data;
  };
  const other = (picture, kind) => picture.closest(".tile").querySelector(
    `.pane[data-kind="${kind}"]${kind === "map" ? `[data-run="${picture.parentElement.dataset.run}"]` : ""} img`);
  const paint = (pane, source) => {
    const picture = source.querySelector("img"), { kind } = source.dataset;
    pane.querySelector("canvas")?.remove();
    if (!["label", "map", "errors"].includes(kind) || (only === NONE && (!safe.checked || kind === "errors"))) return;
    const canvas = document.createElement("canvas");
    const [width, height] = [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
    const as = (rgba) => new Uint32Array(new Uint8ClampedArray(rgba).buffer)[0];
    if (kind === "errors") {
      const [wrong, right, rest] = ["--wrong", "--right", "--rest"].map((name) => as(colour(name)));
      const label = classes(other(picture, "label")), map = classes(other(picture, "map"));
      label.forEach((id, i) => {
        if (id === NONE || map[i] === NONE) return;
        pixels[i] = id !== only && map[i] !== only ? rest : id === map[i] ? right : wrong;
      });
    } else {
      // What a class is shown before is light where it is dark, and the other way round.
      const light = only !== NONE && colour(`--c${only}`).slice(0, 3).reduce((sum, part) => sum + part) > 450;
      const rest = as(colour(light ? "--dark-rest" : "--light-rest"));
      const palette = buttons.map((_, id) => (only === NONE || id === only ? as(colour(`--c${id}`)) : rest));
      classes(picture).forEach((id, i) => { if (id !== NONE) pixels[i] = palette[id]; });
    }
    context.putImageData(image, 0, 0);
    pane.append(canvas);
  };
  const panes = all(".tile .pane");
  const repaint = () => { panes.forEach((pane) => paint(pane, pane)); refresh(); };
  const every = document.querySelector("#every-class");
  const choose = (id) => {
    only = id;
    buttons.forEach((button, place) => button.setAttribute("aria-pressed", place === only));
    every.hidden = only === NONE;
    repaint();
  };
  buttons.forEach((button, id) => { button.disabled = false; button.addEventListener("click", () => choose(only === id ? NONE : id)); });
  every.addEventListener("click", () => { buttons[only].focus(); choose(NONE); });
  all("#legend input").forEach((input) => { input.addEventListener("change", repaint); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  // What lies under the pointer, in all pictures of the tile.
  const reading = document.querySelector("#reading");
  const point = (tile, pane, event) => {
    const box = pane.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
    tile.classList.add("pointed");
    tile.style.setProperty("--x", `${100 * x}%`);
    tile.style.setProperty("--y", `${100 * y}%`);
    const of = shown ? shown[place].closest(".tile") : tile;
    const id = (picture) => classes(picture)[
      Math.floor(y * picture.naturalHeight) * picture.naturalWidth + Math.floor(x * picture.naturalWidth)];
    const name = (picture) => buttons[id(picture)]?.textContent.trim() ?? "none";
    reading.textContent = all('.pane[data-kind="label"] img, .pane[data-kind="map"] img', of)
      .map((picture) => `${picture.parentElement.dataset.title}: ${name(picture)}`).join("\n");
    const here = (shown ? shown[place] : pane.querySelector("img")).parentElement;
    const under = ["label", "map"].includes(here.dataset.kind) ? id(here.querySelector("img")) : NONE;
    buttons.forEach((button, place) => button.classList.toggle("under", place === under));
  };
  const leave = (tile) => {
    tile.classList.remove("pointed");
    reading.textContent = "";
    buttons.forEach((button) => button.classList.remove("under"));
  };

  // The picture enlarged.
  const box = document.querySelector("#viewer"), large = box.querySelector(".pane");
  const picture = large.querySelector("img"), text = box.querySelector("p"), list = box.querySelector(".legend");
  let shown = null, place = 0;
  const refresh = () => { if (shown) paint(large, shown[place].parentElement); };
  const largest = (ids) => {
    const counts = buttons.map(() => 0);
    ids.forEach((id) => { if (id !== NONE) counts[id] += 1; });
    const whole = counts.reduce((sum, count) => sum + count, 0);
    return buttons.map((button, id) => [button, counts[id] / whole]).filter(([, share]) => share > 0)
      .sort(([, a], [, b]) => b - a).slice(0, 12).map(([button, share]) => {
        const entry = document.createElement("li");
        entry.append(button.querySelector(".swatch").cloneNode(), `${button.textContent.trim()} ${(100 * share).toFixed(1)} %`);
        return entry;
      });
  };
  const show = (next) => {
    place = (next + shown.length) % shown.length;
    const { src, alt } = shown[place];
    Object.assign(picture, { src, alt });
    Object.assign(large.dataset, { kind: shown[place].parentElement.dataset.kind });
    text.textContent = alt;
    list.replaceChildren(...(["label", "map"].includes(large.dataset.kind) ? largest(classes(shown[place])) : []));
    refresh();
  };
  all(".tile button").forEach((button) => button.addEventListener("click", () => {
    shown = all("img", button.closest(".tile"));
    show(shown.indexOf(button.querySelector("img")));
    leave(button.closest(".tile"));
    box.querySelector(".stage").append(reading);
    box.showModal();
  }));
  box.querySelector(".back").addEventListener("click", () => show(place - 1));
  box.querySelector(".next").addEventListener("click", () => show(place + 1));
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") show(place - 1);
    if (event.key === "ArrowRight") show(place + 1);
  });
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  box.addEventListener("close", () => {
    const last = shown[place].closest("button");
    shown = null;
    leave(box.querySelector(".stage"));
    document.querySelector("#legend").append(reading);
    last.focus();
  });
  [...all(".tile"), box.querySelector(".stage")].forEach((tile) => {
    tile.addEventListener("pointermove", (event) => {
      const pane = event.target.closest(".pane");
      if (pane) point(tile, pane, event); else leave(tile);
    });
    tile.addEventListener("pointerleave", () => leave(tile));
  });

  all("[data-rove]").forEach(roving);

  // A table that is wider than its box says so at its edge, and is a stop of the keyboard; another is not.
  const boxes = all(".scroll, .classes");
  const wide = () => boxes.forEach((box) => {
    const room = box.scrollWidth - box.clientWidth;
    box.classList.toggle("more", room - box.scrollLeft > 2);
    if (box.matches(".classes")) return;
    if (room > 1) box.tabIndex = 0; else box.removeAttribute("tabindex");
  });
  boxes.forEach((box) => { box.addEventListener("scroll", wide, { passive: true }); });
  all("details").forEach((fold) => { fold.addEventListener("toggle", wide); });
  addEventListener("resize", wide);
  wide();
})();
