// The place and what is shown of it, in the page's address: #zoom/lat/lon?swipe=1&right=imagery&line=30

const NUMBERS = {line: [0, 100], opacity: [0, 100], sure: [0, 100], heat: [0, 63]};
const WORDS = {left: /^[a-z]{1,20}$/, right: /^[a-z]{1,20}$/, colours: /^(own|safe)$/, backdrop: /^[01]$/, swipe: /^[01]$/};
const WIDE = {hidden: /^\d{1,20}$/, hidden_compared: /^\d{1,20}$/};

// What an address says that this page understands; the rest of it is left out.
export const read = (hash) => {
  const [place, query = ""] = hash.replace(/^#/, "").split("?"), said = new URLSearchParams(query), found = {};
  const [zoom, lat, lng] = place.split("/").map(Number);
  if (place.split("/").length === 3 && [zoom, lat, lng].every(Number.isFinite)) found.view = {zoom, lat, lng};
  for (const [name, [low, high]] of Object.entries(NUMBERS)) {
    const value = Number(said.get(name) ?? NaN);
    if (Number.isFinite(value)) found[name] = Math.min(Math.max(value, low), high);
  }
  for (const [name, form] of Object.entries(WORDS)) if (form.test(said.get(name) ?? "")) found[name] = said.get(name);
  for (const [name, form] of Object.entries(WIDE)) if (form.test(said.get(name) ?? "")) found[name] = BigInt(said.get(name));
  found.pixel = pairs(said.get("pixel"))[0] ?? null;
  found.corners = pairs(said.get("polygon"));
  return found;
};

// The address of what is shown: the place, and what is not as the page opens.
export const written = (map, state, usual) => {
  const {lat, lng} = map.getCenter(), said = new URLSearchParams();
  for (const name of [...Object.keys(WORDS), ...Object.keys(NUMBERS), ...Object.keys(WIDE)]) {
    if (state[name] !== usual[name]) said.set(name, state[name]);
  }
  if (state.pixel) said.set("pixel", told([state.pixel]));
  if (state.corners.length) said.set("polygon", told(state.corners));
  const query = said.toString().replaceAll("%2C", ",").replaceAll("%3B", ";");
  return `#${map.getZoom()}/${lat.toFixed(5)}/${lng.toFixed(5)}${query && `?${query}`}`;
};

const pairs = (text) => (text ?? "").split(";").map((part) => part.split(",").map(Number))
  .filter((pair) => pair.length === 2 && pair.every(Number.isFinite)).map(([lat, lng]) => ({lat, lng}));

const told = (places) => places.map(({lat, lng}) => `${+lat.toFixed(7)},${+lng.toFixed(7)}`).join(";");
