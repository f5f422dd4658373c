/* Figures as people read them; the same rules as the command's (cli/term.c): three significant digits or exact. */

const decimals = (value) => (value === 0 ? 0 : Math.abs(value) < 9.995 ? 2 : Math.abs(value) < 99.95 ? 1 : 0);

export function count(value) {
  return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, ",");
}

/* Of averages and ratios, which have fractions. */
export function number(value) {
  return Math.abs(value) >= 999.5 ? count(value) : value.toFixed(decimals(value));
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let unit = 0;
  let rest = value;
  while (Math.abs(rest) >= 999.5 && unit + 1 < units.length) {
    rest /= 1024;
    unit++;
  }
  return `${rest.toFixed(unit === 0 || Number.isInteger(rest) ? 0 : decimals(rest))} ${units[unit]}`;
}

export function duration(ns) {
  const size = Math.abs(ns);
  if (size >= 60e9) {
    const seconds = Math.round(ns / 1e9);
    return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
  }
  const units = [
    [1e9, "s"],
    [1e6, "ms"],
    [1e3, "µs"],
    [1, "ns"],
  ];
  const [scale, name] = units.find(([least]) => size >= least * 0.9995) ?? units[3];
  const value = ns / scale;
  return `${value.toFixed(Number.isInteger(value) ? 0 : decimals(value))} ${name}`;
}

export function share(value) {
  return `${(value * 100).toFixed(1)} %`;
}

export function signed(format, value) {
  return value < 0 ? `−${format(-value)}` : format(value);
}
