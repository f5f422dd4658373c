/*
 * Charts. Lines over time are uPlot's; the cloud of sites and the heap maps are drawn here, on a canvas that follows its
 * element's width. All take their colours from the styles and draw anew when light and dark change.
 */
import uPlot from "uplot";
import { colour, h } from "./dom.js";
import { onThemeChange } from "./theme.js";

const font = '12px system-ui, -apple-system, "Segoe UI", sans-serif';
export const series = (index) => colour(`series-${(index % 8) + 1}`);

/*
 * Lines over x. lines: { label, values, area }; mark: { x, text } is a vertical line with a word. `help` is what the
 * picture says in words, for those who don't see it.
 */
export function timeline({ x, lines, mark, height = 220, formatX, formatY, help }) {
  /* Steps of the axis of bytes: round in powers of two, as its figures are. */
  const binarySteps = Array.from({ length: 50 }, (_, power) => 2 ** power);
  const element = h("figure", { class: "chart", role: "img", "aria-label": help });
  let plot = null;

  function options(width) {
    const axis = {
      font,
      stroke: () => colour("faint"),
      grid: { stroke: () => colour("line"), width: 1 },
      ticks: { show: false },
    };
    return {
      width,
      height,
      cursor: { y: false, points: { size: 7 }, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.06 : 1] } },
      legend: { live: true },
      axes: [
        { ...axis, values: (_, splits) => splits.map((value) => formatX(value)), space: 90 },
        { ...axis, values: (_, splits) => splits.map((value) => formatY(value)), size: 76, space: 40, incrs: binarySteps },
      ],
      series: [
        { label: "time", value: (_, value) => (value === null ? "–" : formatX(value)) },
        ...lines.map((line, index) => ({
          label: line.label,
          stroke: () => series(index),
          width: 1.5,
          fill: line.area ? () => `${series(index)}22` : undefined,
          points: { show: false },
          paths: uPlot.paths.stepped({ align: 1 }),
          value: (_, value) => (value === null || value === undefined ? "–" : formatY(value)),
        })),
      ],
      hooks: {
        draw: [
          (u) => {
            if (!mark) {
              return;
            }
            const { ctx, bbox } = u;
            const at = Math.round(u.valToPos(mark.x, "x", true));
            if (at < bbox.left - 1 || at > bbox.left + bbox.width + 1) {
              return;
            }
            ctx.save();
            ctx.strokeStyle = colour("accent");
            ctx.fillStyle = colour("text");
            ctx.lineWidth = devicePixelRatio;
            ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
            ctx.beginPath();
            ctx.moveTo(at, bbox.top);
            ctx.lineTo(at, bbox.top + bbox.height);
            ctx.stroke();
            ctx.font = `600 ${12 * devicePixelRatio}px system-ui, sans-serif`;
            const isRight = at > bbox.left + bbox.width * 0.7;
            ctx.textAlign = isRight ? "right" : "left";
            ctx.textBaseline = "top";
            ctx.fillText(mark.text, at + (isRight ? -7 : 7) * devicePixelRatio, bbox.top + 3 * devicePixelRatio);
            ctx.restore();
          },
        ],
      },
    };
  }

  function draw() {
    const width = element.clientWidth;
    if (width === 0) {
      return;
    }
    if (plot === null) {
      plot = new uPlot(options(width), [x, ...lines.map((line) => line.values)], element);
    } else {
      plot.setSize({ width, height });
      plot.redraw(false, true);
    }
  }
  new ResizeObserver(draw).observe(element);
  onThemeChange(draw);
  return element;
}

/* A canvas as wide as its element; paint(context, width, height) in CSS pixels. */
function canvas(height, paint, attributes) {
  const element = h("canvas", attributes);
  const frame = h("div", { class: "canvas", style: { height: `${height}px` } }, element);
  function draw() {
    const width = frame.clientWidth;
    if (width === 0) {
      return;
    }
    const scale = window.devicePixelRatio || 1;
    element.width = Math.round(width * scale);
    element.height = Math.round(height * scale);
    const context = element.getContext("2d");
    context.scale(scale, scale);
    paint(context, width, height);
  }
  new ResizeObserver(draw).observe(frame);
  onThemeChange(draw);
  frame.draw = draw;
  frame.canvas = element;
  return frame;
}

/*
 * Points over two axes, each { title, format, base }: logarithmic, in powers of base, or linear from 0 where there
 * is none. points: { id, x, y, weight, group, title, note }; a point's area follows its weight (equal without), its
 * colour the group; with `names` its title stands beside it. A click, or Enter on the point that the arrow keys
 * reached, calls open(id).
 */
function scatter({ points, groups, x, y, names, open, height, help }) {
  const margin = { left: 92, right: 18, top: 12, bottom: 44 };
  const shown = points
    .filter((point) => (!x.base || point.x > 0) && (!y.base || point.y > 0))
    .sort((a, b) => (b.weight ?? 0) - (a.weight ?? 0));
  const heaviest = shown.reduce((most, point) => Math.max(most, point.weight ?? 0), 1);
  const radius = (point) => (point.weight === undefined ? 6 : 3 + 15 * Math.sqrt(point.weight / heaviest));

  /* Where a value lies between 0 and 1, and the values that get a line. */
  function scaleOf(axis, values) {
    if (axis.base) {
      const power = (value) => Math.log(value) / Math.log(axis.base);
      const low = Math.floor(values.reduce((least, value) => Math.min(least, power(value)), values.length ? Infinity : 0) + 1e-9);
      const high = Math.ceil(values.reduce((most, value) => Math.max(most, power(value)), low + 1) - 1e-9);
      return {
        at: (value) => (power(value) - low) / (high - low),
        lines: Array.from({ length: high - low + 1 }, (_, step) => axis.base ** (low + step)),
      };
    }
    const most = values.reduce((largest, value) => Math.max(largest, value), 0) * 1.08 || 1;
    const unit = axis.isBinary ? 2 ** Math.floor(Math.log2(most / 4)) : 10 ** Math.floor(Math.log10(most / 4));
    const step = unit * (axis.isBinary ? 1 : [1, 2, 5, 10].find((times) => most / (unit * times) <= 7));
    return { at: (value) => value / most, lines: Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => index * step) };
  }
  const scaleX = scaleOf(x, shown.map((point) => point.x));
  const scaleY = scaleOf(y, shown.map((point) => point.y));
  const left = (value, width) => margin.left + scaleX.at(value) * (width - margin.left - margin.right);
  const top = (value) => height - margin.bottom - scaleY.at(value) * (height - margin.top - margin.bottom);
  let near = -1;

  function paintAxes(context, width) {
    context.font = font;
    context.lineWidth = 1;
    context.fillStyle = colour("faint");
    context.strokeStyle = colour("line");
    context.textAlign = "center";
    context.textBaseline = "top";
    const every = Math.max(1, Math.ceil((scaleX.lines.length * 70) / (width - margin.left - margin.right)));
    scaleX.lines.forEach((value, index) => {
      const at = Math.round(left(value, width)) + 0.5;
      context.beginPath();
      context.moveTo(at, margin.top);
      context.lineTo(at, height - margin.bottom);
      context.stroke();
      if (index % every === 0) {
        context.fillText(x.format(value), at, height - margin.bottom + 6);
      }
    });
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const value of scaleY.lines) {
      const at = Math.round(top(value)) + 0.5;
      context.beginPath();
      context.moveTo(margin.left, at);
      context.lineTo(width - margin.right, at);
      context.stroke();
      context.fillText(y.format(value), margin.left - 8, at);
    }
    context.fillStyle = colour("dim");
    context.textAlign = "center";
    context.textBaseline = "bottom";
    context.fillText(x.title, margin.left + (width - margin.left - margin.right) / 2, height - 3);
    context.save();
    context.translate(12, margin.top + (height - margin.top - margin.bottom) / 2);
    context.rotate(-Math.PI / 2);
    context.textBaseline = "middle";
    context.fillText(y.title, 0, 0);
    context.restore();
  }

  /* A name stands where it covers no other name; else its point is named when the mouse is on it. */
  function paintNames(context, width) {
    const taken = [];
    context.textBaseline = "middle";
    context.fillStyle = colour("dim");
    for (const point of shown) {
      const size = context.measureText(point.title).width;
      const isLeft = left(point.x, width) + 12 + size > width - margin.right;
      const from = left(point.x, width) + (isLeft ? -10 - size : 10);
      const at = top(point.y);
      if (!taken.some((other) => from < other.to && from + size > other.from && Math.abs(at - other.at) < 14)) {
        context.textAlign = "left";
        context.fillText(point.title, from, at);
        taken.push({ from, to: from + size, at });
      }
    }
  }

  const note = h("div", { class: "tip", hidden: true });
  const frame = canvas(
    height,
    (context, width) => {
      context.clearRect(0, 0, width, height);
      paintAxes(context, width);
      shown.forEach((point, index) => {
        const tone = series(point.group ?? 0);
        context.beginPath();
        context.arc(left(point.x, width), top(point.y), radius(point), 0, 2 * Math.PI);
        context.fillStyle = `${tone}${index === near ? "cc" : "55"}`;
        context.fill();
        context.strokeStyle = index === near ? colour("text") : tone;
        context.lineWidth = index === near ? 2 : 1;
        context.stroke();
      });
      if (names) {
        paintNames(context, width);
      }
    },
    { tabindex: 0, role: "img", "aria-label": help },
  );

  function choose(index) {
    if (index === near) {
      return;
    }
    near = index;
    frame.draw();
    note.hidden = index < 0;
    frame.canvas.style.cursor = index >= 0 ? "pointer" : "";
    if (index < 0) {
      return;
    }
    const width = frame.clientWidth;
    const point = shown[index];
    const from = left(point.x, width);
    const isRight = from > width * 0.6;
    note.replaceChildren(h("b", {}, point.title), h("span", {}, point.note));
    note.style.left = isRight ? "auto" : `${from + 14}px`;
    note.style.right = isRight ? `${width - from + 14}px` : "auto";
    note.style.top = `${Math.max(4, Math.min(top(point.y) - 20, height - 90))}px`;
  }
  frame.canvas.addEventListener("mousemove", (event) => {
    let best = -1;
    let least = 4; /* pixels beside a point that still mean it */
    shown.forEach((point, index) => {
      const away = Math.hypot(left(point.x, frame.clientWidth) - event.offsetX, top(point.y) - event.offsetY) - radius(point);
      if (away < least) {
        best = index;
        least = away;
      }
    });
    choose(best);
  });
  frame.canvas.addEventListener("mouseleave", () => choose(-1));
  frame.canvas.addEventListener("blur", () => choose(-1));
  frame.canvas.addEventListener("click", () => near >= 0 && open?.(shown[near].id));
  frame.canvas.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (move && shown.length > 0) {
      choose((near + move + shown.length) % shown.length);
      event.preventDefault();
    } else if (event.key === "Enter" && near >= 0) {
      open?.(shown[near].id);
    }
  });
  frame.append(note);
  return h("figure", { class: "chart" }, groups ? legend(groups) : null, frame);
}

/* Many points over times and bytes, both logarithmic. */
export function cloud({ xTitle, yTitle, formatX, formatY, ...rest }) {
  const x = { title: xTitle, format: formatX, base: 10 };
  const y = { title: yTitle, format: formatY, base: 4 };
  return scatter({ height: 340, x, y, ...rest });
}

/*
 * A few named points. An axis begins at 0, since the distance from there matters, unless the largest value is more than
 * twenty times the least: then it is logarithmic, or the small ones would lie on top of each other.
 */
export function tradeoff({ xTitle, yTitle, formatX, formatY, points, ...rest }) {
  const isWide = (values) => Math.max(...values) > 20 * Math.min(...values) && Math.min(...values) > 0;
  const x = { title: xTitle, format: formatX, base: isWide(points.map((point) => point.x)) ? 10 : undefined };
  const y = { title: yTitle, format: formatY, isBinary: true, base: isWide(points.map((point) => point.y)) ? 2 : undefined };
  return scatter({ height: 340, names: true, x, y, points, ...rest });
}

export function legend(names) {
  return h(
    "ul",
    { class: "legend" },
    names.map((name, index) => h("li", {}, h("span", { class: "dot", style: { background: `var(--series-${(index % 8) + 1})` } }), name)),
  );
}

/* Bars over named buckets, as elements: readable, and there for screen readers. buckets: { name, value, text }. */
export function histogram(buckets, label) {
  const most = buckets.reduce((largest, bucket) => Math.max(largest, bucket.value), 1);
  return h(
    "table",
    { class: "histogram", "aria-label": label },
    h(
      "tbody",
      {},
      buckets.map((bucket) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, bucket.name),
          h("td", {}, h("span", { class: "fill", style: { width: `${((bucket.value / most) * 100).toFixed(2)}%` } })),
          h("td", { class: "number" }, bucket.text),
        ),
      ),
    ),
  );
}

/*
 * What each allocator of a replay held over its events: a small picture each, all to one scale, so that they can
 * be compared; the bytes that the program held are filled.
 */
export function courses({ allocators, formatX, formatY, height = 110 }) {
  const heldBy = (row) => row.memory.course.footprint ?? row.memory.course.resident;
  const peakOf = (row) => [...heldBy(row), ...row.memory.course.requested].reduce((most, value) => Math.max(most, value), 1);
  /* One scale for all, but for those that hold far more than the middle one: they would press the others flat. */
  const peaks = allocators.map(peakOf).sort((a, b) => a - b);
  const usual = 4 * peaks[Math.floor(peaks.length / 2)];
  const common = peaks.filter((peak) => peak <= usual).at(-1) ?? 1;
  return h(
    "div",
    { class: "strips" },
    allocators.map((row) => {
      const { events, requested } = row.memory.course;
      const held = heldBy(row);
      const peak = held.reduce((largest, value) => Math.max(largest, value), 0);
      const last = events[events.length - 1] || 1;
      const isApart = peakOf(row) > usual;
      const most = isApart ? peakOf(row) : common;
      return h(
        "figure",
        { class: "chart" },
        h(
          "figcaption",
          {},
          h("b", {}, row.name),
          h("span", {}, `${formatY(peak)} at most, over ${formatX(last)} events${isApart ? "; a scale of its own" : ""}`),
        ),
        canvas(
          height,
          (context, width) => {
            const x = (index) => (events[index] / last) * width;
            const y = (value) => height - 1 - (value / most) * (height - 3);
            const line = (values) => {
              context.moveTo(x(0), y(values[0]));
              values.forEach((value, index) => context.lineTo(x(index), y(value)));
            };
            context.clearRect(0, 0, width, height);
            context.strokeStyle = colour("line");
            context.beginPath();
            context.moveTo(0, height - 0.5);
            context.lineTo(width, height - 0.5);
            context.stroke();
            context.beginPath();
            line(requested);
            context.lineTo(width, height - 1);
            context.lineTo(x(0), height - 1);
            context.fillStyle = `${series(0)}44`;
            context.fill();
            context.beginPath();
            line(held);
            context.strokeStyle = series(row.kind === "manager" ? 0 : 1);
            context.lineWidth = 1.6;
            context.lineJoin = "round";
            context.stroke();
          },
          { role: "img", "aria-label": `${row.name} held at most ${formatY(peak)}` },
        ),
      );
    }),
  );
}
