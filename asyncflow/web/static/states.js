// The states of a job that it does not leave by itself.

export const FINAL = new Set(["COMPLETED", "FAILED", "REJECTED", "CANCELLED"]);
