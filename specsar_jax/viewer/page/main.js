// The page of specsar_jax.view: what is told of the map, the parts of the page, and what one tells the other.
import {read, written} from "./address.js";
import {agreementOf} from "./agreement.js";
import {$, ask, calmly, degrees, gone, make} from "./dom.js";
import {layersOf} from "./layers.js";
import {pixelCard} from "./pixel.js";
import {polygonOf} from "./polygon.js";
import {areaTable} from "./tables.js";

const start = async () => {
  const about = await ask("about.json"), [first, second] = about.maps;
  told(about);

  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const bounds = L.latLngBounds([about.bounds[1], about.bounds[0]], [about.bounds[3], about.bounds[2]]);
  const map = L.map("map", {
    minZoom: about.zooms[0], maxZoom: about.zooms[1], maxBounds: bounds.pad(1), attributionControl: false,
    zoomAnimation: !still, fadeAnimation: !still, inertia: !still, wheelPxPerZoomLevel: 90,
  });
  const state = {...defaults(about), ...valid(read(location.hash), about)};
  const write = calmly(200, () => history.replaceState(null, "", written(map, state, defaults(about))));

  // Areas in view: asked for when the map rests.
  const same = second && JSON.stringify(first.classes) === JSON.stringify(second.classes);
  const hide = (place, name) => {
    for (const of of same ? ["hidden", "hidden_compared"] : [name]) state[of] ^= 1n << BigInt(place);
    pressed();
    layers.show();
    write();
  };
  const unit = about.placed ? "ha" : "pixels";
  const tables = about.maps.map((of, place) => areaTable({
    ...of, alone: !second, unit, toggle: (id) => hide(id, place ? "hidden_compared" : "hidden"), file: `${of.name}_in_view.csv`,
  }));
  const pressed = () => [state.hidden, state.hidden_compared].slice(0, tables.length).forEach((hidden, place) => tables[place].pressed(hidden));
  $("#tables").append(...tables.map((table) => table.element));
  const agreement = agreementOf(about, () => { Object.assign(state, {left: "agreement", swipe: "0"}); layers.fill(); layers.show(); write(); });
  let asked = new AbortController();
  const count = calmly(150, async () => {
    asked = new AbortController();
    const view = map.getBounds();
    const query = {west: view.getWest(), south: view.getSouth(), east: view.getEast(), north: view.getNorth(), sure: state.sure};
    try {
      const found = await ask("areas.json", query, asked.signal);
      tables.forEach((table, place) => table.fill(found.maps[place]));
      agreement.fill(found);
      const of = about.placed ? "True areas on the ground, not on the stretched picture" : "The map does not say where it is, so there are no hectares";
      const step = found.step_px;
      $("#how").textContent = `${of}${step > 1 ? `; estimated from samples ${step.toFixed(1)} pixels apart, zoom in for all pixels` : ""}.`;
      $("#unsure").hidden = !state.sure || found.unsure === null;
      $("#unsure").textContent = `${(found.unsure ?? 0).toFixed(1)} % of the area that ${first.name} maps in view is less sure than ${state.sure} %.`;
    } catch (error) { gone(error); }
  });
  const recount = () => {
    asked.abort();  // what it would tell is of the view before
    tables.forEach(({table}) => table.setAttribute("aria-busy", "true"));
    count();
  };

  const layers = layersOf(map, about, state, (id) => { if (id === "sure") recount(); write(); });
  const card = pixelCard(map, about, state, () => { layers.show(); write(); });
  const polygon = polygonOf(map, about, state, () => { layers.show(); write(); }, card.close);
  const place = (at) => polygon.drawing() ? polygon.add(at) : card.show(at);
  map.on("click", (event) => place(event.latlng));
  byKeys(map, place);
  if (about.placed) furniture(map);

  const go = () => {
    if (state.view) map.setView(state.view, state.view.zoom);
    else layers.whole();
    layers.fill();
    layers.show();
    pressed();
    polygon.restored();
    if (state.pixel) card.show(state.pixel);
    else card.close();
  };
  map.on("moveend", () => { recount(); write(); });
  addEventListener("hashchange", () => { Object.assign(state, defaults(about), valid(read(location.hash), about)); go(); recount(); });
  $(".skip").addEventListener("click", (event) => {
    event.preventDefault();  // the address is that of the view
    $("#panel").focus();
  });
  $("#copy").addEventListener("click", async () => {
    history.replaceState(null, "", written(map, state, defaults(about)));
    try {
      await navigator.clipboard.writeText(location.href);
      $("#copied").textContent = "Copied. It opens the same view while this program runs.";
    } catch {
      $("#copied").textContent = "The browser does not let the page copy; the address above is that of this view.";
    }
  });
  go();
  document.body.dataset.ready = "yes";
};

// The map's own parts: scale, and the place under the pointer or else in the middle.
const furniture = (map) => {
  L.control.scale({imperial: false}).addTo(map);
  const where = L.control({position: "bottomright"}), text = make("div", "", "where");
  where.onAdd = () => text;
  where.addTo(map);
  map.on("mousemove", (event) => { text.textContent = degrees(event.latlng); });
  map.on("moveend mouseout", () => { text.textContent = `middle ${degrees(map.getCenter())}`; });
};

const byKeys = (map, place) => {
  const box = map.getContainer();
  box.addEventListener("keydown", (event) => {
    box.classList.add("by-keys");
    if (event.key !== "Enter" || event.target !== box) return;
    event.preventDefault();
    place(map.getCenter());
  });
  box.addEventListener("keyup", () => box.classList.add("by-keys"));  // Tab came here
  box.addEventListener("pointerdown", () => box.classList.remove("by-keys"));
};

const defaults = ({layers}) => ({
  view: null, left: "map", right: ["compared", "imagery", "heat"].find((key) => key in layers) ?? "map",
  swipe: "compared" in layers ? "1" : "0", line: 50, opacity: layers.imagery ? 70 : 100, backdrop: "1", sure: 0, heat: 0, colours: "own",
  hidden: 0n, hidden_compared: 0n, pixel: null, corners: [],
});

// An address of another map may name what this one does not have.
const valid = (found, {layers, zooms, maps, most_corners: most, sureness}) => {
  for (const side of ["left", "right"]) if (found[side] && !(found[side] in layers)) delete found[side];
  if (Object.keys(layers).length < 2) delete found.swipe;
  if (!sureness) delete found.sure;
  if (found.heat >= maps[0].classes.length) delete found.heat;
  if (found.view) found.view.zoom = Math.min(Math.max(found.view.zoom, zooms[0]), zooms[1]);
  found.corners = found.corners.length >= 3 && found.corners.length <= most ? found.corners : [];
  return found;
};

// What the page says of the maps themselves.
const told = (about) => {
  const [first, second] = about.maps, names = about.maps.map(({name}) => name).join(" and ");
  document.title = `${names}: land-cover map`;
  $("h1").textContent = names;
  const size = (of) => `${of.size.map((n) => n.toLocaleString("en")).join(" × ")} pixels, ${about.placed ? of.crs : "without a place on earth"}`;
  $(".facts").textContent = second && size(first) !== size(second) ? `${size(first)}; ${size(second)}` : size(first);
  const {origin, licence} = about.weights;
  $("#weights").hidden = !origin && !licence;
  $("#weights").textContent = `Network: ${origin || "of an author who is not named"}. Licence: ${licence || "not stated"}.`;
  for (const of of about.maps) {
    for (const text of of.warnings) $("#warnings").append(make("p", second ? `${of.name}: ${text}` : text));
    const details = make("details"), list = make("dl");
    for (const [name, text] of of.origin) list.append(make("dt", name), make("dd", text));
    details.append(make("summary", second ? of.name : "Software, weights, files"), list);
    $("#origin").append(details);
  }
  $("#warnings").hidden = !$("#warnings").childElementCount;
};

start().catch(gone);
