// Numbers, times and states as people read them.

// In the units in which the settings and the command line speak of sizes.
export const size = (bytes) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit > 0 && value < 10 ? 1 : 0;
  return `${value.toFixed(digits).replace(/\.0$/, "")} ${units[unit]}`;
};

export const duration = (seconds) => {
  if (!Number.isFinite(seconds)) return "";
  const whole = Math.ceil(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
};

const STEPS = {
  identify: "Check",
  image: "Pictures",
  text: "Text",
  scan: "Virus scan",
  video: "Video",
  captions: "Captions",
};

export const stepName = (name) => STEPS[name] || plain(name);

const STATES = {
  waiting: "waiting",
  ready: "waiting",
  running: "working",
  retrying: "trying again",
  done: "done",
  skipped: "skipped",
  dead: "failed",
  cancelled: "cancelled",
};

export const stepState = (state) => STATES[state] || state;

const ENDS = {
  UPLOADING: "Waiting for the rest of the file",
  PENDING: "Received",
  PROCESSING: "Processing",
  COMPLETED: "Done",
  FAILED: "Failed",
  REJECTED: "Refused",
  CANCELLED: "Cancelled",
};

export const jobState = (state) => ENDS[state] || state;

const EVENTS = {
  "file.uploaded": "every byte has arrived",
  "file.accepted": "checked and accepted",
  "task.submitted": "task given to the server",
  "job.replayed": "given to a consumer once more",
  "job.retried": "a new run began",
  "job.completed": "job done",
  "job.failed": "job failed",
  "job.rejected": "job refused",
  "job.cancelled": "job cancelled",
};
const STEP_EVENTS = {
  completed: "done",
  skipped: "skipped",
  dead: "failed for good",
  cancelled: "cancelled",
};

// "image.dead" becomes "Pictures: failed for good"; an application's own stays as it is.
export const eventText = (type) => {
  const [consumer, what, more] = type.split(".");
  if (type in EVENTS) return EVENTS[type];
  if (more !== undefined || !(what in STEP_EVENTS)) return type;
  return `${stepName(consumer)}: ${STEP_EVENTS[what]}`;
};

const FILES = {
  original: "Original",
  thumbnail: "Thumbnail",
  medium: "Medium",
  large: "Large",
  text: "Text",
  textJson: "Words (JSON)",
  searchablePdf: "Searchable PDF",
  preview: "Preview",
  poster: "Poster",
  captions: "Captions",
};

export const fileName = (name) => FILES[name] || plain(name);

// "no room here" becomes "No room here."
export const sentence = (text) => {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(whole) ? whole : `${whole}.`;
};

// Why something went wrong, with numbers as people read them.
export const reason = (detail) =>
  sentence(detail.replace(/^([a-z]+\/\S+) is refused$/, "this server does not take files of the type $1"))
    .replace(/\b(\d+) bytes\b/g, (_all, bytes) => size(Number(bytes)))
    .replace(/\b(\d{7,}) pixels\b/g, (_all, pixels) => `${Number((pixels / 1e6).toFixed(1))} megapixels`)
    .replace(/(\d) x (?=\d)/g, "$1 × ");

// A file's name as it may be shown: without characters that nobody sees or that turn
// the text around, so that "gpj.exe" cannot pass for "exe.jpg". What joins two
// characters beyond ASCII, as in emoji, stays. The server does the same.
export const fileTitle = (name) =>
  name
    .replace(/(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, "")
    .replace(/[\u200c\u200d]+/g, (run, at, all) => {
      const joins = [all[at - 1], all[at + 1]].every((one) => /[^\0-\x7f\s]/.test(one ?? ""));
      return run.length === 1 && joins ? run : "";
    })
    .trim() || "file";

const KINDS = {
  "image/*": "pictures",
  "video/*": "videos",
  "audio/*": "sound",
  "text/*": "text",
  "application/pdf": "PDF",
};

export const kind = (type) => KINDS[type] ?? (type.startsWith("image/") ? type.slice(6).toUpperCase() : type);

export const count = (number, one, many) => `${number} ${number === 1 ? one : many}`;

// "searchablePdf" becomes "Searchable pdf", for names that we have no words for.
export const plain = (name) =>
  (name.charAt(0).toUpperCase() + name.slice(1)).replace(
    /([a-z0-9])([A-Z])/g,
    (_all, before, after) => `${before} ${after.toLowerCase()}`,
  );
