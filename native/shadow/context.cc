#include "shadow/context.h"

#include <algorithm>
#include <cstring>

#include "error.h"
#include "shadow/guest_counter.h"
#include "shadow/kernel_reader.h"

namespace penumbra {

namespace {

constexpr uint64_t kKernelHalf = uint64_t{1} << 63;
constexpr uint64_t kCr4La57 = 1 << 12;
// Below the borrowed task's saved stack pointer: clear of the red zone and of what a switch in progress may still push.
constexpr uint64_t kStackGap = 512;
// struct pt_regs (21 words), the return address and alignment.
constexpr uint64_t kFrameSize = 192;

// What one vCPU was doing.
struct VcpuView {
  size_t index;
  uint64_t per_cpu_base;
  uint32_t cpu_number;
  uint64_t current;
  StopClass stop_class;
};

bool StandsBehindHalt(const KernelReader& kernel, uint64_t rip) {
  uint8_t before[3];
  if (!kernel.TryRead(rip - sizeof before, &before)) return false;
  static constexpr uint8_t kMwait[] = {0x0f, 0x01, 0xc9};
  return before[2] == 0xf4 || std::memcmp(before, kMwait, sizeof kMwait) == 0;
}

// False where the per-CPU base cannot be told: between SWAPGS and the code around it.
bool ViewVcpu(const Recipe& recipe, const KernelReader& kernel, const VcpuState& state, size_t index, VcpuView* view) {
  const bool user = (state.cs & 3) == 3;
  view->index = index;
  view->per_cpu_base = user ? state.kernel_gs_base : state.gs_base;
  if ((view->per_cpu_base & kKernelHalf) == 0) view->per_cpu_base = user ? state.gs_base : state.kernel_gs_base;
  const auto base = std::find(recipe.per_cpu_bases.begin(), recipe.per_cpu_bases.end(), view->per_cpu_base);
  if (base == recipe.per_cpu_bases.end()) return false;
  view->cpu_number = static_cast<uint32_t>(base - recipe.per_cpu_bases.begin());
  view->current = kernel.Read<uint64_t>(view->per_cpu_base + recipe.current_task, "the running task");
  if (user) {
    view->stop_class = StopClass::kUser;
  } else {
    const uint32_t pid = kernel.Read<uint32_t>(view->current + recipe.task_pid, "the running task's pid");
    view->stop_class = pid == 0 && StandsBehindHalt(kernel, state.rip) ? StopClass::kIdle : StopClass::kKernel;
  }
  return true;
}

uint64_t FindStackTop(const Recipe& recipe, const KernelReader& kernel, const std::vector<VcpuState>& vcpus,
                      const std::vector<VcpuView>& views) {
  const uint64_t task = recipe.borrowed_task;
  const uint64_t stack = kernel.Read<uint64_t>(task + recipe.task_stack, "the borrowed task's stack");
  const auto running =
      std::find_if(views.begin(), views.end(), [task](const VcpuView& view) { return view.current == task; });
  uint64_t pointer;
  if (running == views.end()) {
    const bool switching =
        recipe.task_on_cpu && kernel.Read<uint32_t>(task + *recipe.task_on_cpu, "the borrowed task's on_cpu") != 0;
    if (switching) throw Error("LOCKED", "the borrowed task is being switched to or from");
    pointer = kernel.Read<uint64_t>(task + recipe.task_thread_sp, "the borrowed task's stack pointer");
  } else if (running->stop_class == StopClass::kUser) {
    pointer = stack + recipe.stack_size - kFrameSize;
  } else {
    pointer = vcpus[running->index].gpr[7];
    if (pointer - stack >= recipe.stack_size) throw Error("LOCKED", "the borrowed task is handling an interrupt");
  }
  if (pointer - stack > recipe.stack_size || pointer - stack < recipe.stack_size / 4) {
    throw Error("CORRUPT", "the borrowed task's stack pointer is outside its stack", pointer);
  }
  uint64_t top = (pointer - kStackGap) & ~uint64_t{15};
  // The call frame stays within one page, so that it is one contiguous piece of host memory.
  if ((top & kPageMask) < kFrameSize) top &= ~kPageMask;
  return top;
}

uint64_t FindRoot(const Recipe& recipe, const PrivateRam& memory, const KernelReader& kernel) {
  const uint64_t mm = kernel.Read<uint64_t>(recipe.borrowed_task + recipe.task_mm, "the borrowed task's mm");
  if (mm == 0) return recipe.kernel_root;
  const uint64_t pgd = kernel.Read<uint64_t>(mm + recipe.mm_pgd, "the borrowed task's page table");
  const Translation translation = Translate(memory.table(), {recipe.kernel_root, recipe.levels}, pgd);
  if (!translation.mapped()) throw Error("CORRUPT", "the borrowed task's page table is not mapped", pgd);
  return translation.gpa & kTableAddressMask;
}

void Apply(const Patch& patch, const KernelReader& kernel, const Recipe& recipe, const Context& context) {
  const uint64_t address = kernel.Resolve(patch.where, context.per_cpu_base, recipe.borrowed_task);
  uint64_t value = patch.constant;
  switch (patch.source) {
    case Patch::Source::kConstant:
      break;
    case Patch::Source::kTask:
      value += recipe.borrowed_task;
      break;
    case Patch::Source::kStackTop:
      value += context.stack_top;
      break;
    case Patch::Source::kCpu:
      value += context.cpu_number;
      break;
    case Patch::Source::kCode:
      value += context.scratch_address + Scratch::kCodeOffset;
      break;
    case Patch::Source::kTaskField:
      value = kernel.Read<uint64_t>(recipe.borrowed_task + patch.constant, "a pointer in the borrowed task");
      break;
  }
  if (patch.keep != 0) {
    uint64_t old = 0;
    if (patch.width == 8) old = kernel.Read<uint64_t>(address, "a member to be patched");
    if (patch.width == 4) old = kernel.Read<uint32_t>(address, "a member to be patched");
    value |= old & patch.keep;
  }
  kernel.Write(address, &value, std::min<uint32_t>(patch.width, sizeof value));
}

}  // namespace

Context BuildContext(const Recipe& recipe, const std::vector<VcpuState>& vcpus, const PrivateRam& memory,
                     Scratch* scratch) {
  const KernelReader kernel(memory, {recipe.kernel_root, recipe.levels});
  std::vector<VcpuView> views;
  for (size_t i = 0; i < vcpus.size(); ++i) {
    VcpuView view;
    if (ViewVcpu(recipe, kernel, vcpus[i], i, &view)) views.push_back(view);
  }
  const auto best = std::min_element(views.begin(), views.end(),
                                     [](const VcpuView& a, const VcpuView& b) { return a.stop_class < b.stop_class; });
  if (best == views.end()) throw Error("LOCKED", "every vCPU stands between user and kernel mode");

  for (const Location& sequence : recipe.sequences) {
    const uint64_t address = kernel.Resolve(sequence, best->per_cpu_base, recipe.borrowed_task);
    if ((kernel.Read<uint32_t>(address, "a sequence counter") & 1) != 0) {
      throw Error("LOCKED", "the guest was stopped while it updated what calls read", address);
    }
  }
  // The memory of a task that ended keeps its pid until it is used for something else.
  if (kernel.Read<uint32_t>(recipe.borrowed_task + recipe.task_pid, "the borrowed task") != recipe.borrowed_pid ||
      kernel.Read<uint32_t>(recipe.borrowed_task + recipe.task_exit_state, "the borrowed task's exit state") != 0) {
    throw Error("NO_TASK", "the task to be borrowed has ended", recipe.borrowed_task);
  }

  const VcpuState& state = vcpus[best->index];
  Context context{};
  context.per_cpu_base = best->per_cpu_base;
  context.cpu_number = best->cpu_number;
  context.vcpu = static_cast<uint32_t>(best->index);
  context.stop_class = best->stop_class;
  context.in_kernel = std::any_of(views.begin(), views.end(),
                                  [](const VcpuView& view) { return view.stop_class == StopClass::kKernel; });
  context.stack_top = FindStackTop(recipe, kernel, vcpus, views);
  context.space = {FindRoot(recipe, memory, kernel), recipe.levels};
  context.scratch_address = scratch->Map(context.space);
  context.cpu.cr0 = state.cr0;
  context.cpu.cr3 = context.space.root;
  context.cpu.cr4 = (state.cr4 & ~kCr4La57) | (recipe.levels == 5 ? kCr4La57 : 0);
  context.cpu.cr8 = state.cr8;
  context.cpu.efer = state.efer;
  context.cpu.fs_base = 0;
  context.cpu.gs_base = context.per_cpu_base;
  context.cpu.kernel_gs_base = 0;
  context.cpu.idt_base = recipe.idt;
  context.cpu.idt_limit = 0xfff;
  context.cpu.gdt_base = context.per_cpu_base + recipe.gdt_per_cpu;
  context.cpu.gdt_limit = 0x7f;
  context.cpu.tss_base = context.per_cpu_base + recipe.tss_per_cpu;
  context.cpu.cpu_number = context.cpu_number;
  context.cpu.xcr0 = recipe.xcr0;
  if (recipe.counter) context.cpu.tsc = ReadCounter(*recipe.counter, kernel, context.per_cpu_base);

  for (const Patch& patch : recipe.patches) Apply(patch, kernel, recipe, context);
  for (const Sample& sample : recipe.samples) {
    if (sample.code_offset + sample.width > Scratch::kReturnOffset - Scratch::kCodeOffset) continue;
    const uint64_t from = kernel.Resolve(sample.from, context.per_cpu_base, recipe.borrowed_task);
    kernel.TryCopy(from, scratch->code() + sample.code_offset, sample.width);
  }
  return context;
}

void ApplyPatches(const Recipe& recipe, const Context& context, const PrivateRam& memory) {
  const KernelReader kernel(memory, {recipe.kernel_root, recipe.levels});
  for (const Patch& patch : recipe.patches) Apply(patch, kernel, recipe, context);
}

}  // namespace penumbra
