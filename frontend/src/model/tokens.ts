/** Tokens as a reader wants them: whole words where pieces join, and nothing invisible or reordering in between. */

export interface Piece {
  readonly text: string;
  /** Continues the piece before it without a gap. */
  readonly glued: boolean;
  readonly special: boolean;
}

const SPECIAL = /^(\[[A-Za-z_ ]+\d*\]|<\/?[a-zA-Z_]+\d*>|<\|.*\|>)$/;

export function looksSpecial(token: string): boolean {
  return SPECIAL.test(token);
}

// Joiners stay where they join: emoji to emoji, letters of scripts that need them. A look-alike elsewhere is shown.
// Control, soft hyphen, zero-width, bidirectional, invisible operators, surrogates alone, byte order mark, tags, variation selectors alone.
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202f\u205f-\u206f\u3164\ufeff\uffa0\ufff0-\ufffc]|[\u{e0000}-\u{e0fff}]|(?<![\ud800-\udbff])[\udc00-\udfff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\p{Extended_Pictographic}\u{1f3fb}-\u{1f3ff}\ufe0f\p{Mn}])\u200d|\u200d(?!\p{Extended_Pictographic}|(?!\p{Script=Latin})\p{L})|(?<![\p{Mn}\p{Script=Arabic}])\u200c|\u200c(?!(?!\p{Script=Latin})\p{L})/gu;

/** Shows characters that cannot be seen, or that would turn the line around. */
export function visible(text: string): string {
  return text.replace(INVISIBLE, (character) => {
    const code = character.codePointAt(0) as number;
    if (code === 10) return "\u23ce";
    if (code === 9) return "\u21e5";
    if (code < 32) return String.fromCodePoint(0x2400 + code);
    return `\u2039U+${code.toString(16).toUpperCase().padStart(4, "0")}\u203a`;
  });
}

let byteTable: Map<string, number> | null = null;

/** The table that byte-level tokenizers write their bytes with: printable bytes as they are, the others from U+0100 on. */
function byteOf(): Map<string, number> {
  if (byteTable) return byteTable;
  byteTable = new Map();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    byteTable.set(String.fromCodePoint(printable ? byte : next++), byte);
  }
  return byteTable;
}

function fromBytes(token: string): string {
  const bytes: number[] = [];
  for (const character of token) {
    const byte = byteOf().get(character);
    if (byte === undefined) return token;
    bytes.push(byte);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(bytes));
  } catch {
    return bytes.map((byte) => (byte < 128 ? String.fromCharCode(byte) : `\u2039${byte.toString(16).toUpperCase()}\u203a`)).join("");
  }
}

type Style = "bytes" | "sentencepiece" | "endword" | "wordpiece";

function styleOf(tokens: readonly string[]): Style {
  if (tokens.some((token) => token.startsWith("\u0120") || token.startsWith("\u010a"))) return "bytes";
  if (tokens.some((token) => token.startsWith("\u2581"))) return "sentencepiece";
  return tokens.some((token) => token.endsWith("</w>")) ? "endword" : "wordpiece";
}

function spelled(token: string, style: Style, first: boolean, open: boolean): { text: string; glued: boolean } {
  if (style === "bytes") {
    const text = fromBytes(token);
    return { text: text.replace(/^ /, "") || " ", glued: !first && !text.startsWith(" ") && !text.startsWith("\n") };
  }
  if (style === "sentencepiece") {
    return { text: token.replace(/^\u2581/, "").replace(/\u2581/g, " ") || "\u2423", glued: !first && !token.startsWith("\u2581") };
  }
  if (style === "endword") return { text: token.replace(/<\/w>$/, ""), glued: open };
  const joined = token.length > 2 && token.startsWith("##");
  return { text: joined ? token.slice(2) : token, glued: joined && !first };
}

/** A token of a vocabulary, without its text. */
export function spelledAlone(token: string): string {
  return pieces({ tokens: [token], special: [false], offsets: [] }, "")[0]?.text ?? token;
}

export interface TokenSource {
  readonly tokens: readonly string[];
  readonly special: readonly boolean[];
  readonly offsets: readonly number[];
}

/** Places in the text where a cut would tear what a reader sees as one character; null for plain text. */
function insideClusters(text: string): ReadonlySet<number> | null {
  if (!/[^\u0000-\u02ff]/.test(text)) return null;
  const inside = new Set<number>();
  for (const { index, segment } of new Intl.Segmenter().segment(text)) for (let i = 1; i < segment.length; i++) inside.add(index + i);
  return inside;
}

/** Whether the text runs from right to left: its first letter says so. */
export function rightToLeft(text: string): boolean {
  const letter = /\p{L}/u.exec(text)?.[0] ?? "";
  return /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/.test(letter);
}

/** One piece a token. With offsets the text itself is shown, in its own spelling. */
export function pieces(set: TokenSource, text: string): Piece[] {
  const style = styleOf(set.tokens);
  const result: Piece[] = [];
  const inner = set.offsets.length ? insideClusters(text) : null;
  let end = -1;
  let open = false; // the word goes on ("endword" tokenizers mark its last piece)
  set.tokens.forEach((token, i) => {
    if (set.special[i]) {
      result.push({ text: visible(token.replace(/^[[<|/]+|[\]>|]+$/g, "") || token), glued: false, special: true });
      end = -1;
      open = false;
      return;
    }
    const from = set.offsets[2 * i];
    const to = set.offsets[2 * i + 1];
    const first = i === 0 || set.special[i - 1] === true;
    if (from !== undefined && to !== undefined && to > from) {
      let past = to;
      while (inner?.has(past)) past++; // a cluster stays whole: its first token shows it, the others a dot
      let start = Math.max(from, Math.min(end, past));
      while (inner?.has(start)) start++;
      const rest = start > from;
      const own = text.slice(start, past);
      result.push({ text: own ? visible(own.trim() || own) : "\u00b7", glued: rest || (from === end && !/^\s/.test(own)), special: false });
      end = Math.max(past, end);
    } else {
      const { text: shown, glued } = spelled(token, style, first, open);
      result.push({ text: visible(shown) || "\u2205", glued, special: false });
      end = -1;
    }
    open = !token.endsWith("</w>");
  });
  return result;
}
