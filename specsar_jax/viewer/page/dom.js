// Small things that all parts of the page use. Texts are set as text, never as HTML.

export const $ = (selector, within = document) => within.querySelector(selector);

export const make = (name, text = "", className = "") =>
  Object.assign(document.createElement(name), {textContent: text, className});

export const button = (text, pressed) => {
  const made = Object.assign(make("button", text), {type: "button"});
  made.addEventListener("click", pressed);
  return made;
};

export const trouble = (text) => {
  $("#trouble").textContent = text;
  $("#trouble").hidden = !text;
};

// What went wrong with an answer of the server, for the reader; a request that was given up is nothing.
export const gone = (error) => {
  if (error.name === "AbortError") return;
  trouble(error.name === "TypeError" ? "The program that serves this page does not answer; was it stopped?" : error.message);
};

export const ask = async (address, query = {}, signal = undefined) => {
  const response = await fetch(`${address}?${new URLSearchParams(query)}`, {signal});
  if (!response.ok) throw new Error(await response.text());
  return response.json();
};

// The last call of a flurry, after a rest of some milliseconds.
export const calmly = (wait, call) => {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...given), wait);
  };
};

export const save = (name, kind, text) => {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], {type: kind}));
  link.download = name.replaceAll("/", "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

export const percent = (share, area) => area > 0 && share < 0.05 ? "< 0.1" : share.toFixed(1);

export const degrees = ({lat, lng}) => `${lat.toFixed(5)}°, ${L.latLng(lat, lng).wrap().lng.toFixed(5)}°`;
