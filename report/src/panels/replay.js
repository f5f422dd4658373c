/*
 * What `freehold replay` measured (docs/replay-json.md): a table of allocators, a cloud of time against memory, and what
 * each held over the replay.
 */
import { courses, histogram, tradeoff } from "../charts.js";
import { h, section } from "../dom.js";
import { bytes, count, number, share } from "../format.js";
import { figure, table } from "../table.js";

const isDone = (allocator) => allocator.status === "done";
const held = (memory) => memory?.peak_footprint ?? memory?.peak_resident;
const text = (format, value) => (value === undefined || value === null ? "–" : format(value));
const perEvent = (ns) => `${number(ns)} ns`;

/* Half the distance of the quartiles to either side. */
function spread(allocator) {
  const { ns_per_event: middle, spread: relative } = allocator.time ?? {};
  return middle === undefined || relative === undefined ? null : [middle * (1 - relative / 2), middle * (1 + relative / 2)];
}

function name(allocator) {
  const words = { manager: "Freehold’s, through fh_allocator", malloc: allocator.library ?? "the C library’s malloc" };
  return [
    h("span", { class: "function" }, allocator.name),
    h("span", { class: "place" }, isDone(allocator) ? words[allocator.kind] ?? allocator.kind : allocator.problem ?? allocator.status),
  ];
}

/* A column that only stands where somebody has a value for it. */
function columnsFor(allocators) {
  const columns = [
    { key: "name", title: "Allocator", value: (row) => row.name, text: name },
    {
      key: "time",
      title: "Time an event",
      number: true,
      bar: true,
      value: (row) => row.time?.ns_per_event,
      text: (row) => text(perEvent, row.time?.ns_per_event),
      spread,
      help: "median of the rounds' processor time less the loop's own; the whisker is the distance of the quartiles",
    },
    {
      key: "spread",
      title: "Spread",
      number: true,
      value: (row) => row.time?.spread,
      text: (row) => text(share, row.time?.spread),
      help: "distance of the quartiles by the median",
    },
    {
      key: "peak",
      title: "Peak memory",
      number: true,
      bar: true,
      value: (row) => held(row.memory),
      text: (row) => text(bytes, held(row.memory)),
      help: "footprint of a manager, resident memory of a malloc",
    },
    {
      key: "over",
      title: "Over live",
      number: true,
      value: (row) => row.memory?.over_live,
      text: (row) => text(share, row.memory?.over_live),
      help: "peak memory by the peak of the bytes asked for, less 1",
    },
    {
      key: "internal",
      title: "Internal",
      number: true,
      value: (row) => row.memory?.at_peak?.internal,
      text: (row) => text(share, row.memory?.at_peak?.internal),
      help: "usable bytes and metadata by bytes asked for, less 1, at the peak",
    },
    {
      key: "external",
      title: "External",
      number: true,
      value: (row) => row.memory?.at_peak?.external,
      text: (row) => text(share, row.memory?.at_peak?.external),
      help: "1 less the largest free block by all free bytes, at the peak",
    },
    {
      key: "end",
      title: "At the end",
      number: true,
      value: (row) => row.memory?.at_end?.footprint ?? row.memory?.at_end?.resident,
      text: (row) => text(bytes, row.memory?.at_end?.footprint ?? row.memory?.at_end?.resident),
      help: "memory still held after the last event",
    },
    {
      key: "minimum",
      title: "Least memory",
      number: true,
      value: (row) => row.minimum?.bytes,
      text: (row) => text(bytes, row.minimum?.bytes),
      help: "the smallest buffer that serves the trace",
    },
    {
      key: "tail",
      title: "99.99 % of allocs",
      number: true,
      value: (row) => row.latency_ns?.alloc?.p9999,
      text: (row) => text(perEvent, row.latency_ns?.alloc?.p9999),
    },
    {
      key: "worst",
      title: "Worst alloc",
      number: true,
      value: (row) => row.latency_ns?.alloc?.worst,
      text: (row) => text(perEvent, row.latency_ns?.alloc?.worst),
    },
  ];
  return columns.filter((column) => allocators.some((row) => isDone(row) && column.value(row) !== undefined && column.value(row) !== null));
}

function detail(row) {
  const { memory, time } = row;
  if (!isDone(row)) {
    return h("p", { class: "note" }, row.problem ?? row.status);
  }
  const rounds = time?.cpu_ns ? (Array.isArray(time.rounds) ? time.rounds : time.rounds?.cpu_ns ?? []) : [];
  const each = rounds.map((round) => (typeof round === "number" ? round : round.cpu_ns));
  const look = (title, at) =>
    at
      ? h(
          "div",
          {},
          h("h3", {}, title),
          histogram(
            [
              ["asked for", at.requested],
              ["usable", at.usable],
              ["metadata", at.metadata],
              ["free blocks", at.free_bytes],
              ["footprint", at.footprint],
              ["resident", at.resident],
            ]
              .filter(([, value]) => value !== undefined)
              .map(([label, value]) => ({ name: label, value, text: bytes(value) })),
            title,
          ),
        )
      : null;
  return h(
    "div",
    { class: "columns" },
    look("At the peak of live bytes", memory?.at_peak),
    look("At the end", memory?.at_end),
    each.length
      ? h(
          "div",
          {},
          h("h3", {}, "Rounds, processor time"),
          histogram(
            each.map((ns, index) => ({ name: `${index + 1}`, value: ns, text: `${number(ns / 1e6)} ms` })),
            "Rounds",
          ),
          memory?.garbage_bytes ? h("p", { class: "note" }, `${bytes(memory.garbage_bytes)} were freed and kept.`) : null,
          memory?.refused ? h("p", { class: "note" }, `${count(memory.refused)} calls got no memory.`) : null,
        )
      : null,
  );
}

export const replay = {
  kind: "replay",
  title: (data) => `${data.trace.program?.split("/").pop() || data.trace.file} through ${count(data.allocators.filter(isDone).length)} allocators`,
  subtitle: (data) => data.trace.command ?? data.trace.file,
  render(data) {
    const { program, trace } = data;
    const allocators = data.allocators.map((allocator, index) => ({ ...allocator, id: index }));
    const done = allocators.filter(isDone);
    const rows = table({
      label: "allocators",
      rows: allocators,
      detail,
      hint: "arrow keys move, Enter opens a row",
      sort: { key: "time", down: false },
      columns: columnsFor(allocators),
    });
    const withMap = done.filter((row) => row.map);
    const withCourse = done.filter((row) => row.memory?.course?.events?.length > 1);
    return [
      trace.is_whole === false || program.lost > 0
        ? h(
            "p",
            { class: "warning", role: "note" },
            trace.damage ?? (trace.is_whole === false ? "The recording was cut short. " : ""),
            program.lost > 0 ? `${count(program.lost)} events were lost while recording.` : "",
          )
        : null,
      h(
        "dl",
        { class: "figures" },
        figure("Events", count(program.events), `${count(program.allocs)} allocations, ${count(program.resizes)} resizes`),
        figure("Live at the peak", bytes(program.peak_live_bytes), `${count(program.peak_live_blocks)} blocks`),
        figure("Requested in all", bytes(program.total_bytes), `largest ${bytes(program.largest)}`),
        figure("Never freed", bytes(program.end_live_bytes), `${count(program.end_live_blocks)} blocks`),
        figure("Rounds", count(data.rounds), "allocators in turns"),
      ),
      section(
        "Side by side",
        "Time is the processor's for one event (an allocation, a free or a resize), pages touched; it and the peak of memory are drawn to the column's largest.",
        rows,
      ),
      done.length > 1
        ? section(
            "Time against memory",
            "To the lower left is better. Click a point to see its row.",
            tradeoff({
              points: done
                .filter((row) => row.time && held(row.memory))
                .map((row) => ({
                  id: row.id,
                  x: row.time.ns_per_event,
                  y: held(row.memory),
                  group: row.kind === "manager" ? 0 : 1,
                  title: row.name,
                  note: `${perEvent(row.time.ns_per_event)} an event, ${bytes(held(row.memory))} at the peak`,
                })),
              groups: ["manager of Freehold", "malloc"],
              formatX: perEvent,
              formatY: bytes,
              xTitle: "time an event",
              yTitle: "peak memory",
              open: (id) => rows.show(id),
              help: "Allocators by time an event and peak memory; the table above has the figures",
            }),
          )
        : null,
      withCourse.length
        ? section(
            "Memory over the replay",
            "What the program held, filled, and what each allocator held for it (footprint of a manager, resident memory of a malloc), over the events.",
            courses({ allocators: withCourse, formatX: count, formatY: bytes }),
          )
        : null,
      withMap.length
        ? section(
            "Heap maps",
            "Where blocks lie: the map after the last event, one cell a granule, and below it the strip of the whole replay, a column a moment.",
            h(
              "div",
              { class: "maps" },
              withMap.map((row) =>
                h("figure", {}, h("img", { src: row.map, alt: `Heap map of ${row.name}`, loading: "lazy" }), h("figcaption", {}, row.name)),
              ),
            ),
          )
        : null,
    ];
  },
};
