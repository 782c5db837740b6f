// The HTTP surface that all four servers share. The key, where the server wants one, is held here in memory and nowhere else.

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || `The server answered ${status}.`);
    this.code = problem.code || "internal";
    this.status = status;
  }
}

export class Api {
  constructor(base = location.origin) {
    this.base = base;
    this.key = "";
  }

  headers(extra = {}) {
    return this.key ? { Authorization: `Bearer ${this.key}`, ...extra } : { ...extra };
  }

  /** A response with a status below 400; Refused otherwise. */
  async send(method, path, { body, headers, signal } = {}) {
    const response = await fetch(this.base + path, {
      method,
      signal,
      headers: this.headers({ ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers }),
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (!response.ok) {
      const text = await response.text();
      let problem = {};
      try {
        problem = JSON.parse(text);
      } catch {
        problem = { detail: `The server answered ${response.status}.` };
      }
      throw new Refused(response.status, problem);
    }
    return response;
  }

  async json(method, path, options) {
    const response = await this.send(method, path, options);
    return response.status === 204 ? null : response.json();
  }

  about() { return this.json("GET", "/"); }
  createSession() { return this.json("POST", "/sessions", { body: {} }); }
  sessions() { return this.json("GET", "/sessions?limit=30"); }
  session(id) { return this.json("GET", `/sessions/${id}`); }
  messages(id) { return this.json("GET", `/sessions/${id}/messages`); }
  clear(id) { return this.json("POST", `/sessions/${id}/clear`); }
  remove(id) { return this.json("DELETE", `/sessions/${id}`); }
  startTurn(body, key) { return this.json("POST", "/turns", { body, headers: { "Idempotency-Key": key } }); }
  cancel(turnId) { return this.json("POST", `/turns/${turnId}/cancel`); }
  cut(turnId) { return this.json("POST", `/turns/${turnId}/cut`); }

  async image(imageId) { return (await this.send("GET", `/images/${imageId}`)).blob(); }

  /** A ticket where the browser cannot set headers: EventSource (for one turn) and WebSocket. Null when no key is set. */
  async ticket(turnId) {
    if (!this.key) return null;
    const body = turnId ? { turn_id: turnId } : {};
    return (await this.json("POST", "/tickets", { body })).ticket;
  }
}

/** A key for one request: the same key joins the same turn, so a repeated request is never paid for twice. */
export function requestKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

export async function sha256(text) {
  // crypto.subtle exists on secure origins, and loopback is one.
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const TERMINAL = new Set(["turn_completed", "turn_failed", "turn_cancelled", "turn_interrupted"]);
