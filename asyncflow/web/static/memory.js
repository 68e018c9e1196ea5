// What this browser sends to this server, so that a reload can go on with it.
//
// Rules
// - Each file has an entry of its own in localStorage: with thousands of files a change
//   writes no more than with one, and two tabs do not undo each other's.
// - `key` names the entry and says when the file was chosen: keys sort by age.
// - A file that waits for its turn has no id yet: it is known by name, folder, size, date.

const MAX_KEPT = 5000;

export class Memory {
  constructor(base) {
    // no address has a space in it
    this.prefix = `asyncflow ${base} `;
    this.made = 0;
  }

  // `path` is where the file is in the folder that was chosen, empty without one.
  static about(file, path) {
    const { name, size, lastModified: changed } = file;
    return { key: "", id: null, name, path, size, changed };
  }

  static matches(known, file) {
    return (
      known.name === file.name && known.size === file.size && known.changed === file.lastModified
    );
  }

  // Oldest first. A browser that keeps nothing is like one that has sent nothing.
  all() {
    try {
      return this.keys().map((key) => JSON.parse(localStorage.getItem(key)));
    } catch {
      return [];
    }
  }

  // Tells in words what a reload will not know any more, or returns nothing.
  keep(...several) {
    try {
      for (const known of several) {
        known.key ||= this.fresh();
        localStorage.setItem(known.key, JSON.stringify(known));
      }
      const old = this.keys().slice(0, -MAX_KEPT);
      for (const key of old) localStorage.removeItem(key);
      return old.length > 0
        ? `This browser remembers the latest ${MAX_KEPT} files. After a reload this list ends there; older files stay on the server.`
        : "";
    } catch {
      return "This browser has no room to remember these files. After a reload they are not on this list.";
    }
  }

  // Keeps what has changed of `known`, unless it was dropped meanwhile.
  change(known) {
    try {
      if (localStorage.getItem(known.key) === null) return;
      localStorage.setItem(known.key, JSON.stringify(known));
    } catch {
      // full or forbidden: a reload will not remember, nothing else is lost
    }
  }

  drop(known) {
    try {
      localStorage.removeItem(known.key);
    } catch {
      // forbidden: then nothing is kept either
    }
  }

  keys() {
    return Object.keys(localStorage)
      .filter((key) => key.startsWith(this.prefix))
      .sort();
  }

  fresh() {
    this.made += 1;
    const turn = this.made.toString(36).padStart(5, "0");
    const tab = Math.random().toString(36).slice(2, 8);
    return `${this.prefix}${Date.now().toString(36).padStart(9, "0")}${turn}${tab}`;
  }
}
