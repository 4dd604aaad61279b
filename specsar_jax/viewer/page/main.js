// The page of specsar_jax.view: Leaflet's map, and beside it what is in view.
"use strict";
(async () => {
  const $ = (selector) => document.querySelector(selector);
  const make = (name, text = "", className = "") => Object.assign(document.createElement(name), {textContent: text, className});
  const trouble = (text) => { $("#trouble").textContent = text; $("#trouble").hidden = !text; };
  const ask = async (address, signal) => {
    const response = await fetch(address, {signal});
    if (!response.ok) throw new Error(await response.text());
    return response.json();
  };
  const gone = (error) => {
    if (error.name === "AbortError") return;
    trouble(error.name === "TypeError" ? "The program that serves this page does not answer; was it stopped?" : error.message);
  };

  let about;
  try { about = await ask("about.json"); } catch (error) { return gone(error); }
  const {classes, placed} = about;
  const [west, south, east, north] = about.bounds;
  const bounds = L.latLngBounds([south, west], [north, east]);

  document.title = `${about.name}: land-cover map`;
  $("h1").textContent = about.name;
  const size = about.size.map((n) => n.toLocaleString("en")).join(" × ");
  $(".facts").textContent = `${size} pixels, ${placed ? about.crs : "without a place on earth"}`;
  const {weights_origin: origin = "", weights_licence: licence = ""} = about.tags;
  $("#weights").hidden = !origin && !licence;
  $("#weights").textContent = `Network: ${origin || "of an author who is not named"}. Licence: ${licence || "not stated"}.`;
  $("#unit").textContent = placed ? "Hectares" : "Pixels";
  for (const [name, text] of Object.entries(about.tags)) $("dl").append(make("dt", name.replaceAll("_", " ")), make("dd", text));
  $("details").hidden = !Object.keys(about.tags).length;

  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const map = L.map("map", {
    minZoom: about.zooms[0], maxZoom: about.zooms[1], maxBounds: bounds.pad(1), attributionControl: false,
    zoomAnimation: !still, fadeAnimation: !still, inertia: !still, wheelPxPerZoomLevel: 90,
  });
  if (placed) L.control.scale({imperial: false}).addTo(map);
  const tiles = (address, zIndex) => {
    const layer = L.tileLayer(address, {bounds, zIndex, maxZoom: about.zooms[1], hidden: 0n});
    layer.on("tileerror", () => ask("about.json").catch(gone));
    layer.on("load", () => trouble(""));
    return layer;
  };
  const cover = tiles("map/{hidden}/{z}/{x}/{y}.png", 2).addTo(map);
  const imagery = about.imagery ? tiles("imagery/{z}/{x}/{y}.png", 1).addTo(map) : null;

  const opacity = $("#opacity");
  const fade = () => {
    cover.setOpacity(opacity.value / 100);
    $("output").textContent = `${opacity.value} %`;
  };
  opacity.value = imagery ? 70 : 100;
  opacity.addEventListener("input", fade);
  fade();
  $("#with-imagery").hidden = !imagery;
  $("#imagery").addEventListener("change", (event) => event.target.checked ? imagery.addTo(map) : imagery.remove());
  const whole = () => map.fitBounds(bounds, {padding: [12, 12]});
  $("#whole").addEventListener("click", whole);

  // Legend and areas are one table.
  const rows = classes.map(({name, colour}, place) => {
    const row = $("tbody").insertRow(), head = make("th"), button = make("button"), swatch = make("i", "", "swatch");
    head.scope = "row";
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    swatch.style.background = colour;
    button.append(swatch, name);
    head.append(button);
    row.append(head, make("td"), make("td"));
    button.addEventListener("click", () => {
      cover.options.hidden ^= 1n << BigInt(place);
      button.setAttribute("aria-pressed", String(!(cover.options.hidden >> BigInt(place) & 1n)));
      cover.redraw();
    });
    return row;
  });
  const amount = (value) => value.toLocaleString("en", {maximumFractionDigits: !placed || value >= 100 ? 0 : value >= 1 ? 1 : 2});
  const percent = (share) => share > 0 && share < 0.001 ? "< 0.1" : (100 * share).toFixed(1);
  const fill = (row, area, sum) => {
    row.cells[1].textContent = area ? amount(area) : "–";
    row.cells[2].textContent = area ? percent(area / sum) : "";
  };
  const table = $("table");
  let asked = new AbortController(), timer;
  const count = async () => {
    asked.abort();
    asked = new AbortController();
    const view = map.getBounds();
    const query = new URLSearchParams({west: view.getWest(), south: view.getSouth(), east: view.getEast(), north: view.getNorth()});
    try {
      const {areas, step_px: step} = await ask(`areas.json?${query}`, asked.signal);
      const sum = areas.reduce((a, b) => a + b, 0);
      rows.forEach((row, place) => fill(row, areas[place], sum));
      fill($("tfoot tr"), sum, sum);
      const of = placed ? "True areas on the ground, not on the stretched picture" : "The map does not say where it is, so there are no hectares";
      $("#how").textContent = `${of}${step > 1 ? `; estimated from samples ${step.toFixed(1)} pixels apart, zoom in for all pixels` : ""}.`;
      table.removeAttribute("aria-busy");
    } catch (error) { gone(error); }
  };
  map.on("moveend", () => {
    table.setAttribute("aria-busy", "true");
    clearTimeout(timer);
    timer = setTimeout(count, 150);
  });

  // The pixel that was asked for.
  const told = (place, found) => {
    const box = make("div");
    box.setAttribute("aria-live", "polite");
    box.append(make("h3", !found ? "Outside of the map" : found.class === null ? "Without a class" : classes[found.class].name));
    const where = [];
    if (placed) where.push(`${place.lat.toFixed(5)}°, ${place.wrap().lng.toFixed(5)}°`);
    if (found) where.push(`row ${found.row}, column ${found.column}`);
    where.forEach((text) => box.append(make("p", text)));
    if (found?.probabilities) {
      const shares = make("div", "", "shares");
      found.probabilities.map((share, of) => [share, classes[of]]).sort((a, b) => b[0] - a[0]).forEach(([share, {name, colour}]) => {
        const bar = make("i"), part = make("i");
        part.style.background = colour;
        part.style.width = `${100 * share}%`;
        bar.append(part);
        shares.append(make("span", name), bar, make("b", `${(100 * share).toFixed(1)} %`));
      });
      box.append(shares);
    }
    return box;
  };
  const popup = L.popup({maxWidth: 280, minWidth: 160, maxHeight: 320});
  const point = async (place) => {
    try {
      const found = await ask(`point.json?${new URLSearchParams({lon: place.lng, lat: place.lat})}`);
      popup.setLatLng(place).setContent(told(place, found)).openOn(map);
    } catch (error) { gone(error); }
  };
  map.on("click", (event) => point(event.latlng));
  const box = $("#map");
  box.addEventListener("keydown", (event) => {
    box.classList.add("by-keys");
    if (event.key === "Enter" && event.target === box) point(map.getCenter());
  });
  box.addEventListener("keyup", () => box.classList.add("by-keys"));  // Tab came here
  box.addEventListener("pointerdown", () => box.classList.remove("by-keys"));

  whole();
  document.body.dataset.ready = "yes";
})();
