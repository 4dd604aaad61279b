// The pixel that was asked for: marked on the map, and told in a card that lies beside the buttons, on phones below.
import {$, ask, button, degrees, gone, make} from "./dom.js";
import {swatch} from "./layers.js";

export const pixelCard = (map, about, state, changed) => {
  const card = $("#pixel"), marks = L.layerGroup().addTo(map);

  const close = () => {
    card.hidden = true;
    card.replaceChildren();
    marks.clearLayers();
    state.pixel = null;
    changed();
  };
  const named = (place, of) => {
    const line = make("h3");
    line.append(swatch(of.classes[place]), of.classes[place].name);
    return line;
  };
  const shares = (found, of) => {
    const list = make("div", "", "shares");
    const rows = found.shares.map(([place, share]) => [of.classes[place].name, share, of.classes[place]]);
    if (found.others !== null) rows.push(["others", found.others, null]);
    for (const [name, share, cls] of rows) {
      const bar = make("i"), part = make("i");
      if (cls) Object.assign(part.dataset, {colour: cls.colour, safe: cls.safe});
      part.className = cls ? "swatch bar" : "bar";
      part.style.width = `${share}%`;
      bar.append(part);
      list.append(make("span", name), bar, make("b", `${share.toFixed(1)} %`));
    }
    return list;
  };
  const told = (place, found) => {
    const parts = [button("Close", () => { close(); map.getContainer().focus({preventScroll: true}); })];
    parts[0].className = "close";
    const [first, second] = about.maps;
    if (!found) parts.push(make("h3", "Outside of the map"));
    else if (second) parts.push(make("p", first.name));
    if (found) parts.push(found.class === null ? make("h3", "Without a class") : named(found.class, first));
    if (found?.shares) parts.push(shares(found, first));
    if (found?.confidence !== undefined) parts.push(make("p", `${found.confidence.toFixed(1)} % sure`));
    if (found?.compared) {
      parts.push(make("p", second.name), found.compared.class === null
        ? make("h3", found.compared.outside ? "Outside of the map" : "Without a class") : named(found.compared.class, second));
    }
    const where = [about.placed && degrees(place), found && `row ${found.row}, column ${found.column}`];
    parts.push(make("p", where.filter(Boolean).join("; ")));
    return parts;
  };
  const mark = (place, found) => {
    marks.clearLayers();
    for (const style of [{color: "#fff", weight: 5}, {color: "#14212b", weight: 2}]) {
      const drawn = {...style, fill: false, interactive: false};
      if (found) L.polygon(found.outline, drawn).addTo(marks);
      L.circleMarker(place, {...drawn, radius: 11}).addTo(marks);
    }
  };
  const show = async (given) => {
    const place = L.latLng(given);
    try {
      const found = await ask("pixel.json", {lon: place.lng, lat: place.lat});
      state.pixel = place;
      card.hidden = false;  // first, so that a screen reader is told what changes
      card.replaceChildren(...told(place, found));
      mark(place, found);
      changed("pixel");
      keepInSight(place);
    } catch (error) { gone(error); }
  };
  // The map moves if the card lies over the pixel.
  const keepInSight = (place) => {
    const box = map.getContainer().getBoundingClientRect(), over = card.getBoundingClientRect();
    const docked = over.width > box.width * 0.8;
    map.panInside(place, {paddingTopLeft: [20, 20], paddingBottomRight: docked ? [20, over.height + 20] : [20, 20]});
    const at = map.latLngToContainerPoint(place);
    if (!docked && at.x > over.left - box.left - 16 && at.y < over.bottom - box.top + 16) map.panBy([at.x - (over.left - box.left) + 30, 0]);
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !card.hidden && !event.defaultPrevented) close();
  });
  return {show, close};
};
