// The layers on the map, and the controls that choose them.
import {$, ask, calmly, gone, make, trouble} from "./dom.js";
import {swipeLine} from "./swipe.js";

const CHOSEN = ["left", "right", "heat", "opacity", "sure", "colours"], SWITCHES = ["swipe", "backdrop"];

export const layersOf = (map, about, state, changed) => {
  const bounds = L.latLngBounds([about.bounds[1], about.bounds[0]], [about.bounds[3], about.bounds[2]]);
  const panes = ["backdrop", "left", "right"].map((name, place) => {
    const pane = map.createPane(name);
    pane.style.zIndex = 200 + place;
    return pane;
  });
  const line = swipeLine(map, panes.slice(1), (at) => { state.line = Math.round(10 * at) / 10; changed(); });
  const drawn = {};

  // A layer that changes stays until the next one has loaded, so that nothing flickers.
  const draw = (pane, key) => {
    const address = key && `tiles/${key}/{z}/{x}/{y}.png?${query(key, state)}`, before = drawn[pane];
    if (before?.address === address) return before.layer?.setOpacity(opacityOf(pane, key, state));
    const layer = key ? L.tileLayer(address, {bounds, pane, maxZoom: about.zooms[1], opacity: opacityOf(pane, key, state)}) : null;
    drawn[pane] = {address, layer};
    before?.leave?.();
    const leave = () => before?.layer?.remove();
    if (!layer) return leave();
    drawn[pane].leave = leave;
    layer.on("tileerror", () => ask("about.json").catch(gone));
    layer.on("load", () => { trouble(""); leave(); });
    layer.addTo(map);
  };
  const redraw = calmly(80, () => show());
  const show = () => {
    const two = state.swipe === "1";
    draw("left", state.left);
    draw("right", two ? state.right : "");
    draw("backdrop", about.layers.imagery && state.backdrop === "1" ? "imagery" : "");
    const called = (key) => key === "heat" ? `Probability of ${about.maps[0].classes[state.heat].name}` : about.layers[key];
    line.show(two, called(state.left), called(state.right));
    line.put(state.line);
    const shown = two ? [state.left, state.right] : [state.left];
    $("#left-label").textContent = two ? "Left of the line" : "On the map";
    $("#with-right").hidden = !two;
    $("#with-heat").hidden = !shown.includes("heat");
    $("#opacity-said").textContent = `${state.opacity} %`;
    $("#sure-said").textContent = percentage(state.sure);
    swatches(about, state);
  };

  const keys = Object.keys(about.layers);
  for (const id of ["left", "right"]) {
    $(`#${id}`).append(...keys.map((key) => Object.assign(make("option", about.layers[key]), {value: key})));
  }
  $("#heat").append(...about.maps[0].classes.map(({name}, place) => Object.assign(make("option", name), {value: place})));
  $("#with-left").hidden = $("#with-swipe").hidden = keys.length < 2;
  $("#with-backdrop").hidden = !about.layers.imagery;
  $("#with-sure").hidden = !about.sureness;
  const fill = () => {
    for (const id of CHOSEN) $(`#${id}`).value = state[id];
    for (const id of SWITCHES) $(`#${id}`).checked = state[id] === "1";
  };
  for (const id of CHOSEN) {
    $(`#${id}`).addEventListener("input", (event) => {
      state[id] = typeof state[id] === "number" ? Number(event.target.value) : event.target.value;
      $("#sure-said").textContent = percentage(state.sure);
      id === "sure" ? redraw() : show();
      changed(id);
    });
  }
  for (const id of SWITCHES) {
    $(`#${id}`).addEventListener("change", (event) => {
      state[id] = event.target.checked ? "1" : "0";
      show();
      changed(id);
    });
  }
  const whole = () => map.fitBounds(bounds, {padding: [12, 12]});
  $("#whole").addEventListener("click", whole);
  return {show, fill, whole};
};

// A swatch has the colour that its class has on the map: at its opacity, over what lies below. So has the scale of the heat map.
const swatches = (about, state) => {
  const below = about.backdrop && state.backdrop === "1" ? about.backdrop : "var(--wash)";
  const seen = (colour) => `color-mix(in srgb, ${colour} ${state.opacity}%, ${below})`;
  $(".ramp i").style.background = `linear-gradient(to right, ${about.ramp.map(seen).join(", ")})`;
  for (const swatch of document.querySelectorAll(".swatch")) {
    const colour = state.colours === "safe" ? swatch.dataset.safe : swatch.dataset.colour;
    swatch.style.background = swatch.closest("#pixel") ? colour : seen(colour);
  }
};

export const swatch = ({colour, safe = colour}) => {
  const made = make("i", "", "swatch");
  Object.assign(made.dataset, {colour, safe});
  return made;
};

const percentage = (value) => value ? `${value} %` : "off";

const opacityOf = (pane, key, state) => pane === "backdrop" || key === "imagery" ? 1 : state.opacity / 100;

const query = (key, state) => new URLSearchParams({
  map: {hidden: state.hidden, sure: state.sure, colours: state.colours},
  compared: {hidden: state.hidden_compared, colours: state.colours},
  heat: {class: state.heat},
}[key] ?? {});
