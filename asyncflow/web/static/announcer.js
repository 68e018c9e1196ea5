// What a screen reader says: changes of state, and a number instead of many at once.

const GATHER_MS = 500;
const ONE_BY_ONE = 3;

export class Announcer {
  constructor(place) {
    this.place = place;
    this.texts = [];
    this.timer = null;
  }

  say(text) {
    this.texts.push(text);
    this.timer ??= setTimeout(() => this.tell(), GATHER_MS);
  }

  tell() {
    this.timer = null;
    const texts = this.texts.splice(0);
    this.place.textContent =
      texts.length > ONE_BY_ONE
        ? `${texts.length} changes; the last: ${texts.at(-1)}`
        : texts.join(" ");
  }
}
