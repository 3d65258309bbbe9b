// Short names for what the script writes most often: build.mjs puts them in place of Math.max, Number.isNaN and the like.
const { max, min, floor, round, ceil, abs, log } = Math;
const { isNaN: numberIsNaN, isFinite: numberIsFinite } = Number;
const { entries: objectEntries } = Object;
const { from: arrayFrom } = Array;
export { max as mathMax, min as mathMin, floor as mathFloor, round as mathRound, ceil as mathCeil, abs as mathAbs, log as mathLog };
export { numberIsNaN, numberIsFinite, objectEntries, arrayFrom };
