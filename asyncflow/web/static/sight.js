// Which cards somebody looks at: only those, and the latest before, hold pictures and
// texts. Thousands of files would else keep as many photos and pages in memory.

// as many cards as may hold something although they are out of sight
const MOST_HELD = 50;
// a screen above and below is as good as seen
const NEAR = "100% 0px";

export class Sight {
  constructor() {
    this.cards = new Map();
    // those that hold something, the one seen longest ago first
    this.holding = new Set();
    const told = (changes) => changes.forEach((one) => this.moved(one));
    this.observer = new IntersectionObserver(told, { rootMargin: NEAR });
  }

  watch(card) {
    this.cards.set(card.element, card);
    this.observer.observe(card.element);
  }

  forget(card) {
    this.observer.unobserve(card.element);
    this.cards.delete(card.element);
    this.holding.delete(card);
    card.letGo();
  }

  moved({ target, isIntersecting }) {
    const card = this.cards.get(target);
    if (!card || (!isIntersecting && !card.isSeen)) return;
    card.isSeen = isIntersecting;
    this.holding.delete(card);
    this.holding.add(card);
    if (isIntersecting) card.showContents();
    else this.spare();
  }

  spare() {
    let over = this.holding.size - MOST_HELD;
    for (const card of this.holding) {
      if (over <= 0) return;
      over -= 1;
      // what somebody is at by keys is looked at, wherever it is
      if (card.isSeen || card.hasFocus()) continue;
      this.holding.delete(card);
      card.letGo();
    }
  }
}
