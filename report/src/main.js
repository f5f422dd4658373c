/* Reads the data that lie in the page and lets the panel of their kind show them. */
import { h } from "./dom.js";
import { addPanel, panelOf } from "./panels.js";
import { themeButton } from "./theme.js";
import { advise } from "./panels/advise.js";
import { replay } from "./panels/replay.js";

addPanel(advise);
addPanel(replay);

function trouble(text) {
  return h("main", {}, h("p", { class: "trouble", role: "alert" }, text));
}

function show() {
  let page;
  try {
    page = JSON.parse(document.getElementById("data").textContent);
  } catch {
    return [trouble("The data in this page can't be read: the file is cut or was changed. Please make it again.")];
  }
  const panel = panelOf(page.kind);
  if (panel === undefined) {
    return [trouble(`This page was made by a newer Freehold: it knows nothing of “${page.kind}”.`)];
  }
  document.title = `${panel.title(page.data)} · Freehold`;
  return [
    h(
      "header",
      {},
      h("div", { class: "brand" }, h("span", { class: "mark", "aria-hidden": "true" }), "Freehold"),
      h("div", { class: "titles" }, h("h1", {}, panel.title(page.data)), h("p", { class: "subtitle" }, panel.subtitle(page.data))),
      themeButton(),
    ),
    h("main", {}, panel.render(page.data)),
  ];
}

document.getElementById("app").append(...show());
