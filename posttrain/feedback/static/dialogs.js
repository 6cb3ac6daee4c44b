// What opens above the page: the keys, the guidelines, a note.

import { announce } from "./notices.js";
import { get, plainly } from "./server.js";
import { readable } from "./text.js";

const SINGLE = "posttrain/single-keys";

/** Whether a single letter is a command. Some speech and switch software needs that off. */
export function singleKeys() {
  try {
    return localStorage.getItem(SINGLE) !== "off";
  } catch {
    return true;
  }
}

/** Binds the dialogs' own controls. `written(note)` is called with what stands in the note. */
export function bindDialogs({ written }) {
  for (const dialog of document.querySelectorAll("dialog")) {
    for (const button of dialog.querySelectorAll("[data-close]")) button.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }
  const note = document.querySelector("#note-text");
  note.addEventListener("input", () => written(note.value));
  note.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    note.closest("dialog").close();
  });
  const single = document.querySelector("#single-keys");
  single.checked = singleKeys();
  single.addEventListener("change", () => {
    try {
      localStorage.setItem(SINGLE, single.checked ? "on" : "off");
    } catch {
      announce("This browser keeps no settings.", { seen: true });
    }
  });
}

export function openNote(note) {
  document.querySelector("#note-text").value = note;
  document.querySelector("#note").showModal();
}

/** The list of keys, with the one of the guidelines where an answer has the letter g. */
export function openHelp(keys) {
  document.querySelector("#guidelines-key").textContent = keys.includes("g") ? "Shift + G" : "G";
  document.querySelector("#letters-key").textContent = keys.length ? `A – ${keys.at(-1).toUpperCase()}` : "A, B, …";
  document.querySelector("#help").showModal();
}

export async function openGuidelines() {
  const place = document.querySelector("#guidelines-text");
  place.textContent = "…";
  document.querySelector("#guidelines").showModal();
  place.textContent = await guidelines();
}

async function guidelines() {
  const { status, body } = await get("/api/guidelines");
  if (status !== 200) return plainly({ status, body });
  const text = readable(body.text ?? "");
  return text.trim() ? text : "Nobody wrote guidelines for these answers. Rank by what you find best.";
}
