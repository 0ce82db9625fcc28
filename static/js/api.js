// Calls the portal's own REST face. Errors are RFC 9457 documents; what goes wrong on the way becomes one too.

/** A refused or failed call: `detail` is fit to be read by a person, `problem` holds the members the server gave. */
export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `The server answered ${status}.`);
    this.status = status;
    this.problem = problem;
    this.code = problem.code ?? "";
  }

  get detail() {
    return this.message;
  }

  /** True when trying again later may help: the network, a time-out, a busy server. */
  get passing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

function csrfToken() {
  return document.querySelector('meta[name="csrf-token"]')?.content ?? "";
}

async function call(method, path, body, timeout = 15_000) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") {
    headers["X-CSRFToken"] = csrfToken();
    headers["Content-Type"] = "application/json";
  }
  let response;
  let text;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: method === "GET" ? undefined : JSON.stringify(body ?? {}),
      credentials: "same-origin",
      signal: AbortSignal.timeout(timeout),
    });
    text = await response.text(); // a line may break in the middle of an answer, too
  } catch (error) {
    const detail =
      error.name === "TimeoutError"
        ? "The server has not answered in time. Try again."
        : "The server cannot be reached. Check your network and try again.";
    throw new Problem(0, { detail });
  }
  let document_ = {};
  try {
    document_ = text ? JSON.parse(text) : {};
  } catch {
    if (response.ok) throw new Problem(502, { detail: "The answer was not from Portafilter. Is a proxy in between?" });
  }
  if (response.ok) return document_;
  if (response.status === 401 || (response.status === 403 && document_.code === "not_authenticated")) {
    throw new Problem(401, { ...document_, detail: "You have been signed out. Sign in again to go on." });
  }
  throw new Problem(response.status, document_);
}

export const get = (path) => call("GET", path);
export const post = (path, body) => call("POST", path, body);
export const patch = (path, body) => call("PATCH", path, body);
export const remove = (path) => call("DELETE", path);

/** Where one signs in, coming back to this page afterwards. */
export function signInAddress() {
  return `/accounts/login/?next=${encodeURIComponent(location.pathname + location.search)}`;
}

const session = (id, verb) => `/api/v1/sessions/${id}/${verb ? `${verb}/` : ""}`;

export const sessions = {
  open: () => get("/api/v1/sessions/?state=open"),
  one: (id) => get(session(id)),
  claim: (id) => post(session(id, "claim")),
  release: (id) => post(session(id, "release")),
  handOver: (id, operator) => post(session(id, "handover"), { operator }),
  close: (id, values) => post(session(id, "close"), values),
  attach: (id, role) => post(session(id, "attachments"), { role }),
  lookedAt: (id) => post(session(id, "looked-at")),
  events: (id) => get(session(id, "events")),
  colleagues: (id) => get(session(id, "colleagues")),
  causes: () => get("/api/v1/causes/"),
};

const device = (id, verb) => `/api/v1/devices/${id}/${verb ? `${verb}/` : ""}`;

export const devices = {
  all: async () => (await get("/api/v1/devices/")).results,
  add: (values) => post("/api/v1/devices/", values),
  rename: (id, name) => patch(device(id), { name }),
  remove: (id) => remove(device(id)),
  test: (id) => post(device(id, "test")),
};
