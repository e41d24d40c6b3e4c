// Building elements. What comes from outside goes in as text, never as markup, and cannot reorder or hide what is near.

const SVG = "http://www.w3.org/2000/svg";
const LONGEST = 300;
// All but the two joiners, which Persian and emoji are written with.
const NOT_PRINTABLE = /(?![ \u200c\u200d])[\p{C}\p{Z}]/gu;

/** The element of this id. */
export const at = (id) => document.getElementById(id);

/** An HTML element; `onclick` and the like listen, `--name` sets a style property, false and null leave out. */
export function make(tag, attributes = {}, ...children) {
  return dressed(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function draw(tag, attributes = {}, ...children) {
  return dressed(document.createElementNS(SVG, tag), attributes, children);
}

function dressed(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== false));
  return element;
}

/** Foreign text on one line; control and format characters (bidi overrides among them) as escapes, as the logs do. */
export function shown(text) {
  const characters = Array.from(String(text).replace(NOT_PRINTABLE, escaped));
  return characters.length > LONGEST ? `${characters.slice(0, LONGEST).join("")}…` : characters.join("");
}

function escaped(character) {
  const code = character.codePointAt(0);
  const [letter, digits] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
  return `\\${letter}${code.toString(16).padStart(digits, "0")}`;
}

/** Foreign text in an element of its own, whose direction ends where it ends. */
export const foreign = (text) => make("bdi", {}, shown(text));

/** Put other children into an element. */
export const fill = (element, ...children) => element.replaceChildren(...children.filter((child) => child !== null));

/** Set an element's text, but only when it changes: less to lay out, and nothing for a screen reader to repeat. */
export function tell(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Whether moving things should rather jump. */
export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
