// Where two maps have the same class, in view.
import {$, make, percent} from "./dom.js";
import {swatch} from "./layers.js";
import {amount} from "./tables.js";

export const agreementOf = (about, show) => {
  const box = $("#agreement");
  if (!about.agreement) return {fill: () => {}};
  box.hidden = false;
  const [same, other] = about.agreement.colours, legend = $(".legend", box);
  legend.append(swatch({colour: same}), "same class ", swatch({colour: other}), "another class");
  $("button", box).addEventListener("click", show);
  $(".note", box).textContent = about.agreement.lacking.join(" ");
  const [first, second] = about.maps.map(({name}) => name);

  const table = (changes, unit) => {
    const made = make("table"), head = made.createTHead().insertRow();
    made.append(make("caption", "Largest differences"));
    for (const text of [first, second, unit === "ha" ? "Hectares" : "Pixels", "%"]) head.append(Object.assign(make("th", text), {scope: "col"}));
    const body = made.createTBody();
    for (const {from, to, area, share} of changes) {
      const row = body.insertRow();
      row.append(Object.assign(make("th", from), {scope: "row"}), make("td", to), make("td", amount(area, unit)), make("td", percent(share, area)));
    }
    return made;
  };
  return {
    fill: ({agreement, unit}) => {
      const compared = agreement.agree + agreement.differ;
      $(".said", box).textContent = compared
        ? `${agreement.shares[0].toFixed(1)} % of the area in view that both map has the same class; ${agreement.shares[1].toFixed(1)} % differs.`
        : "No place in view is mapped by both.";
      $(".changes", box).replaceChildren(...(agreement.changes.length ? [table(agreement.changes, unit)] : []));
    },
  };
};
