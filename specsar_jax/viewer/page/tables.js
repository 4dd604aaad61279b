// Tables of areas: legend, bars, sorting, CSV.
import {$, button, make, percent, save} from "./dom.js";
import {swatch} from "./layers.js";

const ORDERS = {"": "descending", descending: "ascending", ascending: ""};

// classes: of the map. alone: whether its name is told elsewhere. toggle: hides a class by its place, or null.
// Returns the element, and what fills it in.
export const areaTable = ({name, classes, alone, unit, toggle, file}) => {
  const box = make("div", "", "areas"), table = make("table"), head = table.createTHead().insertRow(), body = table.createTBody();
  const foot = table.createTFoot();
  table.append(make("caption", name, alone ? "unseen" : ""));
  let sorted = ["", ""], data = null;

  const columns = ["Class", unit === "ha" ? "Hectares" : "Pixels", "%"];
  const headers = columns.map((text, place) => {
    const header = make("th");
    header.scope = "col";
    header.append(button(text, () => {
      const before = sorted[0] === place ? sorted[1] : "";
      sorted = [place, place === 0 && before === "" ? "ascending" : place === 0 && before === "ascending" ? "descending"
        : place === 0 ? "" : ORDERS[before]];
      order();
    }));
    head.append(header);
    return header;
  });

  const rows = classes.map((of, place) => {
    const row = body.insertRow(), header = make("th");
    header.scope = "row";
    if (toggle) {
      const hide = button("", () => toggle(place));
      hide.append(swatch(of), make("span", of.name));
      hide.setAttribute("aria-pressed", "true");
      hide.title = "Hide on the map, or show again";
      header.append(hide);
    } else {
      header.append(swatch(of), make("span", of.name));
    }
    row.append(header, make("td"), make("td"));
    return row;
  });
  const last = (text) => {
    const row = foot.insertRow(), header = make("th", text);
    header.scope = "row";
    row.append(header, make("td"), make("td"));
    return row;
  };
  const nodata = last("Without a class"), outside = last("Outside of the map"), sum = last("Together");

  const order = () => {
    headers.forEach((header, place) => {
      const now = place === sorted[0] ? sorted[1] : "";
      now ? header.setAttribute("aria-sort", now) : header.removeAttribute("aria-sort");
    });
    const sign = sorted[1] === "descending" ? -1 : 1;
    const by = !sorted[1] ? (a, b) => a - b
      : sorted[0] === 0 ? (a, b) => sign * classes[a].name.localeCompare(classes[b].name)
      : (a, b) => sign * ((data?.areas[a] ?? 0) - (data?.areas[b] ?? 0)) || a - b;
    body.append(...classes.map((_, place) => place).sort(by).map((place) => rows[place]));
  };
  const put = (row, area, share, most) => {
    row.cells[1].textContent = area > 0 ? amount(area, unit) : "–";
    row.cells[2].textContent = area > 0 ? percent(share, area) : "";
    row.cells[2].style.setProperty("--bar", `${most > 0 ? 100 * area / most : 0}%`);
  };
  const csv = () => {
    const lines = [["class", unit === "ha" ? "hectares" : "pixels", "percent"]];
    const parts = [...data.areas, data.nodata, ...("outside" in data ? [data.outside] : [])];
    [...classes.map((of) => of.name), "(without a class)", "(outside of the map)"].slice(0, parts.length)
      .forEach((called, place) => lines.push([called, parts[place].toFixed(4), data.shares[place].toFixed(1)]));
    save(file, "text/csv", lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n");
  };
  const buttons = make("div", "", "buttons");
  buttons.append(button("Save as CSV", () => data && csv()));
  box.append(table, buttons);
  return {
    element: box,
    table,
    pressed: (hidden) => rows.forEach((row, place) => $("button", row)?.setAttribute("aria-pressed", String(!(hidden >> BigInt(place) & 1n)))),
    fill: (found) => {
      data = found;
      const parts = [...found.areas, found.nodata, found.outside ?? 0], most = Math.max(...parts);
      rows.forEach((row, place) => put(row, found.areas[place], found.shares[place], most));
      put(nodata, found.nodata, found.shares[classes.length], most);
      outside.hidden = !("outside" in found);
      if (!outside.hidden) put(outside, found.outside, found.shares[classes.length + 1], most);
      const whole = parts.reduce((a, b) => a + b, 0);
      put(sum, whole, 100, 0);
      order();
      table.removeAttribute("aria-busy");
    },
  };
};

export const amount = (value, unit) =>
  value.toLocaleString("en", {maximumFractionDigits: unit !== "ha" || value >= 100 ? 0 : value >= 1 ? 1 : 2});

const quoted = (text) => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
