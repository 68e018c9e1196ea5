// What a step left out although it is done, by the facts that it found.

const MOST_RUNS = 10;

// why pages were not read: of one page, of several
const WHY = {
  crashed: [": the reader crashed on it", ": the reader crashed on them"],
  damaged: [": it is damaged", ": they are damaged"],
  timeout: [" in full: it took too long", " in full: they took too long"],
  truncated: [": it ends too early", ": they end too early"],
  missing_tool: Array(2).fill(" in full: a tool for that is not installed"),
};

// what could not be made, and why
const OUTPUTS = { preview: "preview", searchablePdf: "searchable PDF" };
const WHY_NOT_MADE = {
  crashed: ": what makes it crashed",
  damaged: ": the document is damaged",
  out_of_memory: ": it would be too large",
  timeout: ": it took too long",
};

// Sentences; none where nothing is missing.
export const gaps = (job) =>
  job.steps.flatMap(({ name }) => {
    const facts = job.facts?.[name];
    if (!areOfPages(facts)) return [];
    const { failedPages, failedOutputs = [], emptyPages = [] } = facts;
    const { missingLanguages = [], ocrPages = 0 } = facts;
    const reasons = new Set(failedPages.map((one) => one.reason));
    const told = [...reasons].map((why) =>
      unread(failedPages.filter((one) => one.reason === why).map((one) => one.page), why),
    );
    told.push(...failedOutputs.map(({ output, reason }) => unmade(output, reason)));
    if (emptyPages.length > 0) told.push(empty(emptyPages.map((one) => one.page)));
    // where each page carries its text nobody needs the data
    const isNeeded = ocrPages > 0 || reasons.has("missing_tool");
    if (isNeeded && missingLanguages.length > 0) told.push(unknown(missingLanguages));
    return told;
  });

// Of a step that reads pages; somebody's own function may find anything.
const areOfPages = (facts) =>
  isList(facts?.failedPages, isUnread) &&
  isList(facts.emptyPages ?? [], isUnread) &&
  isList(facts.failedOutputs ?? [], (one) => isText(one?.output) && isText(one.reason)) &&
  isList(facts.missingLanguages ?? [], isText);

const isUnread = (one) => Number.isInteger(one?.page) && isText(one.reason);

const isText = (one) => typeof one === "string";

const isList = (some, isGood) => Array.isArray(some) && some.every(isGood);

const unread = (pages, why) => {
  const one = pages.length === 1;
  const because = WHY[why]?.[one ? 0 : 1] ?? ` (${why})`;
  return `${one ? "Page" : "Pages"} ${list(runs(pages))} could not be read${because}.`;
};

const empty = (pages) => {
  const [what, why] = pages.length === 1 ? ["Page", "is empty: it"] : ["Pages", "are empty: they"];
  return `${what} ${list(runs(pages))} of the searchable PDF ${why} could not be shown.`;
};

const unmade = (output, why) =>
  `The ${OUTPUTS[output] ?? output} could not be made${WHY_NOT_MADE[why] ?? ` (${why})`}.`;

const unknown = (languages) => {
  const [what, it] = languages.length === 1 ? ["language", "it"] : ["languages", "them"];
  return `No data for the ${what} ${list(languages)} is installed: text in ${it} may be wrong or missing.`;
};

// [2, 4, 5, 6] becomes "2" and "4 to 6".
const runs = (pages) => {
  const found = [];
  for (const page of pages) {
    const last = found.at(-1);
    if (last && page === last.at(-1) + 1) last.push(page);
    else found.push([page]);
  }
  const shown = found.length > MOST_RUNS ? found.slice(0, MOST_RUNS - 1) : found;
  const rest = found.slice(shown.length).flat().length;
  const named = shown.flatMap((run) =>
    run.length > 2 ? `${run[0]} to ${run.at(-1)}` : run.map(String),
  );
  return rest > 0 ? [...named, `${rest} more`] : named;
};

const list = (parts) =>
  parts.length === 1 ? parts[0] : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
