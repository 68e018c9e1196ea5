// The files of a drop, folders opened; each with its path in the folder it came in.
//
// Whatever is handed out has `files`, and `unread`: the paths of the files and folders
// that are left out because they cannot be read. The others are not their hostages.

export const dropped = async (transfer) => {
  // the list is empty once the event is over: take all of it before anything is awaited
  const parts = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => {
      const entry = item.webkitGetAsEntry?.();
      return entry ? unfold(entry) : plain(item.getAsFile());
    });
  return joined(await Promise.all(parts));
};

// Files as they are chosen one by one, or by `<input webkitdirectory>`.
export const alone = (files) => ({
  files: [...(files ?? [])].map((file) => ({ file, path: file.webkitRelativePath ?? "" })),
  unread: [],
});

const joined = (parts) => ({
  files: parts.flatMap((part) => part.files),
  unread: parts.flatMap((part) => part.unread),
});

const unfold = async (entry) => {
  try {
    return entry.isFile ? await read(entry) : await list(entry.createReader());
  } catch {
    return { files: [], unread: [pathOf(entry)] };
  }
};

// What comes from no folder, or is gone: a browser makes an empty file of that.
const plain = async (file) => {
  try {
    await (file.size > 0 ? file.slice(0, 1) : file).arrayBuffer();
    return alone([file]);
  } catch {
    return { files: [], unread: [file.name] };
  }
};

const pathOf = (entry) => entry.fullPath.replace(/^\//, "");

const read = async (entry) => {
  const file = await new Promise((done, failed) => entry.file(done, failed));
  const path = pathOf(entry);
  return { files: [{ file, path: path.includes("/") ? path : "" }], unread: [] };
};

const list = async (reader) => {
  const parts = [];
  for (;;) {
    // a reader hands out a hundred at a time
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (some.length === 0) return joined(parts);
    parts.push(...(await Promise.all(some.map(unfold))));
  }
};
