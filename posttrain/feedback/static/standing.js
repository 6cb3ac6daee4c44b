// How things stand: progress in the head of the page, and banners about the way to the server.

import { banner } from "./notices.js";
import { plainly } from "./server.js";

const find = (selector) => document.querySelector(selector);

/** Shows how far all and this person are; nothing changes where the server did not say. */
export function showProgress(progress) {
  if (!progress || !find("#bar")) return;
  const { done, of, mine, agreement } = progress;
  find("#done").textContent = `${done} of ${of}`;
  find("#mine").textContent = `${mine} by you`;
  const agreed = typeof agreement === "number" ? `agreement ${Math.round(agreement * 100)} %` : "";
  find("#agreement").textContent = agreed;
  find("#agreement").hidden = !agreed;
  find("#bar").max = Math.max(of, 1);
  find("#bar").value = done;
}

/** Banners about what waits to be sent: none while all gets through. */
export function reportWay(outbox) {
  const count = outbox.length;
  const what = count === 1 ? "One thing you did is" : `${count} things you did are`;
  const kept = count ? ` ${what} kept here and sent when it is back.` : "";
  const away = outbox.state === "away" ? `No connection to the server.${kept}` : null;
  banner("way", away, { "Try now": () => outbox.flush() });
  const strangers = outbox.state === "strangers" ? plainly(outbox.blocked) : null;
  banner("strangers", strangers, { "Load again": () => location.reload() });
  const forgetful = "This browser keeps nothing when the page is closed: stay until all is sent.";
  banner("unkept", outbox.kept.lasting ? null : forgetful);
}

/** A banner for each event that the server did not take: its reason, and what can be done. `goOn` sends what waits. */
export function reportRefusals(outbox, goOn) {
  const refusals = outbox.refusals();
  const names = refusals.map(({ name }) => name);
  for (const old of document.querySelectorAll('[data-banner^="refused "]'))
    if (!names.includes(old.dataset.banner.slice("refused ".length))) old.remove();
  for (const { name, body, answer } of refusals) {
    const what = { rank: "ranking", flag: "flag", note: "note" }[body.kind] ?? "decision";
    banner(`refused ${name}`, `A ${what} of yours was not taken. ${plainly(answer)} It is kept here.`, {
      "Try again": () => {
        outbox.again(name);
        goOn();
      },
      Discard: () => outbox.discard(name),
    });
  }
}
