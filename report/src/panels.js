/*
 * The panels there are, by the kind of data they show. A panel is { kind, title(data), subtitle(data),
 * render(data) -> array of elements }; a tool that has something new to show adds a file under panels/ and a
 * line in main.js.
 */
const panels = new Map();

export function addPanel(panel) {
  panels.set(panel.kind, panel);
}

export function panelOf(kind) {
  return panels.get(kind);
}
