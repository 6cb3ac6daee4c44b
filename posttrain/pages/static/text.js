// Text of models as elements: only ever as text, with its white space, and with nothing in it that cannot be seen.

// What steers instead of being read: controls, halves of characters, separators of lines, and marks that turn the
// direction of what follows. Marks without that power (joiners, LRM, RLM) stay: emoji and Arabic need them.
const STEERING = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069]/gu;
const FENCE = /^(```|~~~)/;

/** `text` with its lines and tabs, every character that would steer spelt out: a NUL as ␀, an override as ⟨U+202E⟩. */
export function readable(text) {
  return text.replace(/\r\n?/g, "\n").replace(STEERING, (character) => {
    const code = character.codePointAt(0);
    if (character === "\n" || character === "\t") return character;
    if (code < 0x20) return String.fromCodePoint(0x2400 + code);
    return `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

/** Elements that show `text`: running text with a direction for each paragraph, and code as it stands. */
export function shown(text) {
  if (text === "") return [element("p", { className: "nothing" }, "(nothing was written)")];
  return pieces(readable(text)).map(({ code, text: piece }) =>
    code
      ? element("pre", { dir: "ltr" }, element("code", {}, piece))
      : element("div", { className: "prose", dir: "auto" }, piece),
  );
}

/** The text cut where code between fences begins and ends; the fences stay with the code. */
export function pieces(text) {
  const found = [];
  let lines = [];
  let fence = null;
  const close = () => {
    if (lines.some((line) => line.trim())) found.push({ code: fence !== null, text: lines.join("\n") });
    lines = [];
  };
  for (const line of text.split("\n")) {
    const mark = FENCE.exec(line.trimStart())?.[1] ?? null;
    if (fence === null && mark) {
      close();
      fence = mark;
      lines.push(line);
    } else if (fence !== null && mark === fence) {
      lines.push(line);
      close();
      fence = null;
    } else lines.push(line);
  }
  close();
  return found.length ? found : [{ code: false, text }];
}

/** A new element with its properties (`aria-…`, `data-…` and `role` as attributes) and children. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (/^(aria-|data-|role$|for$)/.test(key)) made.setAttribute(key, String(value));
    else made[key] = value;
  }
  made.append(...children);
  return made;
}
