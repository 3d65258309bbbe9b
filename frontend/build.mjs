// Builds the page and the widget into the folder given as the first argument.
import { build } from "esbuild";
import { existsSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));

const common = {
  bundle: true,
  minify: true,
  charset: "ascii", // the policy of the page carries the hash of these bytes: no encoding may change them
  legalComments: "none", // the licences are in THIRD_PARTY.txt
  target: "es2022",
  logLevel: "warning",
  write: false,
  inject: ["src/math.js"],
  define: {
    Number: "numberOf",
    String: "stringOf",
    ...Object.fromEntries(
      ["Math.max", "Math.min", "Math.floor", "Math.round", "Math.ceil", "Math.abs", "Math.log", "Number.isNaN", "Number.isFinite", "Object.entries", "Array.from"].map((name) => {
        const [owner, method] = name.split(".");
        return [name, owner.toLowerCase() + method[0].toUpperCase() + method.slice(1)];
      }),
    ),
  },
  absWorkingDir: here,
};

/** Scripts that a page carries only when its data needs them: src/NAME/index.ts and, where there is one, src/NAME/style.css. */
export const EXTENSIONS = ["corpus", "images", "pairs"];

/** These scripts take what the page has from the page (src/views/kit.ts) instead of carrying it a second time. */
const BORROWING = ["corpus", "images"];
const fromThePage = {
  name: "from-the-page",
  async setup(build) {
    const kit = await readFile(join(here, "src/views/kit.ts"), "utf8");
    const names = kit.match(/attvizKit = \{([^}]*)\}/)[1].split(",").map((name) => name.trim());
    const contents = `const kit = () => globalThis.attvizKit;\nmodule.exports = { __esModule: true, ${names.map((name) => `get ${name}() { return kit().${name}; }`).join(", ")} };`;
    build.onResolve({ filter: /^\.\.\// }, ({ path }) => (path.endsWith("views/extensions") ? undefined : { path: "kit", namespace: "kit" }));
    build.onLoad({ filter: /.*/, namespace: "kit" }, () => ({ contents }));
  },
};

async function bundle(options) {
  const result = await build({ ...common, ...options });
  return result.outputFiles[0].text;
}

const THIRD_PARTY = `The scripts and styles in this folder contain no code of other packages.

Two colour ramps follow published tables: viridis (Stefan van der Walt and Nathaniel Smith, matplotlib, CC0 1.0), and
RdBu of ColorBrewer 2.0 (Cynthia Brewer, Mark Harrower and The Pennsylvania State University, Apache-2.0).
`;

/** The built files by name. */
export async function outputs() {
  const css = await bundle({ entryPoints: ["src/style/page.css"] });
  const script = await bundle({ entryPoints: ["src/page.ts"], format: "iife" });
  const text = await bundle({ entryPoints: ["src/text.ts"], format: "iife" });
  const textCss = await bundle({ entryPoints: ["src/style/text.css"] });
  const widget = await bundle({ entryPoints: ["src/widget.ts"], format: "esm", define: { ...common.define, ATTVIZ_CSS: JSON.stringify(css) } });
  const files = { "page.css": css, "page.js": script, "text.css": textCss, "text.js": text, "widget.js": widget, "THIRD_PARTY.txt": THIRD_PARTY };
  for (const name of EXTENSIONS) {
    if (existsSync(join(here, `src/${name}/index.ts`))) files[`${name}.js`] = await bundle({ entryPoints: [`src/${name}/index.ts`], format: "iife", plugins: BORROWING.includes(name) ? [fromThePage] : [] });
    if (existsSync(join(here, `src/${name}/style.css`))) files[`${name}.css`] = await bundle({ entryPoints: [`src/${name}/style.css`] });
  }
  return files;
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const target = resolve(process.argv[2] ?? "dist");
  await mkdir(target, { recursive: true });
  for (const [name, text] of Object.entries(await outputs())) {
    await writeFile(join(target, name), text);
    console.log(`${name} ${(text.length / 1000).toFixed(1)} kB`);
  }
}
