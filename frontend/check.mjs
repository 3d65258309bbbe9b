// Fails when the committed files are not what the sources build, or the script outgrows its budget.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { outputs } from "./build.mjs";

const BUDGETS = { "page.js": 130_000, "corpus.js": 20_000, "images.js": 5_000, "text.js": 50_000, "pairs.js": 60_000 };
const committed = fileURLToPath(new URL("../attviz/viewer/static/", import.meta.url));
const faults = [];
for (const [name, text] of Object.entries(await outputs())) {
  const found = await readFile(join(committed, name), "utf8").catch(() => "");
  if (found !== text) faults.push(`${name}: the committed file differs from a fresh build; run: npm run build`);
  if (text.length > BUDGETS[name]) faults.push(`${name}: ${text.length} bytes, the budget is ${BUDGETS[name]}`);
}
for (const fault of faults) console.error(fault);
if (faults.length === 0) console.log("attviz/viewer/static is what frontend/ builds");
process.exitCode = faults.length === 0 ? 0 : 1;
