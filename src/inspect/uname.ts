import { bytesOf, out } from '../shadow/stepList.js';
import { utsname } from '../shadow/structs/system.js';
import { requireSuccess } from './fileStatus.js';
import type { ShadowSource } from './moment.js';
import type { SystemName } from './records.js';

/** What the guest's kernel calls itself, in the namespace of the borrowed task. @throws GuestError, CallError */
export async function uname(source: ShadowSource): Promise<SystemName> {
  return await source.ask((list) => {
    const step = list.add('uname', out(utsname.size));
    return (results) => {
      requireSuccess(results, step, 'uname', Buffer.from('uname'));
      return utsname.decode(bytesOf(results, step, 0) ?? Buffer.alloc(0));
    };
  });
}
