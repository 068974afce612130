// Runs tap on the files given, some at a time and in their order, and reports readably: a line for each test, the details
// of failures, and at the end "N passed, N failed". A test is what a file's top level holds; a file that fails as a whole
// counts as one more. Exit status 1 when a test failed, or when none ran.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { styleText } from 'node:util';
import { Parser } from 'tap-parser';
import { stringify } from 'tap-yaml';

const FILE_TIMEOUT_S = process.env.PENUMBRA_LONG ? 14_400 : 900;
// One more than there are processors, as guests are waited for half of the time.
const JOBS = Math.min(3, availableParallelism() + 1);
const NOISE = /^# (Subtest:|time=|No coverage|\{ total:)/;

const count = { passed: 0, failed: 0, skipped: 0 };

async function main(files) {
  const missing = files.filter((file) => !existsSync(file));
  for (const file of missing) fail(`${file} is not there (misspelt, or not compiled)`);
  const present = files.filter((file) => existsSync(file));
  await runAll(present);
  if (count.skipped > 0) print(`${count.skipped} skipped`);
  print(`${count.passed} passed, ${count.failed} failed`);
  process.exitCode = count.failed > 0 || count.passed === 0 ? 1 : 0;
}

/** tap itself would sort the files, and begin with the longest one last. */
async function runAll(files) {
  const queue = [...files];
  const lane = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) await runTap(file);
  };
  await Promise.all(Array.from({ length: JOBS }, lane));
}

/** Resolves when tap has ended and all it printed is reported. */
async function runTap(file) {
  const options = ['--disable-coverage', '--reporter=tap', '--jobs=1', `--timeout=${FILE_TIMEOUT_S}`];
  const tap = spawn('node_modules/.bin/tap', ['run', ...options, file], { stdio: ['ignore', 'pipe', 'inherit'] });
  const parser = new Parser();
  const reported = new Promise((resolve) => parser.once('complete', resolve));
  const failures = new Set();
  reportRun(parser, failures);
  tap.stdout.pipe(parser);
  const [code, signal] = await new Promise((resolve) => tap.once('close', (...end) => resolve(end)));
  await reported;
  if (code !== 0 && failures.size === 0) fail(`${file}: tap ended with ${signal ?? `status ${code}`}`);
}

/**
 * The outermost level: one test point for each file. What a test prints goes before its line, not between others'.
 * `failures` gets the names of files in which something failed.
 */
function reportRun(run, failures) {
  const printed = [];
  collectOutput(run, printed);
  run.on('child', (file) => reportFile(file, failures, printed));
  run.on('assert', (result) => {
    flush(printed);
    if (result.ok || failures.has(result.name)) return;
    failures.add(result.name);
    fail(`${result.name} as a whole`, result.diag);
  });
}

function reportFile(file, failures, printed) {
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
    flush(printed);
    reportTest(name, result, details);
    if (isRealFailure(result)) failures.add(name);
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
function collectOutput(parser, printed) {
  parser.on('child', (child) => collectOutput(child, printed));
  parser.on('extra', (text) => printed.push(text));
  parser.on('comment', (text) => {
    if (!NOISE.test(text.trim())) printed.push(text);
  });
}

function flush(printed) {
  process.stdout.write(printed.splice(0).join(''));
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
