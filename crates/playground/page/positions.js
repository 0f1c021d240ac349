/** The offset of a line and a column, both from 1; columns count characters, offsets UTF-16 units. */
export function offsetOf(text, line, column) {
  let start = 0;
  for (let number = 1; number < line; number += 1) {
    const end = text.indexOf("\n", start);
    if (end < 0) return text.length;
    start = end + 1;
  }
  const end = endOfLine(text, start);
  const characters = Array.from(text.slice(start, end)).slice(0, column - 1);
  return start + characters.join("").length;
}

/** The end of the line that begins at, or contains, an offset. */
export function endOfLine(text, offset) {
  const end = text.indexOf("\n", offset);
  return end < 0 ? text.length : end;
}

/** The line, from 0, and the column in UTF-16 units, from 0, of an offset. */
export function placeOf(text, offset) {
  const before = text.slice(0, offset);
  const start = before.lastIndexOf("\n") + 1;
  return { line: before.split("\n").length - 1, column: offset - start };
}
