// Runs tap on the files given and reports readably: a line for each test, the details of failures, and at the end
// "N passed, N failed". A test is what a file's top level holds; a file that fails as a whole counts as one more.
// Exit status 1 when a test failed, or when none ran.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { styleText } from 'node:util';
import { Parser } from 'tap-parser';
import { stringify } from 'tap-yaml';

const FILE_TIMEOUT_S = process.env.PENUMBRA_LONG ? 14_400 : 900;
const MOST_JOBS = 2;
const NOISE = /^# (Subtest:|time=|No coverage|\{ total:)/;

const count = { passed: 0, failed: 0, skipped: 0 };

async function main(files) {
  const missing = files.filter((file) => !existsSync(file));
  for (const file of missing) fail(`${file} is not there (misspelt, or not compiled)`);
  const present = files.filter((file) => existsSync(file));
  if (present.length > 0) await runTap(present);
  if (count.skipped > 0) print(`${count.skipped} skipped`);
  print(`${count.passed} passed, ${count.failed} failed`);
  process.exitCode = count.failed > 0 || count.passed === 0 ? 1 : 0;
}

/** Resolves when tap has ended and all it printed is reported. */
async function runTap(files) {
  const jobs = Math.min(MOST_JOBS, availableParallelism());
  const options = ['--disable-coverage', '--reporter=tap', `--jobs=${jobs}`, `--timeout=${FILE_TIMEOUT_S}`];
  const tap = spawn('node_modules/.bin/tap', ['run', ...options, ...files], { stdio: ['ignore', 'pipe', 'inherit'] });
  const parser = new Parser();
  const reported = new Promise((resolve) => parser.once('complete', resolve));
  reportRun(parser);
  tap.stdout.pipe(parser);
  const [code, signal] = await new Promise((resolve) => tap.once('close', (...end) => resolve(end)));
  await reported;
  if (code !== 0 && count.failed === 0) fail(`tap ended with ${signal ?? `status ${code}`}`);
}

/** The outermost level: one test point for each file. */
function reportRun(run) {
  const failedInside = new Set();
  forwardOutput(run);
  run.on('child', (file) => reportFile(file, failedInside));
  run.on('assert', (result) => {
    if (result.ok || failedInside.has(result.name)) return;
    fail(`${result.name} as a whole`, result.diag);
  });
}

function reportFile(file, failedInside) {
  const name = file.name;
  let details = [];
  const collect = (parser) => {
    parser.on('child', collect);
    parser.on('assert', (result) => {
      if (isRealFailure(result) && !result.closingTestPoint) details.push(result);
    });
  };
  file.on('child', collect);
  file.on('assert', (result) => {
    reportTest(name, result, details);
    if (isRealFailure(result)) failedInside.add(name);
    details = [];
  });
}

function reportTest(file, result, details) {
  const title = `${file.replace(/^dist\/test\//, '').replace(/\.test\.js$/, '')}: ${result.name}`;
  if (result.skip || result.todo) {
    count.skipped += 1;
    print(`${styleText('yellow', 'skip')}  ${title} ${reason(result)}`);
  } else if (result.ok) {
    count.passed += 1;
    print(`${styleText('green', 'ok')}    ${title}${result.time ? ` (${Math.round(result.time)} ms)` : ''}`);
  } else {
    fail(title, details.length === 0 ? result.diag : undefined);
    for (const detail of details) printDetail(detail.fullname, detail.diag);
  }
}

function reason(result) {
  const text = result.skip || result.todo;
  return typeof text === 'string' ? `(${text})` : '';
}

/** What tests print, and their comments, level by level. */
function forwardOutput(parser) {
  parser.on('child', forwardOutput);
  parser.on('extra', (text) => process.stdout.write(text));
  parser.on('comment', (text) => {
    if (!NOISE.test(text.trim())) process.stdout.write(text);
  });
}

function isRealFailure(result) {
  return !result.ok && !result.skip && !result.todo;
}

function fail(title, diagnostics) {
  count.failed += 1;
  print(`${styleText('red', 'FAIL')}  ${title}`);
  if (diagnostics) printDetail('', diagnostics);
}

function printDetail(title, diagnostics) {
  const body = diagnostics ? stringify(diagnostics) : '';
  print(`${title}\n${body}`.trim().replace(/^/gm, '      '));
}

function print(line) {
  process.stdout.write(`${line}\n`);
}

await main(process.argv.slice(2));
