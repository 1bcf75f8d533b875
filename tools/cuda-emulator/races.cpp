// Finds data races: each access of a kernel is compared with earlier accesses to the same bytes.
//
// A shadow cell holds the marks of the last write and the last readers of a few bytes. The cells of device memory need
// not be cleared between launches, because a mark below the launch's first belongs to the past.
#include "races.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "cuda_device.h"
#include "dependent.h"
#include "emulator.h"
#include "shared.h"

namespace emulator {
namespace races {

bool checking = false;

namespace {

struct Cell {
    uint32_t write, readers;  // `readers` is of one block; readers of earlier blocks are merged into `blocks`.
    uint32_t blocks, atomics;
    uint32_t write_pc, read_pc;  // Offsets from `code`.
};

struct Region {
    uintptr_t start = 0;
    size_t bytes = 0;
    Cell* cells = nullptr;
    uint32_t first = 0;  // Marks below it belong to the past.
};

Region device, static_shared, dynamic_shared;
std::vector<Cell> static_cells, dynamic_cells;
unsigned shift = 0;  // A cell covers 1 << shift bytes.

// An address near the kernels' code; program counters are stored as offsets from it.
const char* code() { return reinterpret_cast<const char*>(&mark_of); }
uint32_t pc_offset_of(const void* at) { return static_cast<uint32_t>(static_cast<const char*>(at) - code()); }
const void* pc_at(uint32_t pc) { return code() + static_cast<int32_t>(pc); }

size_t shadow_bytes() { return device_range_bytes() * sizeof(Cell); }

void set_up_device() {
    if (device.cells) return;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* mapped = mmap(nullptr, shadow_bytes(), PROT_READ | PROT_WRITE, flags, -1, 0);
    if (mapped == MAP_FAILED) {
        log_message(
            "the race detector cannot reserve its shadow memory: it needs a large range of addresses, though little "
            "memory");
        abort();
    }
    device.cells = static_cast<Cell*>(mapped);
    device.start = device_range();
    device.bytes = device_range_bytes();
}

void set_up_shared(Region& region, std::vector<Cell>& cells, uintptr_t start, size_t bytes) {
    if (cells.size() < bytes) cells.resize(bytes);
    region.start = start;
    region.bytes = bytes;
    region.cells = cells.data();
}

// Null for memory that is not checked: stacks, parameters and the built-in variables.
const Region* region_of(uintptr_t address) {
    for (const Region* region : {&device, &static_shared, &dynamic_shared}) {
        if (address - region->start < region->bytes) return region;
    }
    return nullptr;
}

struct Check {
    const Region& region;
    uintptr_t address;
    Access now;

    [[noreturn]] void fail(Access::Kind kind, const void* pc, uint32_t mark) const {
        report(address, &region != &device, now, Access{kind, pc}, mark_of(mark));
    }

    bool is_set(uint32_t mark) const { return mark >= region.first; }

    void against_write(const Cell& cell) const {
        if (!is_set(cell.write) || is_before(cell.write)) return;
        fail(Access::write, pc_at(cell.write_pc), cell.write);
    }

    void against_reads(const Cell& cell) const {
        if (is_set(cell.readers) && !is_before(cell.readers)) fail(Access::read, pc_at(cell.read_pc), cell.readers);
        if (!is_set(cell.blocks)) return;
        for (uint32_t mark = cell.blocks; mark; mark = mark_of(mark).link) {
            if (!is_before(mark)) fail(Access::read, nullptr, mark);
        }
    }

    void against_atomics(const Cell& cell) const {
        if (!is_set(cell.atomics)) return;
        if (const uint32_t mark = unordered_atomic(cell.atomics)) fail(Access::atomic, nullptr, mark);
    }

    void read(Cell& cell, uint32_t own) const {
        if (cell.readers == own) return;
        against_write(cell);
        against_atomics(cell);
        cell.read_pc = pc_offset_of(now.pc);
        if (is_set(cell.readers) && !is_before(cell.readers)) {
            if (mark_of(cell.readers).block_index == mark_of(own).block_index) {
                cell.readers = with_own(cell.readers);
                return;
            }
            cell.blocks = with_block(is_set(cell.blocks) ? cell.blocks : 0, cell.readers);
        }
        cell.readers = own;
    }

    void write(Cell& cell, uint32_t own) const {
        if (cell.write == own) return;  // Accesses since then were checked when they happened.
        against_write(cell);
        against_reads(cell);
        against_atomics(cell);
        cell = Cell{own, 0, 0, 0, pc_offset_of(now.pc), 0};
    }

    void atomic(Cell& cell, uint32_t& atomics) const {
        against_write(cell);
        against_reads(cell);
        if (is_set(cell.atomics)) atomics = cell.atomics;
        if (!atomics) atomics = new_atomics();
        cell.atomics = atomics;
    }
};

Cell* cells_of(const Region& region, uintptr_t address, size_t bytes, Cell** end) {
    if ((1u << shift) > bytes) {
        fail_running(CUDA_ERROR_LAUNCH_FAILED,
                     "accesses bytes of a word that the race detector does not distinguish, "
                     "because none of the kernel's parameters points to elements that small");
    }
    *end = region.cells + ((address + bytes - 1 - region.start) >> shift) + 1;
    return region.cells + ((address - region.start) >> shift);
}

// The previous kernel may still write to global memory until the thread has waited for it.
void check_waited(const Region& region, uintptr_t address, const Access& access) {
    if (&region != &device || !dependent::is_early()) return;
    fail_running(CUDA_ERROR_LAUNCH_FAILED, describe_address(address, access.kind == Access::write) +
                                               ", before griddepcontrol.wait" + line_of(access.pc));
}

}  // namespace

void begin_launch(const Launch& launch) {
    if (!checking) return;
    begin_launch_marks();
    set_up_device();
    device.first = first_of_launch();
    shift = launch.kernel->smallest == 1 ? 0 : launch.kernel->smallest == 2 ? 1 : 2;
    const Kernel& kernel = *launch.kernel;
    const size_t bytes = kernel.shared ? static_cast<size_t>(kernel.shared_end - kernel.shared) : 0;
    set_up_shared(static_shared, static_cells, reinterpret_cast<uintptr_t>(kernel.shared), bytes);
    const auto dynamic = reinterpret_cast<uintptr_t>(emulator_dynamic_shared());
    set_up_shared(dynamic_shared, dynamic_cells, dynamic, launch.shared_bytes);
}

void begin_block(uint64_t block, unsigned threads) {
    begin_block_marks(static_cast<uint32_t>(block), threads);
    static_shared.first = dynamic_shared.first = first_of_block();
}

void clear_shadow(uintptr_t start, size_t bytes) {
    if (!device.cells) return;
    constexpr uintptr_t PAGE = 64 * 1024;
    for (unsigned each = 0; each < 3; ++each) {
        const uintptr_t from = reinterpret_cast<uintptr_t>(device.cells + ((start - device.start) >> each));
        const uintptr_t to = from + (bytes >> each) * sizeof(Cell);
        const uintptr_t first = (from + PAGE - 1) / PAGE * PAGE, last = to / PAGE * PAGE;
        if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
    }
}

void clear_all_shadow() {
    if (device.cells) madvise(device.cells, shadow_bytes(), MADV_DONTNEED);
    static_cells.clear();
    dynamic_cells.clear();
}

template <class Visit>
static void check_cells(const void* at, size_t bytes, const Access& access, Visit visit) {
    const auto address = reinterpret_cast<uintptr_t>(at);
    const Region* region = region_of(address);
    if (!region) return;
    check_waited(*region, address, access);
    const uint32_t own = own_mark();
    Cell* end;
    for (Cell* cell = cells_of(*region, address, bytes, &end); cell < end; ++cell) {
        visit(Check{*region, address, access}, *cell, own);
    }
}

static void check_read(const void* from, size_t bytes, const void* pc) {
    const auto visit = [](const Check& check, Cell& cell, uint32_t own) { check.read(cell, own); };
    check_cells(from, bytes, Access{Access::read, pc}, visit);
}

void read(const void* from, size_t bytes, const void* pc) {
    const size_t before = reinterpret_cast<uintptr_t>(from) & ((1u << shift) - 1);
    check_read(static_cast<const char*>(from) - before, std::max(bytes, size_t{1} << shift), pc);
}

void write(const void* to, size_t bytes, const void* pc) {
    const auto visit = [](const Check& check, Cell& cell, uint32_t own) { check.write(cell, own); };
    check_cells(to, bytes, Access{Access::write, pc}, visit);
}

static bool is_dynamic(const void* at) {
    return reinterpret_cast<uintptr_t>(at) - dynamic_shared.start < dynamic_shared.bytes;
}

static void note_read(const void* from, size_t bytes, const void* pc) {
    if (is_dynamic(from)) shared::check_plain_read(from, bytes, pc);
    check_read(from, bytes, pc);
}

static void note_write(const void* to, size_t bytes, const void* pc) {
    if (is_dynamic(to)) shared::note_plain_write(to, bytes, pc);
    write(to, bytes, pc);
}

static void note_atomic(const void* to, size_t bytes, const void* pc, bool orders) {
    const auto address = reinterpret_cast<uintptr_t>(to);
    const Region* region = region_of(address);
    if (!region) return;
    const Access access{Access::atomic, pc};
    check_waited(*region, address, access);
    own_mark();
    Cell* end;
    uint32_t atomics = 0;
    for (Cell* cell = cells_of(*region, address, bytes, &end); cell < end; ++cell) {
        Check{*region, address, access}.atomic(*cell, atomics);
    }
    add_atomic(atomics, orders);
}

}  // namespace races
}  // namespace emulator

using namespace emulator::races;

void emulator_atomic(const void* to, size_t bytes, const void* pc) {
    if (checking) note_atomic(to, bytes, pc, true);
}

// ---- The functions that the compiler calls before every access with -fsanitize=thread; its runtime library is not
// linked. A volatile access may be concurrent with other volatile accesses, like PTX's `relaxed`, but orders nothing.

#define HIDDEN extern "C" __attribute__((visibility("hidden")))

HIDDEN void __tsan_init() { checking = true; }
HIDDEN void __tsan_func_entry(void*) {}
HIDDEN void __tsan_func_exit() {}

#define EMULATOR_ACCESS(name, note, ...) \
    HIDDEN void __tsan_##name(void* at) { note(at, __VA_ARGS__); }
#define EMULATOR_ACCESSES(bytes)                                                                  \
    EMULATOR_ACCESS(read##bytes, note_read, bytes, __builtin_return_address(0))                   \
    EMULATOR_ACCESS(write##bytes, note_write, bytes, __builtin_return_address(0))                 \
    EMULATOR_ACCESS(unaligned_read##bytes, note_read, bytes, __builtin_return_address(0))         \
    EMULATOR_ACCESS(unaligned_write##bytes, note_write, bytes, __builtin_return_address(0))       \
    EMULATOR_ACCESS(volatile_read##bytes, note_atomic, bytes, __builtin_return_address(0), false) \
    EMULATOR_ACCESS(volatile_write##bytes, note_atomic, bytes, __builtin_return_address(0), false)

EMULATOR_ACCESSES(1)
EMULATOR_ACCESSES(2)
EMULATOR_ACCESSES(4)
EMULATOR_ACCESSES(8)
EMULATOR_ACCESSES(16)

HIDDEN void __tsan_read_range(void* at, size_t bytes) { note_read(at, bytes, __builtin_return_address(0)); }
HIDDEN void __tsan_write_range(void* at, size_t bytes) { note_write(at, bytes, __builtin_return_address(0)); }
