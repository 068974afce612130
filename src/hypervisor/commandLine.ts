/** What a QEMU process was told on its command line, as far as it helps to find it. Never the source of a RAM layout. */
export interface QemuCommandLine {
  name: string | undefined;
  accelerator: string;
  /** bytes; undefined where the command line does not say */
  ramSize: bigint | undefined;
  ramKind: RamKind;
  /** in the order of the command line */
  monitors: MonitorSocket[];
  /** the chardevs and addresses that -gdb and -s name */
  gdbservers: string[];
}

export type RamKind =
  | 'shared-memfd'
  | 'shared-file'
  | 'shared-anonymous'
  | 'private-file'
  | 'private-anonymous'
  | 'mixed';

/** A listening QMP monitor: by path as QEMU sees it, or by the fd that QEMU was given (libvirt does that). */
export type MonitorSocket = { path: string } | { fd: number };

type Options = Map<string, string>;

/** Programs that are QEMU: qemu-system-x86_64, qemu-kvm (RHEL), kvm (Debian, Proxmox), with the wrapping of NixOS. */
const QEMU_NAME = /(^|\/)\.?(qemu-system-\w+|qemu-kvm|kvm)(-wrapped)?$/;
/** A dynamic loader called as a program: what it runs is among its arguments. */
const LOADER_NAME = /(^|\/)ld-(linux|musl)[^/]*$/;

/** @param exe what /proc/PID/exe says, undefined where we may not ask */
export function isQemu(exe: string | undefined, args: readonly string[]): boolean {
  const program = (exe ?? args[0] ?? '').replace(/ \(deleted\)$/, '');
  if (LOADER_NAME.test(program)) return args.slice(0, 10).some((arg) => QEMU_NAME.test(arg));
  return QEMU_NAME.test(program);
}

export function parseCommandLine(args: readonly string[]): QemuCommandLine {
  const given = collect(args);
  const machine = new Map(
    [...valuesOf(given, 'machine', 'type'), ...valuesOf(given, 'M', 'type')].flatMap((set) => [...set]),
  );
  return {
    name: valuesOf(given, 'name', 'guest').at(-1)?.get('guest'),
    accelerator: acceleratorOf(given, machine),
    ramSize: ramSizeOf(given),
    ramKind: ramKindOf(given, machine),
    monitors: monitorsOf(given),
    gdbservers: [...(given.has('s') ? ['tcp::1234'] : []), ...(given.get('gdb') ?? [])].filter((at) => at !== 'none'),
  };
}

/** Values by option name; an option without a value has an empty string. */
function collect(args: readonly string[]): Map<string, string[]> {
  const given = new Map<string, string[]>();
  for (const [index, arg] of args.entries()) {
    const name = /^--?([A-Za-z][\w-]*)$/.exec(arg)?.[1];
    if (name === undefined) continue;
    const next = args[index + 1];
    const value = next === undefined || next.startsWith('-') ? '' : next;
    given.set(name, [...(given.get(name) ?? []), value]);
  }
  return given;
}

function valuesOf(given: Map<string, string[]>, option: string, firstKey: string): Options[] {
  return (given.get(option) ?? []).map((text) => parseOptions(text, firstKey));
}

/** QEMU's key=value,key=value with ",," for a comma, or a JSON object. The first value may go without its key. */
export function parseOptions(text: string, firstKey: string): Options {
  if (text.startsWith('{')) return parseJsonOptions(text);
  const options: Options = new Map();
  // No argument holds a zero byte, so it can stand for the escaped comma.
  const fields = text.replaceAll(',,', '\0').split(',');
  for (const [index, field] of fields.entries()) {
    const plain = field.replaceAll('\0', ',');
    const equals = plain.indexOf('=');
    if (equals > 0) options.set(plain.slice(0, equals), plain.slice(equals + 1));
    else if (index === 0) options.set(firstKey, plain);
    else options.set(plain, 'on');
  }
  return options;
}

function parseJsonOptions(text: string): Options {
  try {
    const object = JSON.parse(text) as Record<string, unknown>;
    return new Map(
      Object.entries(object).map(([key, value]) => [
        key,
        typeof value === 'boolean' ? (value ? 'on' : 'off') : String(value),
      ]),
    );
  } catch {
    return new Map();
  }
}

function acceleratorOf(given: Map<string, string[]>, machine: Options): string {
  if (given.has('enable-kvm')) return 'kvm';
  const asked = valuesOf(given, 'accel', 'accel').at(0)?.get('accel') ?? machine.get('accel');
  return asked ?? 'tcg';
}

const UNITS: Record<string, bigint> = { '': 1n << 20n, b: 1n, k: 1n << 10n, m: 1n << 20n, g: 1n << 30n, t: 1n << 40n };

function ramSizeOf(given: Map<string, string[]>): bigint | undefined {
  const text = valuesOf(given, 'm', 'size').at(-1)?.get('size');
  const match = /^(\d+)([bkmgt]?)$/i.exec(text ?? '');
  if (!match) return undefined;
  return BigInt(match[1] ?? '0') * (UNITS[(match[2] ?? '').toLowerCase()] ?? 0n);
}

function ramKindOf(given: Map<string, string[]>, machine: Options): RamKind {
  const ofNodes = valuesOf(given, 'numa', 'type').flatMap((node) => node.get('memdev') ?? []);
  const wanted = machine.has('memory-backend') ? [machine.get('memory-backend')] : ofNodes;
  const objects = valuesOf(given, 'object', 'qom-type');
  const kinds = new Set(wanted.map((id) => kindOfBackend(objects.find((object) => object.get('id') === id))));
  if (kinds.size === 0) return given.has('mem-path') ? 'private-file' : 'private-anonymous';
  const [kind, ...others] = kinds;
  return kind === undefined || others.length > 0 ? 'mixed' : kind;
}

/** The defaults of `share` are those of QEMU's backends/hostmem-memfd.c and hostmem.c. */
function kindOfBackend(backend: Options | undefined): RamKind {
  const share = backend?.get('share');
  switch (backend?.get('qom-type')) {
    case 'memory-backend-memfd':
      return share === 'off' ? 'private-file' : 'shared-memfd';
    case 'memory-backend-file':
      return share === 'on' ? 'shared-file' : 'private-file';
    default:
      return share === 'on' ? 'shared-anonymous' : 'private-anonymous';
  }
}

function monitorsOf(given: Map<string, string[]>): MonitorSocket[] {
  const chardevs = valuesOf(given, 'chardev', 'backend');
  const direct = [...(given.get('qmp') ?? []), ...(given.get('qmp-pretty') ?? [])];
  const byChardev = valuesOf(given, 'mon', 'chardev').filter((monitor) => monitor.get('mode') === 'control');
  return [
    ...direct.flatMap((device) => directSocket(device, chardevs)),
    ...byChardev.flatMap((monitor) => chardevSocket(chardevs, monitor.get('chardev'))),
  ];
}

function directSocket(device: string, chardevs: Options[]): MonitorSocket[] {
  if (device.startsWith('chardev:')) return chardevSocket(chardevs, device.slice('chardev:'.length));
  if (!device.startsWith('unix:')) return [];
  return listening(parseOptions(device.slice('unix:'.length), 'path'));
}

function chardevSocket(chardevs: Options[], id: string | undefined): MonitorSocket[] {
  const chardev = chardevs.find((candidate) => candidate.get('id') === id);
  return chardev?.get('backend') === 'socket' ? listening(chardev) : [];
}

/** `server` without a value, and `server=yes` of old, mean on. */
function listening(options: Options): MonitorSocket[] {
  const server = options.get('server');
  if (server === undefined || server === 'off' || server === 'no') return [];
  const path = options.get('path');
  if (path !== undefined) return [{ path }];
  const fd = Number(options.get('fd'));
  return Number.isSafeInteger(fd) ? [{ fd }] : [];
}
