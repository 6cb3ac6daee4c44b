// Charts: the page's data block holds numbers and names; plotly draws them in the page's colours.

import { colour, onTheme } from "./theme.js";

const LINES = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];
const HEIGHT = 240;

// Text that plotly shows as it is: it reads some tags and entities of HTML.
export function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function seeThrough(hex, share) {
  const parts = hex.match(/^#(..)(..)(..)$/);
  return parts ? `rgba(${parts.slice(1).map((part) => parseInt(part, 16)).join(",")},${share})` : hex;
}

function band(series, shade, edge) {
  const y = series[edge];
  const line = { width: 0 };
  const fill = edge === "high" ? { fill: "tonexty", fillcolor: seeThrough(shade, 0.18) } : {};
  return { x: series.x, y, type: "scatter", mode: "lines", line, hoverinfo: "skip", showlegend: false, ...fill };
}

function traces(figure) {
  return figure.series.flatMap((series, number) => {
    const shade = colour(LINES[number % LINES.length]);
    const shared = { name: plain(series.name), x: series.x, y: series.y, hovertemplate: "%{y:.4~g}<extra>%{fullData.name}</extra>" };
    if (figure.kind === "bars") return [{ ...shared, type: "bar", marker: { color: shade } }];
    const known = series.y.filter((value) => value !== null).length;
    const mode = figure.kind === "points" ? "markers" : known < 12 ? "lines+markers" : "lines";
    const own = { ...shared, type: "scatter", mode, line: { color: shade, width: 1.8 }, marker: { color: shade, size: 6 } };
    return series.low ? [band(series, shade, "low"), band(series, shade, "high"), own] : [own];
  });
}

function axis(title, more) {
  const line = colour("--line");
  return { title: { text: plain(title), standoff: 6 }, gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, ...more };
}

function marked(figure) {
  const ink = colour("--soft");
  return {
    shapes: figure.marks.map(([x]) => ({
      type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", line: { color: ink, width: 1, dash: "dot" },
    })),
    annotations: figure.marks.map(([x, word]) => ({
      x: x, y: 1, yref: "paper", yanchor: "bottom", showarrow: false, text: plain(word), font: { size: 10, color: ink },
    })),
  };
}

function layout(figure) {
  return {
    height: HEIGHT,
    margin: { l: 48, r: 10, t: figure.marks.length ? 20 : 8, b: 36 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 11, color: colour("--soft") },
    hoverlabel: { bgcolor: colour("--paper"), bordercolor: colour("--edge"), font: { color: colour("--ink") } },
    hovermode: figure.kind === "points" ? "closest" : "x unified",
    showlegend: figure.series.length > 1,
    legend: { orientation: "h", y: -0.28, x: 0, font: { size: 11 } },
    dragmode: false,
    xaxis: axis(figure.x),
    yaxis: axis(figure.y, { exponentformat: "e", ...(figure.log ? { type: "log" } : {}) }),
    ...marked(figure),
  };
}

// Draws a figure of the data block into an element, or draws it anew.
export function draw(place, figure) {
  const settings = { displayModeBar: false, responsive: true, scrollZoom: false };
  return Plotly.react(place, traces(figure), layout(figure), settings);
}

// Draws every chart of the page once it comes near, or is opened; all of them before the page is printed. Where a page
// follows its run, an event brings the figures as they are now.
export function drawAll(figures) {
  let now = figures;
  const drawn = new Set();
  const places = () => [...document.querySelectorAll("[data-figure]")];
  const show = (place) => {
    drawn.add(place);
    draw(place, now[place.dataset.figure]);
  };
  const near = new IntersectionObserver(
    (seen) => seen.filter((each) => each.isIntersecting && !drawn.has(each.target)).forEach((each) => show(each.target)),
    { rootMargin: "600px" },
  );
  const again = () => [...drawn].filter((place) => place.isConnected && now[place.dataset.figure]).forEach(show);
  places().forEach((place) => near.observe(place));
  onTheme(again);
  addEventListener("beforeprint", () => places().filter((place) => place.offsetParent !== null).forEach(show));
  document.addEventListener("figures", ({ detail }) => {
    now = detail;
    places().forEach((place) => near.observe(place));
    again();
  });
}
