/*
 * Light or dark: as the system says, until the reader chooses; the choice is kept where the browser keeps
 * things for files. Charts that hold colours of their own ask to be told of a change.
 */
import { h } from "./dom.js";

const listeners = new Set();
const system = window.matchMedia("(prefers-color-scheme: dark)");

export function onThemeChange(listener) {
  listeners.add(listener);
}

function remembered() {
  try {
    return localStorage.getItem("freehold-theme");
  } catch {
    return null; /* some browsers forbid it for files */
  }
}

function apply(theme) {
  document.documentElement.dataset.theme = theme;
  for (const listener of listeners) {
    listener();
  }
}

export function themeButton() {
  let theme = remembered() ?? (system.matches ? "dark" : "light");
  const label = () => (theme === "dark" ? "Light" : "Dark");
  const button = h("button", { class: "quiet", id: "theme", type: "button", title: "Change between light and dark" }, label());
  button.addEventListener("click", () => {
    theme = theme === "dark" ? "light" : "dark";
    button.textContent = label();
    apply(theme);
    try {
      localStorage.setItem("freehold-theme", theme);
    } catch {
      /* then it holds for this visit */
    }
  });
  system.addEventListener("change", (event) => {
    if (remembered() === null) {
      theme = event.matches ? "dark" : "light";
      button.textContent = label();
      apply(theme);
    }
  });
  apply(theme);
  return button;
}
