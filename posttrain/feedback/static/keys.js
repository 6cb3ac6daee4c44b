// What a key press asks for. Letters of answers come before commands; nothing is taken from fields, dialogs and buttons.

const COMMANDS = { s: "skip", x: "cant_judge", u: "undo", n: "note", v: "context", g: "guidelines" };
const CARD = { " ": "toggle", ArrowDown: "next", ArrowRight: "next", ArrowUp: "previous", ArrowLeft: "previous" };
const EDGES = { Home: "first", End: "last", PageUp: "pageUp", PageDown: "pageDown" };
const REPEATED = new Set(["next", "previous", "better", "worse", "back", "pageUp", "pageDown"]);

/** `{command}` with `key` or `flag` where it has one, or null. `at`: the focused answer. `single`: letters count. */
export function commandOf(event, { keys, at, single }) {
  if (!event.key || event.isComposing || event.altKey) return null; // forms that fill themselves in send no key
  const free = () => onCard(event, at) ?? (single ? plain(event, keys) : null);
  const found = event.ctrlKey || event.metaKey ? withControl(event) : free();
  return found && event.repeat && !REPEATED.has(found.command) ? { command: "nothing" } : found;
}

function withControl(event) {
  return event.key === "Enter" ? { command: "submit" } : null;
}

function onCard(event, at) {
  if (!at) return null;
  if (event.shiftKey && event.key === "ArrowUp") return { command: "better", key: at };
  if (event.shiftKey && event.key === "ArrowDown") return { command: "worse", key: at };
  const command = CARD[event.key] ?? EDGES[event.key];
  return command && !event.shiftKey ? { command, key: at } : null;
}

function plain(event, keys) {
  if (event.key === "Enter") return { command: "submit" };
  if (event.key === "Backspace") return { command: "back" };
  if (event.key === "=") return { command: "tie" };
  if (event.key === "?") return { command: "help" };
  if (/^[1-4]$/.test(event.key)) return { command: "flag", flag: Number(event.key) - 1 };
  const letter = letterOf(event);
  if (letter === "g" && event.shiftKey) return { command: "guidelines" };
  if (keys.includes(letter)) return { command: "rank", key: letter };
  return COMMANDS[letter] ? { command: COMMANDS[letter] } : null;
}

// A keyboard of another script has the Latin letters in their places.
function letterOf(event) {
  if (/^[!-~]$/.test(event.key)) return event.key.toLowerCase();
  return (/^Key([A-Z])$/.exec(event.code)?.[1] ?? "").toLowerCase();
}

/** Whether the press belongs to what is focused: a field, a dialog, or Enter and space on a button or a link. */
export function taken(event) {
  const { target } = event;
  if (!(target instanceof Element)) return false;
  if (document.querySelector("dialog[open]")) return true;
  if (target.closest("input, textarea, select")) return true;
  return Boolean(target.closest("button, a, summary")) && (event.key === "Enter" || event.key === " ");
}
