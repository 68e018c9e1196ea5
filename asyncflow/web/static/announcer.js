// What a screen reader says: what somebody has done, changes of state, and with many
// files a number instead of each.
//
// Changes are gathered for half a second, and of each file the last is said. While they
// come by the dozen, the next are gathered for twice as long: an hour of uploads is not
// an hour of talk.

const GATHER_MS = 500;
const MOST_MS = 30_000;
const ONE_BY_ONE = 3;

export class Announcer {
  // `sum` tells in a few words how everything stands.
  constructor(place, sum) {
    this.place = place;
    this.sum = sum;
    this.texts = [];
    this.changes = new Map();
    this.timer = null;
    this.wait = GATHER_MS;
  }

  // Said word for word, and soon.
  say(text) {
    this.texts.push(text);
    this.tellIn(GATHER_MS);
  }

  // Said of `what`, or counted when there are many.
  change(what, text) {
    this.changes.set(what, text);
    if (this.timer === null) this.tellIn(this.wait);
  }

  tellIn(ms) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.tell(), ms);
  }

  tell() {
    this.timer = null;
    const texts = this.texts.splice(0);
    const changes = [...this.changes.values()];
    this.changes.clear();
    const many = changes.length > ONE_BY_ONE;
    this.wait = many ? Math.min(2 * this.wait, MOST_MS) : GATHER_MS;
    this.place.textContent = [...texts, ...(many ? [this.sum()] : changes)].join(" ");
  }
}
