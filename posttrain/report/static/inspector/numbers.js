// Numbers as files hold them and as people read them: exact, and short.

const ARRAYS = { float32: Float32Array, float64: Float64Array, int32: Int32Array, uint8: Uint8Array };

/** The numbers of `["float32", BASE64]`, lowest byte first, as an array of that type. */
export function unpacked([type, text]) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new ARRAYS[type](bytes.buffer);
}

/** The shortest decimal that reads back to the same number of the array's type. */
export function exactly(value, array) {
  if (!(array instanceof Float32Array) || !Number.isFinite(value)) return Object.is(value, -0) ? "-0" : String(value);
  for (let digits = 1; digits < 9; digits += 1) {
    const text = String(Number(value.toPrecision(digits)));
    if (Math.fround(Number(text)) === value) return text;
  }
  return String(Number(value.toPrecision(9)));
}

/** Three digits, with a minus sign: `−0.431`, `12.5`, `3.1e−8`. */
export function briefly(value) {
  if (Number.isNaN(value)) return "not a number";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size >= 1000 && size < 1e6) return signed(String(Math.round(value)));
  const digits = Number(value.toPrecision(3));
  return signed(size > 0 && size < 1e-3 ? digits.toExponential() : String(digits));
}

/** A number's text with a minus sign in the place of each hyphen. */
export function signed(text) {
  return text.replaceAll("-", "−");
}

/** The same in brackets where it is negative, to stand behind an operator. */
export function enclosed(value, write) {
  return value < 0 ? `(${write(value)})` : write(value);
}

/** A chance in percent: `75 %`, `0.31 %`, `under 0.01 %`. */
export function percentage(chance) {
  const percent = 100 * chance;
  if (percent > 0 && percent < 0.01) return "under 0.01 %";
  return `${percent >= 99.95 ? (percent > 99.995 ? 100 : percent.toFixed(2)) : Number(percent.toPrecision(percent < 10 ? 2 : 3))} %`;
}

/** `1 token`, `2 tokens`. */
export function howMany(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}
