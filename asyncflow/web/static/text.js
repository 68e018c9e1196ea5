// The text of a file: shown, searched and copied as text, never as markup.

const SHOWN = 200_000;
const MAX_MARKS = 2000;

const make = (tag, name, text = "") => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
};

// A box with the text at `path`, or null where there is none. `title` names its file.
export const textBox = async (server, path, title) => {
  const found = await server.text(path, SHOWN);
  const text = found.text.trim();
  if (!text) return null;
  const box = make("details", "text");
  box.open = true;
  const area = make("pre", "", text);
  area.dir = "auto";
  area.tabIndex = 0;
  area.setAttribute("role", "region");
  area.setAttribute("aria-label", `Text of ${title}`);
  box.append(make("summary", "", "Text"), tools(area, text, title), area);
  if (found.more) {
    box.append(make("p", "quiet", "This is the beginning; the download has all of it."));
  }
  return box;
};

const tools = (area, text, title) => {
  const row = make("p", "tools");
  const find = make("input", "find");
  find.type = "search";
  find.placeholder = "Find in the text";
  find.setAttribute("aria-label", `Find in the text of ${title}`);
  const told = make("output", "quiet");
  find.addEventListener("input", () => {
    const places = mark(area, text, find.value);
    told.textContent = find.value ? places : "";
  });
  const copy = make("button", "", "Copy text");
  copy.type = "button";
  copy.addEventListener("click", async () => {
    copy.textContent = (await copied(area, text)) ? "Copied" : "Selected: press Ctrl+C";
  });
  row.append(find, told, copy);
  return row;
};

// Pages that do not come by https may not write to the clipboard.
const copied = async (area, text) => {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(area);
    area.focus();
    return false;
  }
};

// Mark the places of `wanted`, say how many there are.
const mark = (area, text, wanted) => {
  const low = text.toLowerCase();
  // a few letters change their length with their case: then case counts
  const [where, key] =
    low.length === text.length ? [low, wanted.toLowerCase()] : [text, wanted];
  const parts = [];
  let at = 0;
  let found = key ? where.indexOf(key) : -1;
  while (found >= 0 && parts.length < 2 * MAX_MARKS) {
    const end = found + key.length;
    parts.push(text.slice(at, found), make("mark", "", text.slice(found, end)));
    at = end;
    found = where.indexOf(key, at);
  }
  area.replaceChildren(...parts, text.slice(at));
  area.querySelector("mark")?.scrollIntoView({ block: "nearest" });
  const more = found >= 0 ? " or more" : "";
  return `${parts.length / 2}${more} ${parts.length === 2 ? "place" : "places"}`;
};
