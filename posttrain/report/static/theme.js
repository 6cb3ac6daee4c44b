// Colours of the page as they are now: light or dark, as the reader's system asks.

const dark = matchMedia("(prefers-color-scheme: dark)");

// The value of a colour of the style sheet, such as "--ink".
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Calls back when light turns to dark, or dark to light.
export function onTheme(act) {
  dark.addEventListener("change", act);
}
