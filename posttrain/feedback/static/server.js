// What the server is asked, and what became of it: an answer, a refusal in its words, or no connection.

const WAIT = 20_000; // milliseconds until a silent server counts as away

/** A value of the page's head: `csrf`, `store` or `name`. */
export function told(name) {
  return document.querySelector(`meta[name="${name}"]`)?.content ?? "";
}

/** `{status, body}` of a GET; status 0 where there was no answer at all. */
export function get(path) {
  return asked(path, { headers: { Accept: "application/json" } });
}

/** `{status, body}` of a POST of JSON with the page's token; status 0 where there was no answer at all. */
export function post(path, body) {
  const headers = { "Content-Type": "application/json", "X-CSRF-Token": told("csrf") };
  return asked(path, { method: "POST", headers, body: JSON.stringify(body) });
}

/** Ends the session of this browser and shows who may enter. What was not sent stays, under the name that made it. */
export async function leave() {
  const headers = { "X-CSRF-Token": told("csrf") };
  await fetch("/leave", { method: "POST", headers, credentials: "same-origin", redirect: "manual" }).catch(() => null);
  location.assign("/");
}

async function asked(path, options) {
  try {
    const answer = await fetch(path, {
      ...options,
      credentials: "same-origin",
      cache: "no-store",
      redirect: "error",
      signal: AbortSignal.timeout(WAIT),
    });
    return { status: answer.status, body: await answer.json().catch(() => ({})) };
  } catch {
    return { status: 0, body: {} };
  }
}

/** Whether trying the same again later can help: nobody answered, or the server is unwell. */
export function passing({ status }) {
  return status === 0 || status === 408 || status === 429 || status >= 500;
}

/** Whether the server no longer knows this page: another token, another cookie. */
export function strangers({ status }) {
  return status === 401 || status === 403;
}

/** What a refusal means, in plain words, with what the server said of it. */
export function plainly({ status, body }) {
  const said = typeof body?.error === "string" ? ` The server says: ${body.error}` : "";
  const meaning = {
    0: "The server does not answer.",
    401: "You are not signed in any more.",
    403: "The server no longer knows this page. Load it again; nothing is lost.",
    404: "The server does not have this item.",
    409: "This item is no longer yours.",
    413: "This is too large for the server.",
    429: "The server is asked too much; it is tried again.",
  }[status];
  return (meaning ?? (status >= 500 ? "The server has a problem." : "The server did not take this.")) + said;
}

/** A new name for an event, unlike any other. `randomUUID` is absent where a page came over plain HTTP from afar. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
