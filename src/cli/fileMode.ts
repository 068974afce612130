import type { FileType } from '../inspect/records.js';

const LETTERS: Record<FileType, string> = {
  file: '-',
  directory: 'd',
  symlink: 'l',
  characterDevice: 'c',
  blockDevice: 'b',
  fifo: 'p',
  socket: 's',
  unknown: '?',
};

/** `-rwsr-xr-x`, as `ls -l` shows type and permissions. */
export function modeText(type: FileType, mode: number): string {
  const bits = [...'rwxrwxrwx'].map((letter, index) => ((mode >> (8 - index)) & 1 ? letter : '-'));
  if (mode & 0o4000) bits[2] = bits[2] === 'x' ? 's' : 'S';
  if (mode & 0o2000) bits[5] = bits[5] === 'x' ? 's' : 'S';
  if (mode & 0o1000) bits[8] = bits[8] === 'x' ? 't' : 'T';
  return LETTERS[type] + bits.join('');
}
