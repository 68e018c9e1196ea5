// Where the server is and how it is asked: addresses, the token, answers.

export class Server {
  constructor(base, token) {
    this.base = new URL(base, location.href).href.replace(/\/?$/, "/");
    this.token = token;
    this.isOurs = new URL(this.base).origin === location.origin;
  }

  url(path) {
    return new URL(path, this.base).href;
  }

  // What the server names begins with a slash of its own.
  link(path) {
    return new URL(path, new URL(this.base).origin).href;
  }

  headers(others) {
    return this.token ? { ...others, Authorization: `Bearer ${this.token}` } : others;
  }

  socketUrl() {
    const address = new URL("ws", this.base);
    address.protocol = address.protocol.replace("http", "ws");
    if (this.token) address.searchParams.set("token", this.token);
    return address.href;
  }

  eventsUrl(job) {
    return this.url(`jobs/${job}/events`);
  }

  async get(path) {
    return this.send("GET", path);
  }

  async text(path) {
    const answer = await fetch(this.link(path), { headers: this.headers({}) });
    if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
    return answer.text();
  }

  async send(method, path) {
    const answer = await fetch(this.url(path), { method, headers: this.headers({}) });
    const body = answer.status === 204 ? {} : await answer.json();
    if (!answer.ok) throw new Error(body.detail || `The server answered ${answer.status}.`);
    return body;
  }
}
