// Without it all images are shown, and tables keep their order.
const figures = [...document.querySelectorAll("#images figure")];
// The first ones, mistakes; a click on a cell shows its own.
const show = (wanted) => figures.forEach((figure, place) => { figure.hidden = !wanted(figure, place); });
const isFirst = (_figure, place) => place < 24;
show(isFirst);
for (const button of document.querySelectorAll(".matrix button")) {
  button.addEventListener("click", () => {
    const isOn = button.getAttribute("aria-pressed") === "true";
    for (const other of document.querySelectorAll(".matrix button")) other.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", String(!isOn));
    show(isOn ? isFirst : (figure) => figure.dataset.cell === button.dataset.cell);
    document.getElementById("shown").textContent = isOn ? "" : button.title;
  });
}
for (const head of document.querySelectorAll("th.sortable")) {
  head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const place = [...head.parentNode.children].indexOf(head);
    const sign = head.dataset.sign === "1" ? -1 : 1;
    head.dataset.sign = String(sign);
    const value = (row) => row.children[place].dataset.value ?? row.children[place].textContent;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      const [m, n] = [parseFloat(x), parseFloat(y)];
      return sign * (isNaN(m) || isNaN(n) ? x.localeCompare(y) : m - n);
    };
    body.append(...[...body.rows].sort(compare));
  });
}
