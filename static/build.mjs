// Bundles the operators' web app into static/dist (git-ignored): `npm run build`, or with --watch while working on it.
//
// static/js/pages/*.js  →  static/dist/*.js      one ES module a page, with all it needs: a chain of imports costs
//                                             a round trip a link, and what pages share is 12 kB
// static/css/*.css      →  static/dist/*.css     files whose name begins with _ are only imported by others
// static/js/sw.js       →  static/dist/sw.js     the service worker, which knows the hash of the page that it keeps
// static/img/**         →  static/dist/img/**    as they are; so are static/offline.html and static/manifest.webmanifest
//
// The same input gives the same bytes: nothing holds a date or a path.

import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import * as esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "dist");
const fresh = join(here, `dist.new-${process.pid}`);
const watching = process.argv.includes("--watch");

function entries(folder, extension) {
  const path = join(here, folder);
  if (!existsSync(path)) return [];
  return readdirSync(path)
    .filter((name) => name.endsWith(extension) && !name.startsWith("_"))
    .sort()
    .map((name) => join(path, name));
}

function options(outdir) {
  return {
    entryPoints: [...entries("js/pages", ".js"), ...entries("css", ".css")],
    entryNames: "[name]",
    assetNames: "assets/[name]-[hash]",
    outdir,
    absWorkingDir: dirname(here),
    bundle: true,
    format: "esm",
    target: ["chrome109", "firefox115", "safari16"],
    minify: !watching,
    sourcemap: watching ? "linked" : false,
    legalComments: "none",
    external: ["/static/*"],
    loader: { ".svg": "file", ".png": "file", ".woff2": "file" },
    logLevel: "warning",
    write: true,
  };
}

// Classic, not a module: Firefox has module workers of this kind only since 2025.
function workerOptions(outdir) {
  return {
    ...options(outdir),
    entryPoints: [join(here, "js/sw.js")],
    format: "iife",
    define: { __OFFLINE_VERSION__: JSON.stringify(watching ? "watched" : offlineVersion(outdir)) },
  };
}

function offlineVersion(outdir) {
  const hash = createHash("sha256");
  for (const name of ["offline.html", "offline.css", "offline.js"]) hash.update(readFileSync(join(outdir, name)));
  return hash.digest("hex").slice(0, 12);
}

function copyAsTheyAre(outdir) {
  for (const name of ["img", "offline.html", "manifest.webmanifest"]) {
    if (existsSync(join(here, name))) cpSync(join(here, name), join(outdir, name), { recursive: true });
  }
}

function report(outdir) {
  const files = readdirSync(outdir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.(js|css)$/.test(entry.name))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort();
  let total = 0;
  let zipped = 0;
  for (const file of files) {
    const bytes = readFileSync(file);
    const gzip = gzipSync(bytes, { level: 9 }).length;
    total += bytes.length;
    zipped += gzip;
    console.log(`  ${relative(outdir, file).padEnd(32)} ${kilobytes(bytes.length)} kB  ${kilobytes(gzip)} kB gzip`);
  }
  console.log(`  ${"together".padEnd(32)} ${kilobytes(total)} kB  ${kilobytes(zipped)} kB gzip`);
}

function kilobytes(bytes) {
  return (bytes / 1000).toFixed(1).padStart(7);
}

if (watching) {
  mkdirSync(dist, { recursive: true });
  copyAsTheyAre(dist);
  for (const wanted of [options(dist), workerOptions(dist)]) await (await esbuild.context(wanted)).watch();
  console.log("Watching static/; Ctrl-C ends it.");
} else {
  // Built beside the old one and then put in its place: a failed build leaves the old one as it was.
  try {
    mkdirSync(fresh, { recursive: true });
    await esbuild.build(options(fresh));
    copyAsTheyAre(fresh);
    await esbuild.build(workerOptions(fresh));
    rmSync(dist, { recursive: true, force: true });
    renameSync(fresh, dist);
    report(dist);
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true });
    if (!(error.errors?.length > 0)) console.error(error);
    process.exitCode = 1;
  }
}
