// The files of a drop, folders opened; each with its path in the folder it came in.

export const dropped = async (transfer) => {
  // both lists are empty once the event is over: take them before anything is awaited
  const files = alone(transfer.files);
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return files;
  return (await Promise.all(entries.map(unfold))).flat();
};

// Files as they are chosen one by one, or by `<input webkitdirectory>`.
export const alone = (files) =>
  [...(files ?? [])].map((file) => ({ file, path: file.webkitRelativePath ?? "" }));

const unfold = async (entry) => {
  try {
    return entry.isFile ? [await read(entry)] : await list(entry.createReader());
  } catch {
    // a file that may not be read is left out; the others are not its hostages
    return [];
  }
};

const read = async (entry) => {
  const file = await new Promise((done, failed) => entry.file(done, failed));
  const path = entry.fullPath.replace(/^\//, "");
  return { file, path: path.includes("/") ? path : "" };
};

const list = async (reader) => {
  const found = [];
  for (;;) {
    // a reader hands out a hundred at a time
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (some.length === 0) return found;
    found.push(...(await Promise.all(some.map(unfold))).flat());
  }
};
