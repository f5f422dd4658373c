/*
 * A table that is sorted by its headings, searched, walked with the arrow keys and whose rows open.
 *
 * columns: { key, title, value(row) for sorting, text(row) to show, number: right-aligned and sorted downwards
 * first, bar: its share of the column's largest value is drawn behind the figure, spread(row): [low, high] drawn
 * as a whisker on the bar }. Rows are made when they are shown: a trace has thousands of sites.
 */
import { h } from "./dom.js";

const step = 100; /* rows shown at first and by each "more" */

export function table({ columns, rows, label, search, detail, sort, hint }) {
  let order = sort ?? { key: columns[0].key, down: columns[0].number };
  let query = "";
  let shown = step;

  const largest = new Map();
  for (const column of columns.filter((column) => column.bar)) {
    largest.set(
      column.key,
      rows.reduce((most, row) => Math.max(most, column.value(row) || 0, column.spread?.(row)?.[1] || 0), 0),
    );
  }

  const body = h("tbody");
  const status = h("span", { class: "status", role: "status" });
  const more = h("button", { class: "quiet more", type: "button" }, "Show more");
  const headings = columns.map((column) => {
    const button = h("button", { type: "button" }, column.title, h("span", { class: "arrow", "aria-hidden": "true" }));
    const heading = h("th", { scope: "col", class: column.number ? "number" : null, "data-key": column.key, title: column.help }, button);
    button.addEventListener("click", () => {
      order = { key: column.key, down: order.key === column.key ? !order.down : Boolean(column.number) };
      draw();
    });
    return heading;
  });

  function cell(column, row, index) {
    const text = column.text(row);
    const content = [text];
    const value = column.bar ? column.value(row) : undefined;
    if (value !== undefined && value !== null && !Number.isNaN(value)) {
      const most = largest.get(column.key) || 1;
      const percent = (part) => `${Math.max(0, Math.min(100, (part / most) * 100)).toFixed(2)}%`;
      const bar = h("span", { class: "bar", "aria-hidden": "true" }, h("span", { class: "fill", style: { width: percent(value) } }));
      const spread = column.spread?.(row);
      if (spread) {
        const [low, high] = spread.map(percent);
        bar.append(h("span", { class: "whisker", style: { left: low, width: `calc(${high} - ${low})` } }));
      }
      content.push(bar);
    }
    return h(index === 0 ? "th" : "td", { scope: index === 0 ? "row" : null, class: column.number ? "number" : column.class ?? null }, ...content);
  }

  function line(row) {
    const element = h("tr", { tabindex: -1, "data-id": row.id }, columns.map((column, index) => cell(column, row, index)));
    if (detail) {
      element.classList.add("opens");
      element.setAttribute("aria-expanded", "false");
      element.addEventListener("click", (event) => {
        if (window.getSelection()?.isCollapsed !== false && !event.target.closest("a, button")) {
          toggle(element, row);
        }
      });
    }
    element.addEventListener("keydown", (event) => {
      const next = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
      if (next) {
        let other = element[next];
        while (other && other.classList.contains("detail")) {
          other = other[next];
        }
        focus(other);
        event.preventDefault();
      } else if (event.key === "Home" || event.key === "End") {
        focus(event.key === "Home" ? body.firstElementChild : [...body.querySelectorAll("tr:not(.detail)")].pop());
        event.preventDefault();
      } else if (detail && (event.key === "Enter" || event.key === " ") && event.target === element) {
        toggle(element, row);
        event.preventDefault();
      }
    });
    return element;
  }

  function focus(element) {
    if (element) {
      body.querySelector('tr[tabindex="0"]')?.setAttribute("tabindex", "-1");
      element.setAttribute("tabindex", "0");
      element.focus();
    }
  }

  function toggle(element, row) {
    const isOpen = element.getAttribute("aria-expanded") === "true";
    element.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) {
      element.nextElementSibling.remove();
    } else {
      element.after(h("tr", { class: "detail" }, h("td", { colspan: columns.length }, detail(row))));
    }
  }

  function selected() {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const found = search ? rows.filter((row) => words.every((word) => search(row).toLowerCase().includes(word))) : [...rows];
    const column = columns.find((candidate) => candidate.key === order.key);
    const direction = order.down ? -1 : 1;
    return found.sort((a, b) => {
      const x = column.value(a);
      const y = column.value(b);
      const isX = x !== undefined && x !== null && !Number.isNaN(x);
      const isY = y !== undefined && y !== null && !Number.isNaN(y);
      if (!isX || !isY) {
        return Number(isY) - Number(isX); /* what has no value comes last, whichever way */
      }
      return direction * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
  }

  function draw() {
    const found = selected();
    body.replaceChildren(...found.slice(0, shown).map(line));
    body.firstElementChild?.setAttribute("tabindex", "0");
    more.hidden = found.length <= shown;
    status.textContent = found.length === rows.length ? `${rows.length}` : `${found.length} of ${rows.length}`;
    for (const heading of headings) {
      const isSorted = heading.dataset.key === order.key;
      heading.setAttribute("aria-sort", isSorted ? (order.down ? "descending" : "ascending") : "none");
    }
  }

  more.addEventListener("click", () => {
    shown += step;
    draw();
  });
  const box =
    search &&
    h("input", {
      type: "search",
      placeholder: "Search…  ( / )",
      "aria-label": `Search ${label}`,
      oninput: (event) => {
        query = event.target.value;
        shown = step;
        draw();
      },
    });
  draw();
  const element = h(
    "div",
    { class: "table" },
    box || hint ? h("div", { class: "tools" }, box, status, hint ? h("span", { class: "hint" }, hint) : null) : null,
    h("div", { class: "scroll" }, h("table", { "aria-label": label }, h("thead", {}, h("tr", {}, headings)), body)),
    more,
  );
  /* Shows a row from elsewhere: a point of a chart that was clicked. */
  element.show = (id) => {
    if (box) {
      box.value = "";
    }
    query = "";
    shown = Math.max(shown, selected().findIndex((row) => String(row.id) === String(id)) + 1);
    draw();
    const found = body.querySelector(`tr[data-id="${CSS.escape(String(id))}"]`);
    if (found) {
      found.scrollIntoView({ block: "center" });
      focus(found);
      if (detail && found.getAttribute("aria-expanded") === "false") {
        toggle(found, rows.find((row) => String(row.id) === String(id)));
      }
    }
  };
  return element;
}

/* One of the figures at the top of a page. */
export function figure(title, value, small) {
  return h("div", { class: "card figure" }, h("dt", {}, title), h("dd", {}, value, small ? h("small", {}, small) : null));
}

/* "/" goes to the first search box, as in many tools. */
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest?.("input, textarea")) {
    const box = document.querySelector('input[type="search"]');
    if (box) {
      box.focus();
      event.preventDefault();
    }
  }
});
