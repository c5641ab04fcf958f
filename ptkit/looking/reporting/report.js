"use strict";
// The page reads without this script: it only filters images and sorts tables.

function filterImages() {
  const figures = [...document.querySelectorAll("#images-shown figure")];
  const heading = document.getElementById("shown");
  const back = document.getElementById("back");
  if (!heading) return;
  const atFirst = heading.textContent;

  // A cell has a button in the matrix and may have one among the pairs.
  function show(isShown, words, pressed) {
    for (const figure of figures) figure.hidden = !isShown(figure);
    heading.textContent = words;
    back.hidden = pressed === null;
    for (const button of document.querySelectorAll("button[data-cell]")) {
      button.setAttribute("aria-pressed", String(button.dataset.cell === pressed));
    }
  }

  const showFirst = () => show((figure) => "first" in figure.dataset, atFirst, null);

  for (const button of document.querySelectorAll("button[data-cell]")) {
    button.addEventListener("click", () => {
      if (button.getAttribute("aria-pressed") === "true") return showFirst();
      const ofCell = (figure) => figure.dataset.cell === button.dataset.cell;
      const count = figures.filter(ofCell).length;
      const total = Number(button.dataset.count);
      const images = total === 1 ? "image" : "images";
      const told = count < total ? `${count} of ${total} ${images}` : `${total} ${images}`;
      show(ofCell, `${button.dataset.words}: ${told}`, button.dataset.cell);
      heading.scrollIntoView({ block: "nearest" });
    });
  }
  back.addEventListener("click", showFirst);
}

function sortTables() {
  const collator = new Intl.Collator(undefined, { numeric: true });
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value ?? cell.textContent.replace(/[,%]/g, "");
  };
  const isEmpty = (value) => value === "" || value === "–";

  function sort(table, header, column) {
    const isRising = header.getAttribute("aria-sort") === "descending";
    for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", isRising ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((first, second) => {
      const [a, b] = [valueOf(first, column), valueOf(second, column)];
      // What is not known stays last.
      if (isEmpty(a) || isEmpty(b)) return isEmpty(a) - isEmpty(b);
      const areNumbers = !Number.isNaN(Number(a)) && !Number.isNaN(Number(b));
      const order = areNumbers ? a - b : collator.compare(a, b);
      return isRising ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const [column, header] of [...table.tHead.rows[0].cells].entries()) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sort(table, header, column));
    }
  }
}

filterImages();
sortTables();
