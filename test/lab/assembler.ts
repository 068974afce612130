import { createRequire } from 'node:module';

interface KeystoneModule {
  Keystone: new (
    architecture: number,
    mode: number,
  ) => {
    option(type: number, value: number): void;
    asm(source: string, address: number): { failed: boolean; mc: Uint8Array };
    close(): void;
  };
  ARCH_X86: number;
  MODE_16: number;
  MODE_32: number;
  MODE_64: number;
  OPT_SYNTAX: number;
  OPT_SYNTAX_INTEL: number;
}

/**
 * Assembles x86 in Intel's syntax for a CPU in `mode`, to be put at `address`. Numbers without 0x are hexadecimal too.
 * Throws on what cannot be assembled.
 */
export async function assemble(source: string, mode: 16 | 32 | 64, address = 0): Promise<Buffer> {
  const load = createRequire(import.meta.url)('@alexaltea/keystone-js') as () => Promise<KeystoneModule>;
  const keystone = await load();
  const assembler = new keystone.Keystone(keystone.ARCH_X86, keystone[`MODE_${mode}`]);
  assembler.option(keystone.OPT_SYNTAX, keystone.OPT_SYNTAX_INTEL);
  const { failed, mc } = assembler.asm(source, address);
  const bytes = Buffer.from(mc);
  assembler.close();
  if (failed) throw new Error(`keystone does not take: ${source}`);
  return bytes;
}
