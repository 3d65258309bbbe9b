// Fails when the committed files are not what the sources build, or the script outgrows its budget.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { outputs } from "./build.mjs";

const BUDGET_BYTES = 120_000;
const committed = fileURLToPath(new URL("../attviz/viewer/static/", import.meta.url));
const faults = [];
for (const [name, text] of Object.entries(await outputs())) {
  const found = await readFile(join(committed, name), "utf8").catch(() => "");
  if (found !== text) faults.push(`${name}: the committed file differs from a fresh build; run: npm run build`);
  if (name === "page.js" && text.length > BUDGET_BYTES) faults.push(`${name}: ${text.length} bytes, the budget is ${BUDGET_BYTES}`);
}
for (const fault of faults) console.error(fault);
if (faults.length === 0) console.log("attviz/viewer/static is what frontend/ builds");
process.exitCode = faults.length === 0 ? 0 : 1;
