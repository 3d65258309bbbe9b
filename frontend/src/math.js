// Short names for what the script writes most often: build.mjs puts them in place of Math.max, Number.isNaN, String and the like.
const { Number: numberOf, String: stringOf } = globalThis;
const { max, min, floor, round, ceil, abs, log } = Math;
const { isNaN: numberIsNaN, isFinite: numberIsFinite } = numberOf;
const { entries: objectEntries } = Object;
const { from: arrayFrom } = Array;
export { max as mathMax, min as mathMin, floor as mathFloor, round as mathRound, ceil as mathCeil, abs as mathAbs, log as mathLog };
export { numberOf, stringOf, numberIsNaN, numberIsFinite, objectEntries, arrayFrom };
