// The bearer token: asked for once, kept for as long as the tab is open.

import { at, tell } from "./dom.js";

const KEY = "headrace.token";
let asking = null;

/** The token, or null. */
export const token = () => sessionStorage.getItem(KEY);

/** The header that bears it. */
export const bearer = () => (token() === null ? {} : { Authorization: `Bearer ${token()}` });

/** Ask for it; however many requests were refused at once, the question is asked once. */
export function askForToken(again) {
  asking ??= answered(again).finally(() => (asking = null));
  return asking;
}

function answered(again) {
  const dialog = at("token");
  const form = at("token-form");
  tell(at("token-said"), again ? "That token was not accepted. Try again." : "");
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.oncancel = (event) => event.preventDefault(); // without a token there is nothing to show behind it
    form.onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(KEY, new FormData(form).get("token").trim());
      form.reset();
      dialog.close();
      resolve();
    };
  });
}
