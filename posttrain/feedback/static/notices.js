// What the page says to a person: a line that screen readers speak, and banners that stay until they are no longer so.

import { element } from "./text.js";

/** Speaks `words` to screen readers, also when they are the same as before; `seen`: to eyes too, for a moment. */
export function announce(words, { seen = false } = {}) {
  document.querySelector("#spoken").replaceChildren(element("span", {}, words));
  const toast = document.querySelector("#toast");
  toast.classList.remove("fading");
  if (!seen) return;
  toast.textContent = words;
  void toast.offsetWidth; // a second one begins its time anew
  toast.classList.add("fading");
}

/** One banner per name: what is so, and buttons to do something about it. `null` words take it away. */
export function banner(name, words, actions = {}) {
  const root = document.querySelector("#banners");
  const old = root.querySelector(`[data-banner="${name}"]`);
  if (words === null) {
    old?.remove();
    return;
  }
  if (old?.dataset.words === words) return; // not spoken again
  const buttons = Object.entries(actions).map(([label, act]) => element("button", { type: "button", onclick: act }, label));
  const about = { className: "banner", "data-banner": name, "data-words": words };
  const made = element("div", about, element("p", {}, words), ...buttons);
  if (old) old.replaceWith(made);
  else root.append(made);
}
