// What this browser sends to this server, so that a reload can go on with it.
//
// A file that waits for its turn has no id yet: it is known by name, size and date.

const MAX_KEPT = 500;

export class Memory {
  constructor(base) {
    this.key = `asyncflow ${base}`;
  }

  static about(file) {
    return { id: null, name: file.name, size: file.size, changed: file.lastModified };
  }

  static matches(known, file) {
    return (
      known.name === file.name && known.size === file.size && known.changed === file.lastModified
    );
  }

  // Oldest first. A browser that keeps nothing is like one that has sent nothing.
  all() {
    try {
      return JSON.parse(localStorage.getItem(this.key) || "[]");
    } catch {
      return [];
    }
  }

  keep(...several) {
    this.write([...this.all(), ...several]);
  }

  // Keeps `fresh` in the place of `known`.
  exchange(known, fresh) {
    const kept = this.all();
    const at = place(kept, known);
    if (at < 0) kept.push(fresh);
    else kept[at] = fresh;
    this.write(kept);
  }

  drop(known) {
    const kept = this.all();
    const at = place(kept, known);
    if (at < 0) return;
    kept.splice(at, 1);
    this.write(kept);
  }

  write(kept) {
    try {
      localStorage.setItem(this.key, JSON.stringify(kept.slice(-MAX_KEPT)));
    } catch {
      // full or forbidden: a reload will not remember, nothing else is lost
    }
  }
}

// One of them, if the same file was chosen twice.
const place = (kept, known) =>
  kept.findIndex((one) =>
    known.id
      ? one.id === known.id
      : !one.id &&
        one.name === known.name &&
        one.size === known.size &&
        one.changed === known.changed,
  );
