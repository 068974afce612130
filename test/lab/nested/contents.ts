import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { isAbsolute, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { findEmulator, findKernel, type LabKernel, USERLAND } from '../../../src/lab/artefacts.js';
import type { CpioEntry } from '../../../src/lab/cpio.js';
import { busybox, GUEST_MODULES } from '../../../src/lab/initrd.js';
import { modulesInOrder } from '../../../src/lab/modules.js';
import { LAB_KERNELS } from '../../../src/lab/spec.js';
import { librariesOf } from './libraries.js';
import { packageFolders } from './packages.js';

/** The checkout: this file runs as dist/test/lab/nested/contents.js. */
export const ROOT = fileURLToPath(new URL('../../../../', import.meta.url));
/** The checkout's place in L1, without the leading slash. */
export const L1_ROOT = 'penumbra';
/** L1's kernel: the release line of which the KVM modules are tried most. */
export const L1_KERNEL = '6.1';

const HERE = join(ROOT, 'test/lab/nested');
const KVM_MODULES = ['irqbypass', 'kvm', 'kvm_amd'];
/** busybox has no --pdeathsig for its setpriv. */
const PROGRAMS = ['setpriv'];
/** What QEMU's pc, q35 and microvm load: hw/i386/{pc_sysfw,microvm,x86}.c. */
const FIRMWARE = [
  'bios-256k.bin',
  'bios-microvm.bin',
  'qboot.rom',
  'kvmvapic.bin',
  'linuxboot_dma.bin',
  'multiboot_dma.bin',
  'pvh.bin',
];

/** A file of this machine and its place in L1. */
export interface HostFile {
  name: string;
  source: string;
}

/** The part of L1's root that is kept: files of this machine, and entries made here. */
export interface SystemPart {
  files: HostFile[];
  /** `key` changes when what `entries` gives does. */
  key: string;
  entries(): Promise<CpioEntry[]>;
}

/** What seldom changes, and is large: node, QEMU, their libraries, kernels, npm packages. */
export async function systemPart(): Promise<SystemPart> {
  const emulator = findEmulator('system');
  const programs = [process.execPath, emulator, ...(await Promise.all(PROGRAMS.map(pathOf)))];
  const addon = join(ROOT, 'build/Release/penumbra.node');
  const libraries = (await Promise.all([...programs, addon].map(librariesOf))).flat();
  const kernels = await Promise.all(LAB_KERNELS.map(findKernel));
  const packages = packageFolders(ROOT.replace(/\/$/, ''));
  return {
    files: [
      ...[...new Set([...programs, ...libraries])].map(fileAtItsPlace),
      ...(await firmware(emulator)),
      ...kernels.flatMap((kernel) => [kernel.image, join(kernel.modules, '../release')]).map(fileAtItsPlace),
      ...packages.flatMap((folder) => filesBelow(folder, (name) => !/^node_modules\//.test(name))),
    ],
    key: kernels.map(({ release }) => release).join(' '),
    entries: async () => [
      ...(await Promise.all(kernels.map(guestModules))).flat(),
      ...(await kvmModules()),
      ...(await userland()),
    ],
  };
}

/** What changes with every build: the project itself. */
export function projectFiles(): HostFile[] {
  const release = join(ROOT, 'build/Release');
  const built = readdirSync(release, { withFileTypes: true }).filter((entry) => entry.isFile());
  return [
    ...['bin', 'dist', 'profiles', 'src/lab/userland'].flatMap((folder) =>
      filesBelow(join(ROOT, folder), (name) => !/\.(d\.ts|map|stamp|tsbuildinfo)$/.test(name)),
    ),
    ...built.map(({ name }) => fileAtItsPlace(join(release, name))),
    fileAtItsPlace(join(ROOT, 'package.json')),
    { name: 'etc/lab/serve', source: join(USERLAND, 'etc/lab/serve') },
    { name: 'etc/nested/init', source: join(HERE, 'init') },
    { name: 'etc/inittab', source: join(HERE, 'inittab') },
  ];
}

/** Files keep their paths, except that the checkout lies in a place of its own. */
export function fileAtItsPlace(source: string): HostFile {
  const path = resolve(source);
  const inside = relative(ROOT, path);
  const isInside = !inside.startsWith('..') && !isAbsolute(inside);
  return { name: isInside ? join(L1_ROOT, inside) : path.slice(1), source: path };
}

function filesBelow(folder: string, wanted: (name: string) => boolean): HostFile[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => wanted(name) && statSync(join(folder, name)).isFile())
    .sort()
    .map((name) => fileAtItsPlace(join(folder, name)));
}

async function pathOf(program: string): Promise<string> {
  const { stdout } = await promisify(execFile)('sh', ['-c', `command -v ${program}`]);
  return stdout.trim();
}

/** From the folders in which this machine's QEMU looks, which in L1 are the same. */
async function firmware(emulator: string): Promise<HostFile[]> {
  const { stdout } = await promisify(execFile)(emulator, ['-L', 'help']);
  const folders = stdout.trim().split('\n');
  return FIRMWARE.flatMap((name) => {
    const source = folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
    return source === undefined ? [] : [{ name: source.slice(1), source: realpathSync(source) }];
  });
}

/** Of each kernel for L2 only the modules that the lab's guests insert, no longer compressed. */
async function guestModules(kernel: LabKernel): Promise<CpioEntry[]> {
  const { name: folder } = fileAtItsPlace(kernel.modules);
  const modules = await modulesInOrder(kernel.modules, GUEST_MODULES);
  const empty: CpioEntry = { kind: 'folder', name: folder, mode: 0o755 };
  return [empty, ...modules.map(({ name, content }) => moduleFile(`${folder}/${name}.ko`, content))];
}

/** The number in front makes the shell's `*` insert them in order. */
async function kvmModules(): Promise<CpioEntry[]> {
  const { modules: folder } = await findKernel(L1_KERNEL);
  const modules = await modulesInOrder(folder, KVM_MODULES);
  if (modules.length < KVM_MODULES.length) throw new Error(`kernel ${L1_KERNEL} has no KVM modules in ${folder}`);
  return modules.map(({ name, content }, index) => moduleFile(`lib/modules/${index}-${name}.ko`, content));
}

function moduleFile(name: string, content: Buffer): CpioEntry {
  return { kind: 'file', name, mode: 0o644, content };
}

/** busybox, without the applets that real programs take the place of, and the folders to mount on. */
async function userland(): Promise<CpioEntry[]> {
  const applets = (await busybox()).filter(({ name }) => !PROGRAMS.includes(name.slice(name.lastIndexOf('/') + 1)));
  const folders = ['dev', 'proc', 'root', 'run', 'sys', 'tmp'];
  const accounts = await readFile(join(USERLAND, 'etc/passwd'));
  return [
    ...applets,
    ...folders.map((name): CpioEntry => ({ kind: 'folder', name, mode: 0o755 })),
    { kind: 'file', name: 'etc/passwd', mode: 0o644, content: accounts },
  ];
}

/** Reads files one by one as they are asked for. */
export function* fileEntries(files: readonly HostFile[]): Generator<CpioEntry> {
  for (const { name, source } of files) {
    yield { kind: 'file', name, mode: statSync(source).mode & 0o755, content: readFileSync(source) };
  }
}
