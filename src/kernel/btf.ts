import { PenumbraError } from '../errors.js';
import { BtfKind, type BtfTypes } from './btfTypes.js';
import type { Member, Parameter } from './kernel.js';

/** Members looked at in one question; anonymous members nest, and a forged table could let them nest for ever. */
const MEMBER_LIMIT = 100_000;
const DEPTH_LIMIT = 32;

/** `name` or `name[3]` */
const STEP = /^([^[\]]+)((?:\[\d+\])*)$/;

interface Place {
  /** bits from the start of the outermost type */
  bits: number;
  type: number;
  /** bits, for a bit-field */
  width?: number;
}

/** Questions about the layout of the guest kernel's types. Every answer is undefined when there is no such thing. */
export class Btf {
  constructor(readonly types: BtfTypes) {}

  /** A member by its path, `task_struct.thread.sp`; of several types with one name the first that has it. */
  member(path: string): Member | undefined {
    const place = this.#place(path);
    if (place === undefined) return undefined;
    const size = place.width ?? this.#bytes(place.type, 0);
    if (size === undefined) return undefined;
    return { bitOffset: place.bits, bitSize: place.width ?? size * 8 };
  }

  /** Bytes from the start of the type; undefined also for a bit-field that begins within a byte. */
  offsetof(path: string): number | undefined {
    const place = this.#place(path);
    return place === undefined || place.bits % 8 !== 0 ? undefined : place.bits / 8;
  }

  /** Bytes of a type or of a member. */
  sizeof(path: string): number | undefined {
    if (path.includes('.')) {
      const place = this.#place(path);
      return place === undefined || place.width !== undefined ? undefined : this.#bytes(place.type, 0);
    }
    for (const type of this.types.named(path)) {
      const size = this.#bytes(type, 0);
      if (size !== undefined) return size;
    }
    return undefined;
  }

  /** Value of an enumerator, of whichever enum has it. */
  enumerator(name: string): bigint | undefined {
    for (const type of this.types.ofKinds(BtfKind.Enum, BtfKind.Enum64)) {
      for (const e of this.types.enumerators(type)) {
        if (e.name.is(name)) return e.value;
      }
    }
    return undefined;
  }

  parameters(func: string): Parameter[] | undefined {
    for (const type of this.types.named(func)) {
      if (this.types.kind(type) !== BtfKind.Func) continue;
      const proto = this.types.target(type);
      if (this.types.kind(proto) !== BtfKind.FuncProto) continue;
      return this.types.parameters(proto).map(({ name, type: of }) => this.#parameter(name.text(), of));
    }
    return undefined;
  }

  #parameter(name: string, type: number): Parameter {
    const bare = this.#resolve(type);
    const size = this.#bytes(bare, 0) ?? 0;
    switch (this.types.kind(bare)) {
      case BtfKind.Ptr:
      case BtfKind.Array:
        return { name, kind: 'pointer', size: 8 };
      case BtfKind.Int:
      case BtfKind.Enum:
      case BtfKind.Enum64:
        return { name, kind: 'integer', size };
      case BtfKind.Float:
        return { name, kind: 'float', size };
      default:
        return { name, kind: 'aggregate', size };
    }
  }

  #place(path: string): Place | undefined {
    const [outer, ...steps] = path.split('.');
    if (outer === undefined || steps.length === 0) return undefined;
    for (const type of this.types.named(outer)) {
      const place = this.#follow(type, steps);
      if (place !== undefined) return place;
    }
    return undefined;
  }

  #follow(outer: number, steps: readonly string[]): Place | undefined {
    let place: Place = { bits: 0, type: outer };
    for (const step of steps) {
      const [, name, indices] = STEP.exec(step) ?? [];
      if (name === undefined) throw new PenumbraError('BAD_ARGUMENT', `not a member: ${step}`);
      const inner = this.#find(this.#resolve(place.type), name, { members: MEMBER_LIMIT }, 0);
      if (inner === undefined) return undefined;
      const indexed = this.#index(inner, indices ?? '');
      if (indexed === undefined) return undefined;
      place = { ...indexed, bits: place.bits + indexed.bits };
    }
    return place;
  }

  /** A member of a struct or union by name, anonymous members looked through. */
  #find(type: number, name: string, budget: { members: number }, depth: number): Place | undefined {
    if (depth > DEPTH_LIMIT || !this.#isAggregate(type)) return undefined;
    for (const m of this.types.members(type)) {
      if (--budget.members < 0) throw corrupt(`type ${type} has members without end`);
      const width = m.width === 0 ? {} : { width: m.width };
      if (m.name.is(name)) return { bits: m.bits, type: m.type, ...width };
      if (!m.name.isEmpty()) continue;
      const inner = this.#find(this.#resolve(m.type), name, budget, depth + 1);
      if (inner !== undefined) return { ...inner, bits: m.bits + inner.bits };
    }
    return undefined;
  }

  /** `[2][3]` applied to a member that is an array. */
  #index(place: Place, indices: string): Place | undefined {
    let { bits, type } = place;
    for (const [, digits] of indices.matchAll(/\[(\d+)\]/g)) {
      const array = this.#resolve(type);
      if (this.types.kind(array) !== BtfKind.Array) return undefined;
      const { element } = this.types.array(array);
      const size = this.#bytes(element, 0);
      if (size === undefined) return undefined;
      bits += Number(digits) * size * 8;
      type = element;
    }
    return { ...place, bits, type };
  }

  #isAggregate(type: number): boolean {
    const kind = this.types.kind(type);
    return kind === BtfKind.Struct || kind === BtfKind.Union;
  }

  /** The type behind typedefs and qualifiers. @throws PenumbraError CORRUPT */
  #resolve(type: number): number {
    let at = type;
    for (let hops = 0; this.types.isModifier(at); hops++) {
      if (hops > DEPTH_LIMIT) throw corrupt(`typedefs of type ${type} run in a circle`);
      at = this.types.target(at);
    }
    return at;
  }

  #bytes(type: number, depth: number): number | undefined {
    if (depth > DEPTH_LIMIT) throw corrupt(`type ${type} is an array of itself`);
    const bare = this.#resolve(type);
    switch (this.types.kind(bare)) {
      case BtfKind.Ptr:
        return 8;
      case BtfKind.Array: {
        const { element, count } = this.types.array(bare);
        const size = this.#bytes(element, depth + 1);
        return size === undefined ? undefined : size * count;
      }
      case BtfKind.Int:
      case BtfKind.Struct:
      case BtfKind.Union:
      case BtfKind.Enum:
      case BtfKind.Enum64:
      case BtfKind.Float:
        return this.types.size(bare);
      default:
        return undefined;
    }
  }
}

function corrupt(what: string): PenumbraError {
  return new PenumbraError('CORRUPT', `BTF: ${what}`);
}
