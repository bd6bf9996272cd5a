// A table whose cells the arrow keys walk through: one of them takes part in the order of Tab.

import { make } from "./marks.js";

export class Grid {
  #at = [0, 0];

  /** rows, columns: what stands beside and above the cells. fill(cell, row, column) fills one; chosen(row, column) hears of a press. */
  constructor(box, { label, rows, columns, fill, chosen, corner = "" }) {
    this.chosen = chosen;
    const head = make("tr", {}, make("th", { scope: "col" }, corner), ...columns.map((name) => make("th", { scope: "col" }, name)));
    this.cells = rows.map((_, row) =>
      columns.map((_, column) => {
        const cell = make("td", { role: "gridcell", tabindex: "-1", "data-row": row, "data-column": column });
        fill(cell, row, column);
        return cell;
      }),
    );
    const body = rows.map((name, row) => make("tr", {}, make("th", { scope: "row" }, name), ...this.cells[row]));
    this.table = make("table", { role: "grid", "aria-label": label }, make("thead", {}, head), make("tbody", {}, ...body));
    this.table.addEventListener("keydown", (event) => this.#key(event));
    this.table.addEventListener("click", (event) => {
      const cell = event.target.closest("td");
      if (cell) this.#choose(cell);
    });
    box.replaceChildren(this.table);
    this.#stop(0, 0);
  }

  /** Mark one cell, or a whole column (row null), as what is looked at. */
  mark(row, column) {
    for (const cell of this.table.querySelectorAll("[aria-selected]")) cell.removeAttribute("aria-selected");
    const marked = row === null ? this.cells.map((cells) => cells[column]) : [this.cells[row][column]];
    for (const cell of marked) cell?.setAttribute("aria-selected", "true");
    this.#stop(row ?? this.#at[0], column);
  }

  #choose(cell) {
    const [row, column] = [Number(cell.dataset.row), Number(cell.dataset.column)];
    this.#stop(row, column);
    this.chosen?.(row, column);
  }

  #stop(row, column) {
    this.cells[this.#at[0]][this.#at[1]].tabIndex = -1;
    this.#at = [row, column];
    this.cells[row][column].tabIndex = 0;
  }

  #key(event) {
    const [row, column] = this.#at;
    const last = [this.cells.length - 1, this.cells[0].length - 1];
    const to = {
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      Home: [row, 0],
      End: [row, last[1]],
    }[event.key];
    if (event.key === "Enter" || event.key === " ") this.#choose(this.cells[row][column]);
    else if (to === undefined) return;
    else {
      this.#stop(Math.max(0, Math.min(last[0], to[0])), Math.max(0, Math.min(last[1], to[1])));
      this.cells[this.#at[0]][this.#at[1]].focus();
    }
    event.preventDefault();
  }
}
