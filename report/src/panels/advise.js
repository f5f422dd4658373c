/*
 * What `freehold advise` found (docs/advise-json.md): proposals by measured saving, live bytes over time, the sites as a
 * cloud (how long their blocks live, how large they are) and as a table.
 */
import { cloud, histogram, timeline } from "../charts.js";
import { h, section } from "../dom.js";
import { bytes, count, duration, share, signed } from "../format.js";
import { figure, table } from "../table.js";

const kinds = {
  arena: "Arena",
  pool: "Pool",
  size: "Size",
  stack: "Stack",
  scratch: "Scratch",
  capacity: "Capacity",
  realloc: "Growth",
  leak: "Never freed",
  tiny: "Tiny",
  remote: "Threads",
};

function figures(data) {
  const { totals, trace } = data;
  return h(
    "dl",
    { class: "figures" },
    figure("Allocations", count(totals.allocations), `${count(totals.resizes)} resizes, ${count(totals.frees)} frees`),
    figure("Live at the peak", bytes(totals.peak_live_bytes), `blocks: ${count(totals.peak_live_blocks)}, at ${duration(totals.peak_ns)}`),
    figure("Requested in all", bytes(totals.requested_bytes), `over ${duration(trace.duration_ns)}`),
    figure("Never freed", bytes(totals.end_live_bytes), `blocks: ${count(totals.end_live_blocks)}`),
    figure("Sites", count(totals.sites), trace.threads > 1 ? `${count(trace.threads)} threads` : "one thread"),
  );
}

function where(site) {
  return site.file ? `${site.file}:${site.line}` : site.module || "";
}

function siteName(site) {
  return [h("span", { class: "function" }, site.function), h("span", { class: "place" }, where(site))];
}

/* A saving is positive where the change is better. */
function saving(format, value, isNoise, small) {
  const words = isNoise ? "" : value > 0 ? "better" : value < 0 ? "worse" : "";
  return h("div", {}, h("b", { class: words }, isNoise ? "≈ 0" : signed(format, value)), h("br"), h("span", {}, small));
}

function proposal(item, sites) {
  const site = sites.get(item.site);
  const measured = item.measured;
  return h(
    "article",
    { class: `proposal${measured?.is_noise ? " is-noise" : ""}`, "data-kind": item.kind },
    h(
      "div",
      {},
      h("h3", {}, h("span", { class: "tag" }, kinds[item.kind] ?? item.kind), item.title),
      h("p", {}, h("span", { class: "function" }, site?.function ?? ""), " ", site ? where(site) : ""),
      h("p", {}, item.evidence),
    ),
    measured
      ? h(
          "div",
          { class: "saving", title: `as replayed, median of ${measured.rounds} rounds` },
          saving(
            duration,
            measured.saved_ns,
            measured.is_time_noise,
            measured.is_time_noise ? `time: within ± ${duration(measured.noise_ns)}` : `saved of ${duration(measured.before_ns)}`,
          ),
          saving(bytes, measured.saved_bytes, measured.is_bytes_noise || measured.saved_bytes === 0, `peak, of ${bytes(measured.before_bytes)}`),
        )
      : h("div", { class: "saving" }, h("span", {}, "not replayed")),
    item.change ? h("pre", {}, item.change) : null,
  );
}

function proposals(items, sites) {
  if (items.length === 0) {
    return h("p", { class: "card figure" }, "Nothing found that a change would make better.");
  }
  return h("div", { class: "proposals" }, items.map((item) => proposal(item, sites)));
}

function buckets(list) {
  return list.map((bucket) => ({
    name: bucket.low === bucket.high ? bytes(bucket.low) : `≤ ${bytes(bucket.high)}`,
    value: bucket.count,
    text: count(bucket.count),
  }));
}

function detail(site) {
  return h(
    "div",
    { class: "columns" },
    h(
      "div",
      {},
      h("h3", {}, "Stack"),
      h(
        "ol",
        { class: "stack" },
        site.stack.map((frame, index) =>
          h("li", { class: index === site.frame ? "is-site" : null }, frame.function, h("span", { class: "place" }, where(frame))),
        ),
      ),
    ),
    h(
      "div",
      {},
      h("h3", {}, "Sizes asked for"),
      histogram(buckets(site.sizes), "Sizes asked for"),
      h(
        "p",
        { class: "note" },
        `Lives ${duration(site.lifetime_ns.median)} in the median, ${duration(site.lifetime_ns.p90)} in nine of ten; `,
        `${count(site.remote_frees)} of ${count(site.frees)} frees came from another thread.`,
      ),
    ),
  );
}

function siteTable(data) {
  return table({
    label: "sites",
    rows: data.sites,
    search: (site) => `${site.function} ${site.file ?? ""} ${site.module ?? ""} ${site.stack.map((frame) => frame.function).join(" ")}`,
    detail,
    hint: "arrow keys move, Enter opens a site",
    sort: { key: "peak", down: true },
    columns: [
      { key: "function", title: "Site", value: (site) => site.function, text: siteName },
      { key: "count", title: "Blocks", number: true, bar: true, value: (site) => site.count, text: (site) => count(site.count) },
      { key: "bytes", title: "Bytes", number: true, value: (site) => site.bytes, text: (site) => bytes(site.bytes), help: "asked for in all" },
      {
        key: "peak",
        title: "At peak",
        number: true,
        bar: true,
        value: (site) => site.peak_bytes,
        text: (site) => bytes(site.peak_bytes),
        help: "live when the program's live bytes were at their peak",
      },
      { key: "size", title: "Size", number: true, value: (site) => site.size.median, text: (site) => bytes(site.size.median), help: "median" },
      {
        key: "life",
        title: "Lives",
        number: true,
        value: (site) => site.lifetime_ns.median,
        text: (site) => duration(site.lifetime_ns.median),
        help: "median",
      },
      {
        key: "remote",
        title: "Other thread",
        number: true,
        value: (site) => (site.frees ? site.remote_frees / site.frees : 0),
        text: (site) => (site.frees ? share(site.remote_frees / site.frees) : "–"),
        help: "freed by another thread than the one that allocated",
      },
      { key: "left", title: "Never freed", number: true, value: (site) => site.end_bytes, text: (site) => bytes(site.end_bytes) },
    ],
  });
}

export const advise = {
  kind: "advise",
  title: (data) => data.trace.program.split("/").pop() || "advise",
  subtitle: (data) => data.trace.command,
  render(data) {
    const sites = new Map(data.sites.map((site) => [site.id, site]));
    const proposed = new Set(data.proposals.map((item) => item.site));
    const rows = siteTable(data);
    const vain = data.proposals.filter((item) => item.measured?.is_noise);
    const worthy = data.proposals.filter((item) => !item.measured?.is_noise);
    return [
      data.trace.lost > 0 || !data.trace.is_whole
        ? h(
            "p",
            { class: "warning", role: "note" },
            data.trace.is_whole ? "" : "The recording was cut short. ",
            data.trace.lost > 0 ? `${count(data.trace.lost)} events were lost while recording; figures are too small by about as much.` : "",
          )
        : null,
      figures(data),
      section(
        "What to change",
        `Each change was tried: the trace was replayed with it and without it, in turns, ${data.rounds} times. ` +
          "Time is that of the whole replay; bytes are the peak of the memory that the allocators took.",
        proposals(worthy, sites),
      ),
      vain.length > 0 ? section("Tried, and not worth it", null, proposals(vain, sites)) : null,
      section(
        "Live bytes",
        null,
        timeline({
          x: data.timeline.time_ns,
          lines: [{ label: "live bytes", values: data.timeline.live_bytes, area: true }],
          mark: { x: data.totals.peak_ns, text: `peak ${bytes(data.totals.peak_live_bytes)}` },
          formatX: duration,
          formatY: bytes,
          help: `Live bytes over ${duration(data.trace.duration_ns)}, at most ${bytes(data.totals.peak_live_bytes)}`,
        }),
      ),
      section(
        "How long blocks live, and how large they are",
        "A circle is a site, its area how many blocks it made. Small and short-lived to the lower left: stack and scratch; " +
          "many of one size: pools; long-lived and large: what decides the footprint.",
        cloud({
          points: data.sites.map((site) => ({
            id: site.id,
            x: Math.max(1, site.lifetime_ns.median),
            y: Math.max(1, site.size.median),
            weight: site.count,
            group: proposed.has(site.id) ? 1 : 0,
            title: site.function,
            note: `${count(site.count)} blocks of ${bytes(site.size.median)}, living ${duration(site.lifetime_ns.median)} (medians)`,
          })),
          groups: ["site", "site with a proposal"],
          xTitle: "median lifetime",
          yTitle: "median size",
          formatX: duration,
          formatY: bytes,
          open: (id) => rows.show(id),
          help: "Sites by median lifetime and median size",
        }),
      ),
      section("Sites", "The innermost function of the program itself that asked, by its call stack.", rows),
      data.unseen?.length ? section("What a trace can't show", null, h("ul", { class: "unseen" }, data.unseen.map((text) => h("li", {}, text)))) : null,
    ];
  },
};
