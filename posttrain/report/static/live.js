// A page that is served follows its run: it takes over what changed, and leaves alone what did not, so that nobody who
// reads loses the place. Charts and the inspector are told of their new numbers.

const EVERY = 2_000; // milliseconds

async function fetched(path) {
  const answer = await fetch(path, { credentials: "same-origin", cache: "no-store" });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `status ${answer.status}`);
  return answer;
}

function parsed(text) {
  return new DOMParser().parseFromString(text, "text/html");
}

/** Makes `shown` what `now` is where that differs from `before`, which it was made from. */
export function takeOver(shown, before, now) {
  if (before.isEqualNode(now)) return;
  if (!alike(before, now)) {
    shown.replaceWith(document.importNode(now, true));
    return;
  }
  if (now.nodeType === Node.TEXT_NODE) shown.data = now.data;
  if (now.nodeType !== Node.ELEMENT_NODE) return;
  for (const { name, value } of now.attributes) if (before.getAttribute(name) !== value) shown.setAttribute(name, value);
  if (shown.matches("[data-figure], #inspector")) return; // scripts fill them
  const children = [...shown.childNodes];
  if (children.length !== now.childNodes.length) shown.replaceChildren(...[...now.childNodes].map((child) => document.importNode(child, true)));
  else children.forEach((child, place) => takeOver(child, before.childNodes[place], now.childNodes[place]));
}

/** Whether two nodes are the same but for what stands in them. */
function alike(one, other) {
  const same = one.nodeName === other.nodeName && one.id === other.id && one.dataset?.figure === other.dataset?.figure;
  return same && one.childNodes.length === other.childNodes.length;
}

/** The sections as they are now, in their order; the inspector is told of steps that it can ask for. */
function takeOverSections(before, now) {
  const main = document.getElementById("content");
  let after = main.querySelector("noscript");
  for (const section of now.querySelectorAll("main > section")) {
    const [shown, old] = [document.getElementById(section.id), before.getElementById(section.id)];
    if (!shown || !old) {
      const made = document.importNode(section, true);
      if (after) after.after(made);
      else main.prepend(made);
      after = made;
      continue;
    }
    if (shown.querySelector("#inspection")) grown(shown, section);
    else takeOver(shown, old, section);
    after = document.getElementById(section.id);
  }
}

function grown(shown, section) {
  const text = section.querySelector("#inspection")?.textContent;
  if (!text) return;
  document.dispatchEvent(new CustomEvent("steps", { detail: JSON.parse(text).steps }));
  const [told, now] = [shown.querySelector(".prose"), section.querySelector(".prose")];
  if (told && now) told.textContent = now.textContent;
}

function follow() {
  let [mark, before, busy] = [null, null, false];
  const line = document.createElement("p");
  line.className = "line following";
  line.setAttribute("role", "status");
  document.querySelector(".head").append(line);

  async function look() {
    if (busy || document.hidden) return;
    busy = true;
    try {
      const state = await (await fetched("state")).json();
      if (state.mark !== mark) {
        const now = parsed(await (await fetched("./")).text());
        if (before) update(before, now);
        [before, mark] = [now, state.mark];
      }
      tell("Follows the run.");
    } catch (error) {
      tell(`Does not follow the run now: ${error instanceof TypeError ? "the server does not answer" : error.message}.`);
    } finally {
      busy = false;
    }
  }

  function tell(text) {
    if (line.textContent !== text) line.textContent = text;
  }

  look();
  setInterval(look, EVERY);
  document.addEventListener("visibilitychange", look);
}

function update(before, now) {
  const inspected = Boolean(document.getElementById("inspection"));
  takeOver(document.querySelector(".head .line"), before.querySelector(".head .line"), now.querySelector(".head .line"));
  takeOver(document.querySelector("#contents ol"), before.querySelector("#contents ol"), now.querySelector("#contents ol"));
  takeOverSections(before, now);
  const figures = now.getElementById("figures").textContent;
  if (figures !== before.getElementById("figures").textContent) {
    document.dispatchEvent(new CustomEvent("figures", { detail: JSON.parse(figures) }));
  }
  if (!inspected && document.getElementById("inspection")) document.dispatchEvent(new CustomEvent("inspection"));
}

if (document.body.dataset.served !== undefined) follow();
