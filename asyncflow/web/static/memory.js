// What this browser has sent to this server, so that a reload can go on with it.

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

  keep(known) {
    this.write([...this.all().filter((one) => one.id !== known.id), known].slice(-MAX_KEPT));
  }

  drop(id) {
    this.write(this.all().filter((one) => one.id !== id));
  }

  write(kept) {
    try {
      localStorage.setItem(this.key, JSON.stringify(kept));
    } catch {
      // full or forbidden: a reload will not remember, nothing else is lost
    }
  }
}
