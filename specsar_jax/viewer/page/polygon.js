// A polygon, drawn by mouse, finger or keys, or given by its coordinates; and the areas of the classes in it.
import {$, ask, gone, make, save, trouble} from "./dom.js";
import {areaTable} from "./tables.js";

const SAME_PX = 6;

export const polygonOf = (map, about, state, changed, started) => {
  const shape = L.layerGroup().addTo(map);
  let drawing = false, geometry = null;

  const say = (text) => { $(drawing ? "#drawing-said" : "#polygon-said").textContent = text; };
  const controls = () => {
    $("#toolbar").hidden = !drawing;
    $("#draw").setAttribute("aria-pressed", String(drawing));
    $("#undo").disabled = !state.corners.length;
    $("#finish").disabled = state.corners.length < 3;
    $("#remove").hidden = drawing || !state.corners.length;
    map.getContainer().classList.toggle("drawing", drawing);
  };
  const sketch = () => {
    shape.clearLayers();
    const corners = state.corners, kind = drawing ? L.polyline : L.polygon;
    for (const style of !corners.length ? [] : [{color: "#fff", weight: 5}, {color: "#14212b", weight: 2, dashArray: drawing ? "6 5" : ""}]) {
      kind(corners, {...style, fill: false, interactive: false}).addTo(shape);
    }
    if (drawing) corners.forEach((at) => L.circleMarker(at, {radius: 5, color: "#14212b", weight: 2, fillColor: "#fff", fillOpacity: 1, interactive: false}).addTo(shape));
    $("#corners").value = corners.map(({lat, lng}) => `${lat.toFixed(7)}, ${lng.toFixed(7)}`).join("\n");
    controls();
  };
  const clear = () => {
    state.corners = [];
    $("#measured").replaceChildren();
    $("#polygon-files").hidden = true;
    sketch();
    changed();
  };
  const start = () => {
    clear();
    say("");
    drawing = true;
    started();
    map.doubleClickZoom.disable();
    sketch();
    say("Click the corners, the last one twice; or Enter sets one in the middle.");
    map.getContainer().scrollIntoView({block: "nearest"});
    map.getContainer().focus({preventScroll: true});
  };
  const stop = () => {
    if (!drawing) return;
    drawing = false;
    $("#draw").focus({preventScroll: true});  // what had it may be gone
    setTimeout(() => map.doubleClickZoom.enable(), 400);
    sketch();
  };
  const add = (place) => {
    const near = (corner) => map.latLngToContainerPoint(corner).distanceTo(map.latLngToContainerPoint(place)) <= SAME_PX;
    const corners = state.corners;
    if (corners.length >= 3 && (near(corners.at(-1)) || near(corners[0]))) return finish();
    if (corners.length && near(corners.at(-1))) return;
    if (corners.length >= about.most_corners) return say(`A polygon has at most ${about.most_corners} corners.`);
    corners.push({lat: +place.lat.toFixed(7), lng: +place.lng.toFixed(7)});
    sketch();
    say(`${corners.length} ${corners.length === 1 ? "corner" : "corners"}${corners.length < 3 ? "" : "; the last one twice, or Finish, closes it"}.`);
  };
  const undo = () => { state.corners.pop(); sketch(); say(`${state.corners.length} corners.`); };
  const finish = async () => {
    stop();
    await measure();
    $("#measured").scrollIntoView({block: "nearest"});
  };
  const cancel = () => { stop(); clear(); say(""); };
  const measure = async () => {
    say("Measuring.");
    changed();
    try {
      const corners = state.corners.map(({lat, lng}) => `${lng},${lat}`).join(";");
      const found = await ask("polygon.json", {corners});
      geometry = found.geometry;
      const tables = about.maps.map((of) => areaTable({...of, alone: about.maps.length === 1, unit: found.unit, toggle: null, file: `${of.name}_in_polygon.csv`}));
      $("#measured").replaceChildren(...tables.map((table) => table.element));
      tables.forEach((table, place) => table.fill(found.maps[place]));
      $("#polygon-files").hidden = false;
      const whole = [...found.maps[0].areas, found.maps[0].nodata, found.maps[0].outside].reduce((a, b) => a + b, 0);
      say(`${state.corners.length} corners, ${whole.toLocaleString("en", {maximumFractionDigits: 2})} hectares.`);
      trouble("");
      changed("polygon");
    } catch (error) {
      $("#measured").replaceChildren();
      $("#polygon-files").hidden = true;
      const refused = error.name === "Error";  // by the server, which says why
      say(refused ? `Not measured: ${error.message}.` : "");
      if (!refused) gone(error);
    }
  };
  const typed = () => {
    const lines = $("#corners").value.split("\n").map((line) => line.trim()).filter(Boolean);
    const pairs = lines.map((line) => line.split(/[\s,;]+/).map(Number));
    const wrong = pairs.findIndex((pair) => pair.length !== 2 || !pair.every(Number.isFinite));
    if (wrong >= 0) return say(`Line ${wrong + 1}: expected latitude, longitude, such as 30.4641, 73.3059.`);
    if (pairs.length < 3) return say("A polygon has three corners at least, one a line.");
    stop();
    state.corners = pairs.map(([lat, lng]) => ({lat, lng}));
    sketch();
    map.fitBounds(L.latLngBounds(state.corners), {padding: [40, 40], maxZoom: Math.max(map.getZoom(), 12)});
    measure();
  };
  const geojson = () => {
    const feature = {type: "Feature", properties: {name: "polygon"}, geometry};
    save("polygon.geojson", "application/geo+json", `${JSON.stringify({type: "FeatureCollection", features: [feature]})}\n`);
  };

  $("#polygon").hidden = !about.placed;
  $("#draw").addEventListener("click", () => drawing ? cancel() : start());
  $("#cancel").addEventListener("click", cancel);
  $("#corner").addEventListener("click", () => add(map.getCenter()));
  $("#undo").addEventListener("click", undo);
  $("#finish").addEventListener("click", finish);
  $("#remove").addEventListener("click", () => { clear(); say(""); $("#draw").focus(); });
  $("#measure").addEventListener("click", typed);
  $("#geojson").addEventListener("click", geojson);
  map.getContainer().addEventListener("keydown", (event) => {
    if (!drawing) return;
    if (event.key === "Backspace") undo();
    else if (event.key === "Escape") cancel();
    else return;
    event.preventDefault();
  });
  controls();
  return {
    drawing: () => drawing,
    add,
    restored: () => {
      $("#measured").replaceChildren();
      sketch();
      if (state.corners.length >= 3) measure();
    },
  };
};
