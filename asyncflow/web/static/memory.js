// What this browser sends to this server, so that a reload can go on with it.
//
// Rules
// - Each file has an entry of its own in localStorage: with thousands of files a change
//   writes no more than with one, and two tabs do not undo each other's.
// - Each element on a page has a list of its own, which the entries name.
// - `key` names the entry and says when the file was chosen: keys sort by age.
// - A file that waits for its turn has no id yet: it is known by name, folder, size, date.
// - `once` names a creation that was asked for, until its answer has come: whoever reads
//   the entry then finds the same upload instead of making a second one. The server
//   compares all that was announced with it, the type too.

const MAX_KEPT = 5000;

export class Memory {
  // `list` tells the lists apart that this browser keeps for the server at `base`.
  constructor(base, list) {
    // no address has a space in it
    this.prefix = `asyncflow ${base} ${list} `;
    this.made = 0;
  }

  // `path` is where the file is in the folder that was chosen, empty without one.
  static about(file, path, key) {
    const { name, type, size, lastModified: changed } = file;
    return { key, id: null, once: null, name, type, path, size, changed };
  }

  static matches(known, file) {
    return (
      known.name === file.name && known.size === file.size && known.changed === file.lastModified
    );
  }

  // Newest first. A browser that keeps nothing is like one that has sent nothing.
  keys() {
    try {
      return Object.keys(localStorage)
        .filter((key) => key.startsWith(this.prefix))
        .sort()
        .reverse();
    } catch {
      return [];
    }
  }

  // What is kept under a key; null when another tab has dropped it. Scripts of the page
  // around us write here as well: what is no file of ours is dropped.
  read(key) {
    let known = null;
    try {
      known = JSON.parse(localStorage.getItem(key));
    } catch {
      // no JSON
    }
    if (isFile(known)) return { ...known, key };
    this.drop({ key });
    return null;
  }

  // Tells whether there was room.
  keep(known) {
    try {
      localStorage.setItem(known.key, JSON.stringify(known));
      return true;
    } catch {
      return false;
    }
  }

  // Forgets the oldest of too many; tells how many are left, if any had to go.
  prune() {
    const old = this.keys().slice(MAX_KEPT);
    for (const key of old) localStorage.removeItem(key);
    return old.length > 0 ? MAX_KEPT : null;
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

  // Keys for files that are chosen at once: a reload puts the first on top.
  fresh(count) {
    const at = Date.now().toString(36).padStart(9, "0");
    const tab = Math.random().toString(36).slice(2, 8);
    this.made += count;
    return Array.from({ length: count }, (_none, turn) => {
      const behind = (this.made - turn).toString(36).padStart(5, "0");
      return `${this.prefix}${at}${behind}${tab}`;
    });
  }
}

const isText = (one) => typeof one === "string";

const isFile = (known) =>
  known !== null &&
  [known.name, known.type, known.path].every(isText) &&
  [known.size, known.changed].every(Number.isFinite) &&
  [known.id, known.once].every((one) => one === null || isText(one));
