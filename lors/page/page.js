"use strict";
(() => {
  // Tables: a click on a head sorts the rows, numbers by value, cells without a number last.
  const number = (text) => {
    const found = /^[<]?([+-]?\d+(\.\d+)?)/.exec(text);
    return found ? Number(found[1]) : NaN;
  };
  const sort = (table, column, direction) => {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, text: row.cells[column].textContent.trim() }));
    const isNumeric = rows.some((entry) => !Number.isNaN(number(entry.text)));
    rows.sort((a, b) => {
      if (!isNumeric) return direction * a.text.localeCompare(b.text, "en");
      const [x, y] = [number(a.text), number(b.text)];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return direction * (x - y);
    });
    body.append(...rows.map((entry) => entry.row));
  };
  for (const table of document.querySelectorAll("table:not(.key)")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const direction = head.ariaSort === "ascending" ? "descending" : "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", direction);
        sort(table, column, direction === "ascending" ? 1 : -1);
      });
    });
  }

  // Utterances: two systems of choice.
  const place = document.querySelector("#systems");
  if (!place) return;
  const texts = [...document.querySelectorAll("[data-system]")];
  const names = [...new Set(texts.map((text) => text.dataset.system))];
  const chosen = JSON.parse(place.dataset.first);
  const show = () => {
    for (const text of texts) {
      text.hidden = !chosen.includes(text.dataset.system);
      text.classList.toggle("second", text.dataset.system === chosen[1]);
    }
  };
  chosen.forEach((first, index) => {
    const label = document.createElement("label");
    const select = document.createElement("select");
    for (const name of names) select.add(new Option(name, name, false, name === first));
    select.addEventListener("change", () => {
      chosen[index] = select.value;
      show();
    });
    label.append(index ? "beside " : "Hypotheses of ", select);
    place.append(label);
  });
  place.hidden = names.length < 3;
})();
