// Short names for what the script writes most often: build.mjs puts them in place of Math.max and the like.
const { max, min, floor, round, ceil, abs, log } = Math;
export { max as mathMax, min as mathMin, floor as mathFloor, round as mathRound, ceil as mathCeil, abs as mathAbs, log as mathLog };
