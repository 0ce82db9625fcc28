// Claims a rescue without a page: the service worker has no CSRF token of its own, so it asks for one first.

const WITHIN_MS = 10_000;

/** An answer of the portal's REST face; throws "offline" where it did not come from the portal at all. */
export async function ask(fetch, path, { method = "GET", body = undefined, token = "" } = {}) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") Object.assign(headers, { "Content-Type": "application/json", "X-CSRFToken": token });
  let response;
  let document;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: method === "GET" ? undefined : JSON.stringify(body ?? {}),
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(WITHIN_MS),
    });
    const text = await response.text();
    document = text ? JSON.parse(text) : {};
  } catch {
    // No network, a break in the middle, or a hotel's sign-in page that answers for us. A server's error page is none.
    if (response && response.status >= 500) return { status: response.status, document: {} };
    throw new Error("offline");
  }
  return { status: response.status, document };
}

const isSignedOut = ({ status, document }) => status === 401 || (status === 403 && document.code === "not_authenticated");

/**
 * Claims and says what came of it: { is: "mine" | "taken" | "over" | "unknown" | "signed_out" | "refused" | "offline" |
 * "failed" }, with the winner's `name` or the server's `detail` where there is one. Never throws.
 */
export async function claim(subject, fetch) {
  try {
    const me = await ask(fetch, "/api/v1/me/");
    if (isSignedOut(me)) return { is: "signed_out" };
    if (me.status !== 200) return { is: "failed" };
    const token = me.document.csrf_token;
    const answer = await ask(fetch, `/api/v1/sessions/${subject}/claim/`, { method: "POST", token });
    return outcome(answer);
  } catch {
    return { is: "offline" };
  }
}

function outcome(answer) {
  const { status, document } = answer;
  if (status === 200) return { is: "mine" };
  if (isSignedOut(answer)) return { is: "signed_out" };
  if (status === 409 && document.code === "already_claimed") return { is: "taken", name: document.operator?.name ?? "" };
  if (status === 409) return { is: "over" };
  if (status === 404) return { is: "unknown" };
  if (status === 403 && document.code !== "csrf_failed") return { is: "refused", detail: document.detail ?? "" };
  return { is: "failed" };
}
