// Tables: a click on a header sorts by it, another one turns it round. What is not known stays at the end.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th"), body = header.closest("table").tBodies[0];
    const turned = { ascending: "descending", descending: "ascending" };
    const order = turned[header.getAttribute("aria-sort")] ?? header.dataset.first;
    const value = (row) => row.cells[header.cellIndex].dataset.value;
    const numeric = header.dataset.kind === "number";
    const compare = (one, other) => (numeric ? Number(one) - Number(other) : one.localeCompare(other));
    const rows = [...body.rows].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === "" || b === "") return (a === "") - (b === "");
      return order === "ascending" ? compare(a, b) : compare(b, a);
    });
    body.append(...rows);
    for (const other of header.parentNode.cells) other.setAttribute("aria-sort", other === header ? order : "none");
  });
}

const charts = () => document.querySelectorAll(".js-plotly-plot");
// A finger scrolls the page; it does not zoom a chart.
if (matchMedia("(pointer: coarse)").matches) {
  for (const chart of charts()) Plotly.relayout(chart, { dragmode: false });
}
// Browsers do not tell charts of the size of paper.
const heights = new Map();
const resize = (chart, layout) => {
  chart.parentNode.style.height = `${layout.height}px`;
  Plotly.relayout(chart, layout);
};
addEventListener("beforeprint", () => {
  for (const chart of charts()) {
    if (!heights.has(chart)) heights.set(chart, chart.layout.height);
    resize(chart, { width: 660, height: 0.8 * heights.get(chart) });
  }
});
addEventListener("afterprint", () => {
  for (const chart of charts()) resize(chart, { width: null, height: heights.get(chart), autosize: true });
});
