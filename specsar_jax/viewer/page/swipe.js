// The line between two layers: moved by mouse, finger, or keys.
import {make} from "./dom.js";

export const swipeLine = (map, panes, moved) => {
  const line = make("div", "", "swipe"), names = ["left", "right"].map((side) => make("span", "", side));
  line.setAttribute("role", "slider");
  line.tabIndex = 0;
  line.setAttribute("aria-label", "Swipe line");
  line.setAttribute("aria-valuemin", 0);
  line.setAttribute("aria-valuemax", 100);
  line.append(make("i"), ...names);
  map.getContainer().append(line);
  names.forEach((name) => name.setAttribute("aria-hidden", "true"));
  let at = 50, shown = false;

  const clip = () => {
    const size = map.getSize(), from = map.containerPointToLayerPoint([0, 0]), to = map.containerPointToLayerPoint(size);
    const x = Math.round(from.x + size.x * at / 100);
    // The panes are points without a size, which `clip` does not mind.
    panes[0].style.clip = shown ? `rect(${from.y}px, ${x}px, ${to.y}px, ${from.x}px)` : "";
    panes[1].style.clip = shown ? `rect(${from.y}px, ${to.x}px, ${to.y}px, ${x}px)` : "";
  };
  const put = (value) => {
    at = Math.min(Math.max(value, 0), 100);
    line.style.left = `${at}%`;
    line.setAttribute("aria-valuenow", Math.round(at));
    line.setAttribute("aria-valuetext", `${names[0].textContent} left, ${names[1].textContent} right, line at ${Math.round(at)} %`);
    clip();
  };
  const show = (on, left, right) => {
    shown = on;
    line.hidden = !on;
    [names[0].textContent, names[1].textContent] = [left, right];
    put(at);
  };

  line.addEventListener("pointerdown", (event) => {
    line.setPointerCapture(event.pointerId);
    event.preventDefault();
    line.focus({preventScroll: true});
  });
  line.addEventListener("pointermove", (event) => {
    if (!line.hasPointerCapture(event.pointerId)) return;
    const box = map.getContainer().getBoundingClientRect();
    put(100 * (event.clientX - box.left) / box.width);
    moved(at);
  });
  const steps = {ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100};
  line.addEventListener("keydown", (event) => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    event.stopPropagation();
    put(at + steps[event.key]);
    moved(at);
  });
  // What happens on the line is not of the map.
  L.DomEvent.disableClickPropagation(line);
  map.on("move zoomend viewreset resize", clip);
  return {put, show};
};
