/*
 * Makes the page: one file, dist/report.html, with script, styles and fonts' names in it and nothing to load.
 * `node build.js [FILE]`. The data come in where page.html says FREEHOLD_DATA (tools/page.c puts them there).
 */
import { build } from "esbuild";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const target = process.argv[2] ?? here("dist/report.html");
/* Scripts and styles before the data; what a page costs that shows nothing yet. */
const mostBytes = 120_000;

async function bundle(entry) {
  const result = await build({
    entryPoints: [here(entry)],
    bundle: true,
    minify: true,
    write: false,
    format: "iife",
    target: ["chrome100", "firefox100", "safari15"],
    charset: "utf8",
    legalComments: "none",
  });
  return result.outputFiles[0].text.trim();
}

const [script, style] = await Promise.all([bundle("src/main.js"), bundle("src/style.css")]);
if (/<\/(script|style)/i.test(script + style)) {
  throw new Error("the bundle ends the element that it stands in");
}
/* Functions as replacements: a bundle holds "$&" and the like. */
const page = readFileSync(here("src/page.html"), "utf8")
  .replace("/* STYLE */", () => style)
  .replace("/* SCRIPT */", () => script);
if (page.split("FREEHOLD_DATA").length !== 2) {
  throw new Error("the place of the data has to be there exactly once");
}
if (Buffer.byteLength(page) > mostBytes) {
  throw new Error(`the page has ${Buffer.byteLength(page)} bytes, more than ${mostBytes}`);
}
mkdirSync(dirname(target), { recursive: true });
writeFileSync(target, page);
