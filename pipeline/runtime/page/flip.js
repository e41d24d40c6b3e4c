// Children of a container put in another order, each moving from where it was to where it is now (FLIP).

import { calm } from "./dom.js";

const MOVE = { duration: 620, easing: "cubic-bezier(0.22, 0.8, 0.24, 1)" };
const FADE = { duration: 360, easing: "ease-out" };

/** Make `wanted` the container's children, in this order; whoever has the focus keeps it. */
export function reorder(container, wanted) {
  const moving = !calm();
  const before = new Map([...container.children].map((child) => [child, child.getBoundingClientRect().top]));
  const focused = container.contains(document.activeElement) ? document.activeElement : null;
  const kept = new Set(wanted);
  const gone = [...before.keys()].filter((child) => !kept.has(child) && !child.classList.contains("leaving"));
  const tops = gone.map((child) => child.offsetTop);
  for (const child of container.children) child.getAnimations().forEach((animation) => animation.cancel());
  gone.forEach((child, index) => (moving ? leave(container, child, tops[index]) : child.remove()));
  wanted.forEach((child, index) => {
    if (container.children[index] !== child) container.insertBefore(child, container.children[index] ?? null);
  });
  if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
  if (moving && before.size) wanted.forEach((child) => arrive(child, before.get(child)));
}

function arrive(child, before) {
  if (before === undefined) {
    child.animate(
      [
        { opacity: 0, transform: "translateX(-1.5rem)" },
        { opacity: 1, transform: "none" },
      ],
      MOVE,
    );
    return;
  }
  const moved = before - child.getBoundingClientRect().top;
  if (Math.abs(moved) < 1) return;
  const rising = moved > 0 ? { zIndex: 1, backgroundColor: "var(--wash)" } : {}; // over those that sink
  child.animate(
    [
      { transform: `translateY(${moved}px)`, ...rising },
      { transform: "none", ...rising },
    ],
    MOVE,
  );
}

/** Out of the flow at once, and out of sight a moment later. */
function leave(container, child, top) {
  child.classList.add("leaving");
  child.inert = true;
  child.setAttribute("aria-hidden", "true");
  child.style.setProperty("top", `${top}px`);
  container.append(child);
  const animation = child.animate([{ opacity: 1 }, { opacity: 0, transform: "translateX(2rem)" }], FADE);
  animation.onfinish = animation.oncancel = () => child.remove();
}
