// Much work in small pieces, so that the page answers in between.

const PIECE_MS = 12;

// Yields what `make` makes of `items`, as many at a time as get done in a moment.
export const slices = async function* (items, make) {
  for (let at = 0; at < items.length; ) {
    const end = performance.now() + PIECE_MS;
    const made = [];
    do {
      made.push(make(items[at]));
      at += 1;
    } while (at < items.length && performance.now() < end);
    yield made;
    if (at < items.length) await breath();
  }
};

// Not a timer: a page in the background would be let on once a second.
const breath = () =>
  new Promise((done) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      done();
    };
    port2.postMessage(null);
  });
