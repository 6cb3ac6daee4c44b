// The ranking page: one item after another, each blind.

import { Ranker } from "./ranker.js";

const source = {
  drafts: "",
  path: (reopened) => (reopened ? `/api/item/${encodeURIComponent(reopened.item)}` : "/api/next"),
  events: (work, kind) => work.events(kind),
  nothing({ why, progress }) {
    if (why === "all done")
      return { title: "All done", words: `Everything is ranked, ${progress?.mine ?? 0} by you. Thank you.`, again: false };
    return {
      title: "Nothing for you just now",
      words: "Others are at what is left. This page looks again by itself.",
      again: true,
    };
  },
};

new Ranker(source).start();
