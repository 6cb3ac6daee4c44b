// The page starts: charts from its data block, and contents that a small screen folds away.

import { drawAll } from "./charts.js";

drawAll(JSON.parse(document.getElementById("figures").textContent));

const contents = document.getElementById("contents");
const narrow = matchMedia("(max-width: 60rem)");
const fold = () => { contents.open = !narrow.matches; };
fold();
narrow.addEventListener("change", fold);
contents.addEventListener("click", (event) => {
  if (narrow.matches && event.target.closest("a")) contents.open = false;
});
