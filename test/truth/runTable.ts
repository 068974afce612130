/** Command lines that a redirected tool must answer as the same binary does inside the guest. */

/** Why what is printed may differ. */
export interface Difference {
  why: string;
  /** Takes away from either side what `why` speaks of: the rest must be the same. */
  rest: (printed: string) => string;
}

export interface ToolCase {
  command: string;
  /** what is printed is the same to the byte unless given */
  differs?: Difference;
}

const same = (...commands: string[]): ToolCase[] => commands.map((command) => ({ command }));
const differing = (why: string, rest: Difference['rest'], ...commands: string[]): ToolCase[] =>
  commands.map((command) => ({ command, differs: { why, rest } }));

/** Of columns by number, those that are not in `left`. */
const withoutColumns = (line: string, ...left: number[]): string =>
  line
    .trim()
    .split(/\s+/)
    .filter((_, index) => !left.includes(index))
    .join(' ');

/** Kernel threads that work off queues come and go. */
const withoutLines = (printed: string, ...unwanted: RegExp[]): string[] =>
  printed.split('\n').filter((line) => ![/kworker\//, ...unwanted].some((pattern) => pattern.test(line)));

const withoutNumbers = (printed: string): string => printed.replace(/\d+(?:\.\d+)?/g, 'N').replace(/ +/g, ' ');

/** Of Python's library nothing but what it starts with (`pythonFiles` in run.test.ts), and nothing is written. */
const python = (code: string): string => `/usr/bin/python3 -I -S -B -c 'import os; ${code}'`;

export const COUNTERS = 'counters run on';
const OWN_FILES = 'the files of the tool are those of the borrowed task';
const OWN_PROCESS = 'its own process is in the list inside the guest, and processor time runs on';

export const toolCases: readonly ToolCase[] = [
  ...same(
    'uname -a',
    'uname -r',
    'arch',
    'hostname',
    'nproc',
    'id',
    'id alice',
    'groups bob',
    'whoami',
    'logname; true',
    'ls /',
    'ls -l /etc',
    'ls -lR /srv/tree',
    'ls -lin /srv/tree/many',
    'ls /nowhere',
    'dir /srv',
    'vdir /srv/tree',
    'cat /etc/passwd',
    'cat /etc/passwd /etc/group',
    'cat /nowhere',
    'tac /etc/passwd',
    'head -n 3 /etc/passwd',
    'head -c 20 /srv/tree/numbers',
    'tail -n 2 /etc/passwd',
    'tail -c 50 /srv/tree/numbers',
    'wc /srv/tree/numbers /etc/passwd',
    'nl /etc/passwd',
    'stat -f /srv',
    'stat -c "%n %s %a %U %G" /srv/tree/private /srv/tree/null /srv/tree/link',
    'readlink /srv/tree/link',
    'readlink -f /srv/tree/link/deepest',
    'realpath /srv/tree/link',
    'basename /srv/tree/numbers; dirname /srv/tree/numbers',
    'md5sum /srv/tree/binary',
    'sha1sum /srv/tree/binary',
    'sha256sum /srv/tree/binary /etc/passwd',
    'b2sum /srv/tree/numbers',
    'cksum /srv/tree/numbers',
    'sum /srv/tree/numbers',
    'base64 /etc/group',
    'od -c /etc/group',
    'sort -r /etc/passwd',
    'sort -n /srv/tree/numbers | tail -3',
    'uniq /etc/group',
    'cut -d: -f1,7 /etc/passwd',
    'paste /etc/passwd /etc/group',
    'join -t: /etc/group /etc/group; true',
    'comm /etc/passwd /etc/group; true',
    'tr a-z A-Z < /etc/passwd',
    'fold -w 20 /etc/passwd',
    'expand /etc/passwd',
    'fmt /etc/hosts',
    'pr -t /etc/group',
    'shuf -n 0 /etc/passwd',
    'split --version | head -1',
    'du -a /srv/tree',
    'du -sh /srv/tree/binary',
    'df -k /srv /tmp',
    'test -f /etc/passwd; echo $?',
    'test -d /etc/passwd; echo $?',
    '[ -L /srv/tree/link ]; echo $?',
    'pwd',
    'cd /srv/tree/deep && pwd && ls',
    'for f in /srv/tree/d*; do echo $f; done',
    'cat < /etc/group | sort | head -2',
    'echo $(cat /etc/passwd | wc -l)',
    '(cd /srv; ls) | wc -l',
    'grep alice /etc/passwd',
    'grep -rn . /etc/group /etc/hosts',
    'grep -c 1 /srv/tree/numbers',
    'sed -n 1,2p /etc/passwd',
    'sed s/root/ROOT/ /etc/passwd',
    "awk -F: '{ print $1 }' /etc/passwd",
    'find /srv -ls',
    'find /srv/tree -type l',
    'find /srv/tree -name "*e*" -newer /etc/passwd',
    'find /etc -maxdepth 1 -type f -exec wc -c {} +',
    'find /etc -type f | xargs cat | wc -c',
    'tar cf - -C / etc | tar tvf -',
    'cmp /etc/passwd /etc/group; true',
    'diff /etc/passwd /etc/group; true',
    'diff /etc/passwd /etc/passwd; echo $?',
    'file /etc/passwd /srv/tree/link /srv/tree/fifo /srv/tree/empty',
    'mount',
    'findmnt -rn -o TARGET,SOURCE,FSTYPE',
    'mountpoint /proc',
    'cat /proc/mounts',
    'cat /proc/filesystems',
    'cat /proc/version /proc/cmdline',
    'cat /proc/1/comm',
    'cat /sys/kernel/mm/transparent_hugepage/enabled; true',
    'lsmod',
    'cut -d" " -f1 /proc/modules',
    'ip -o link',
    'ip addr',
    'ip route show table all',
    'ip rule; true',
    'ip neigh',
    'ifconfig -a',
    'netstat -tln',
    'netstat -uan',
    'route -n',
    'arp -an',
    'ss -tan',
    'ss -ual',
    'ss -tln4',
    'getent passwd bob',
    'getent group',
    'getconf PAGE_SIZE',
    'lscpu -p=CPU,CORE',
    'locale charmap',
    'sysctl kernel.ostype kernel.osrelease kernel.hostname',
    'sysctl -n kernel.pid_max net.ipv4.ip_forward',
    'ps -o pid,comm -p 1,2,3',
    'ps -eo comm | grep -c sleep',
    'pgrep -c sleep',
    'pgrep -x httpd',
    'pidof syslogd',
    'dmesg | head -5',
    'xargs -n 2 echo < /etc/hosts',
    'timeout 5 cat /etc/hosts',
    'env | sort',
    'printenv HOME',
    'seq 3 | while read n; do echo line $n; done',
    'date +%Y-%m',
    'stty size < /etc/passwd; echo $?',
    'ipcs -a',
    'lsns -n -o TYPE -t uts -p 1; true',
    'namei -l /srv/tree/link/deepest/file',
    'hexdump -C /etc/group',
    'column -t -s: /etc/passwd',
    'rev /etc/group',
    'look root /etc/passwd',
    'taskset -p 1',
    'chrt -p 1',
    'ionice -p 1',
    'prlimit -p 1 --nofile -o RESOURCE,SOFT,HARD',
    'ss -xan',
    'netstat -xan',
    'ss -s',
    'ip -s link',
    'ip maddr',
    'ip -6 addr',
    'ip netns',
    'ipmaddr',
    'iptunnel show',
    'nstat -as',
    'bridge link',
    'tc qdisc',
    'fuser -v /srv/tree/binary',
    'fuser 7001/tcp',
    'pmap 1',
    'pwdx 1',
    'who -a',
    'users',
    'pinky -f',
    'last',
    'hostid',
    'lsblk -a',
    'lsmem',
    'lsirq -n -o IRQ,NAME',
    'lslocks -n',
    'lsipc -g --noheadings -o RESOURCE,LIMIT',
    'lsns -n -o NS,TYPE',
    'blkid -p /dev/null; true',
    'losetup -a',
    'swapon -s',
    'zramctl',
    'fincore -n -b -o SIZE,FILE /srv/tree/numbers',
    'wdctl -n; true',
    'slabtop -o -s n | head -1 | cut -c1-10',
    'uclampset -p 1; true',
    'numfmt --to=iec 123456789',
    'factor 360360',
    'tsort /etc/hosts; true',
    'tee < /etc/group',
    'yes | head -2',
    'ptx -f /etc/hosts',
    'dircolors -b /etc/hosts; true',
    'pathchk /etc/passwd /srv/nowhere',
    'dd if=/etc/passwd bs=7 skip=2 count=3 status=none',
    'strings -n 6 /etc/group',
    'gzip -c /etc/passwd | gzip -d',
    'bzip2 -c /etc/passwd | bzip2 -d',
    'xz -c /etc/passwd | xz -d',
    'find /srv/tree/deep | cpio -o --quiet | cpio -t --quiet',
    'echo "2^100" | bc',
    'lsattr -d /srv; true',
    'getcap -r /srv/tree; true',
    'col < /etc/hosts',
    'ul /etc/hosts',
    'expr 6 \\* 7',
    'printf "%05d %s\\n" 42 there',
    'nice cat /proc/1/comm',
    'stdbuf -oL cat /etc/hosts',
    'nohup cat /etc/hosts',
    'xxd /etc/hosts',
    'getopt -o ab: -- -a -b c d',
    'whereis -b passwd',
    'which sh',
    'iconv -f utf-8 -t ucs-4be /etc/hosts | od -c',
    'zdump UTC | cut -d" " -f1',
    'hd /etc/hosts',
    'bash -c "shopt -s globstar; echo /srv/tree/deep/**; echo \\$HOSTNAME \\$UID \\$OSTYPE"',
    'bash -c "diff <(sort /etc/group) <(sort -r /etc/group); true"',
    'bash -c "while IFS=: read -r name _ id _; do echo \\$name=\\$id; done < /etc/passwd"',
    'perl -e \'opendir D, "/srv/tree"; print map { "$_ " . (-s "/srv/tree/$_") . "\\n" } sort readdir D\'',
    'perl -e \'print join(" ", (getpwnam "bob")[0, 2, 3, 7]), "\\n"\'',
    python('print(os.uname(), os.getcwd(), os.cpu_count(), os.getloadavg() != ())'),
    python('print([(e.name, e.is_dir(), e.stat().st_size) for e in os.scandir("/srv/tree")])'),
    python('print([(b, sorted(d), len(f)) for b, d, f in os.walk("/srv")])'),
    python('print(os.statvfs("/srv"), os.readlink("/srv/tree/link"), os.access("/etc", os.W_OK))'),
    python('print(open("/etc/nowhere"))'),
    'find /srv/tree/deep -type f -exec head -c 6 {} \\;',
    'find /srv/tree -type d -print0 | xargs -0 -n 1 basename',
    'find /etc -name "*s*" | xargs -I{} sh -c "echo {}; wc -c < {}"',
    'nosuchprogram',
    '/etc/passwd',
    'sleep 1000 & kill -9 $!; wait $!; echo $?',
    'sleep 1000 & kill $!; wait $!',
    '/usr/bin/nosuchprogram; echo $?',
    'false | true; echo $?; true | false',
    'sh -c "exit 300"',
    'dd if=/proc/sys/kernel/pid_max bs=1 status=none; echo',
    // Names of open files: those of the guest have other numbers there.
    'cd / && exec 5</etc/passwd && readlink /proc/self/fd/5 && stat -L -c "%s %F" /proc/self/fd/5 && ls -l /proc/self/fd/5 | cut -c1-10',
    'cd / && exec 5</etc/passwd && read a <&5 && head -1 /proc/self/fdinfo/5 && cat /proc/self/fd/5 | tail -1; ls /proc/self/fd/99',
    'cd /srv && exec 6<. && ls /proc/self/fd/6/tree && stat -c %F /proc/self/fd/6/ && cat /proc/self/fd/6/tree/link/deepest | wc -c',
    'echo | stat -L -c %F /proc/self/fd/0; stat -L -c %F /proc/self/fd/0 < /etc/group; exec 7<&0; [ -e /proc/self/fd/7 ]; echo $?',
    'cd / && echo x | test -p /dev/stdin && ls -l /dev/stdin /dev/fd | cut -c1-10 && readlink /dev/stdin /dev/fd && cat /dev/stdin </etc/group',
    // Files that tools get whole: positions that descriptors and processes share, and what a seek means.
    'dd if=/proc/1/limits bs=7 skip=20 count=3 status=none',
    'tail -c 70 /proc/1/limits',
    'cd / && exec 3</proc/1/status; read a <&3; (read b <&3; echo $b); read c <&3; echo $a $c; wc -l <&3',
    python(
      'f = os.open("/proc/1/limits", 0); g = os.dup(f); print(os.read(f, 9), os.read(g, 9), os.lseek(f, 0, 1), ' +
        'os.lseek(g, 5, 0), os.read(f, 4), os.pread(g, 6, 2), os.readv(g, [bytearray(8)]), os.fstat(g).st_size)',
    ),
    python('f = os.open("/proc/1/cmdline", 0); print(os.lseek(f, 3000, 0), os.read(f, 9)); os.lseek(f, 0, 2)'),
    python('f = os.open("/proc/1/status", 0); print(os.lseek(f, 0, 2))'),
    python('f = os.open("/proc/1/comm", 0); print(os.dup2(f, 9), os.read(9, 2), os.read(f, 9)); os.write(f, b"x")'),
  ),
  ...differing(
    OWN_PROCESS,
    (printed) =>
      withoutLines(printed, /sh -c ps/, / ps -ef/)
        .map((line) => withoutColumns(line, 3, 6))
        .join('\n'),
    'ps -ef',
  ),
  ...differing(
    OWN_PROCESS,
    (printed) =>
      withoutLines(printed, /sh -c ps/, / ps aux/)
        .map((line) => withoutColumns(line, 2, 3, 5, 7, 9))
        .join('\n'),
    'ps aux',
  ),
  ...differing(OWN_PROCESS, (printed) => printed.replace('---sh---pstree', ''), 'pstree'),
  ...differing(
    `${OWN_PROCESS}; ${OWN_FILES}`,
    (printed) =>
      withoutLines(printed, /^(?:sh|lsof) /, /\b5\d\d[a-z] /)
        .map((line) => withoutColumns(line))
        .join('\n'),
    'lsof -n',
  ),
  ...differing(
    OWN_FILES,
    (printed) =>
      withoutLines(printed, /^5\d\d /)
        .map((line) => withoutColumns(line))
        .join('\n'),
    'lsfd -p 1 -n -o FD,MODE,NAME',
  ),
  ...differing(COUNTERS, withoutNumbers, 'cat /proc/stat', 'free', 'uptime', 'vmstat', 'w', 'prtstat 1'),
  ...differing(COUNTERS, withoutNumbers, 'cat /proc/meminfo', 'cat /proc/uptime'),
  ...differing(
    'read again meanwhile: another time of access',
    (printed) => printed.replace(/^Access: \d.*$/m, ''),
    'stat /etc/passwd',
  ),
  ...differing(
    'the borrowed task is /proc/self: fields of another process',
    (printed) => printed.replace(/:.*/g, ''),
    'cat /proc/self/status',
  ),
];

/** Names of the programs that a command line starts, as far as they can be told by their place in it. */
export function programsOf(command: string): string[] {
  const prefix = String.raw`exec|do|xargs(?: -\S+| \d+)*|nice|nohup|stdbuf -oL|timeout \d+`;
  const place = new RegExp(String.raw`(?:^|[|;&(]|\b(?:${prefix}) ) *(?:/usr/bin/)?([\w[][\w.-]*)`, 'g');
  return [...command.matchAll(place)].flatMap(([whole, name]) => [
    name as string,
    ...(whole.includes(' ') ? programsOf(whole.replace(/^\W+/, '').split(' ')[0] as string) : []),
  ]);
}

/** Whatever could be a program in the command lines: what the guest needs to run them itself. */
export const programNames: readonly string[] = [
  ...new Set(toolCases.flatMap(({ command }) => [...command.matchAll(/[a-z][a-z0-9]+/g)].map(([word]) => word))),
  'sh',
  'w',
  '[',
];
