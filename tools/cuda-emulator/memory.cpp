// Device memory: poisoned on allocation, surrounded by canaries and inaccessible pages, and never reused after a free.
//
// An allocation ends as close to an inaccessible page as cuMemAlloc's 256-byte alignment allows, so most accesses past
// its end fault immediately. A write into the remaining canary is detected after the operation that made it. A free
// releases the pages but keeps the addresses reserved, so a use after free also faults.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <map>

#include "emulator.h"
#include "races.h"

namespace emulator {
namespace {

constexpr size_t ALIGNMENT = 256;
constexpr unsigned char POISON = 0xff;  // NaN as float, half and double.
constexpr uint16_t CANARY = 0xfffd;     // Also NaN, but not one that poison propagates to.

std::map<uintptr_t, Allocation> allocations;  // Keyed by the address of their pages.
std::vector<Allocation*> live;
std::map<uintptr_t, size_t> pinned;
size_t used = 0;
unsigned next_id = 1;

size_t page_size() {
    static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return size;
}

// Inaccessible bytes on each side of an allocation; a multiple of every page size.
constexpr size_t FENCE = 64 * 1024;

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

void fill_canary(uintptr_t from, uintptr_t to) {
    for (; from < to; ++from) {
        *reinterpret_cast<unsigned char*>(from) = static_cast<unsigned char>(from % 2 ? CANARY >> 8 : CANARY);
    }
}

// The first overwritten canary address in [from, to), or 0.
uintptr_t broken_canary(uintptr_t from, uintptr_t to) {
    constexpr uint64_t whole = 0xfffdfffdfffdfffd;
    while (from < to) {
        if (from % 8 == 0 && to - from >= 8 && *reinterpret_cast<uint64_t*>(from) == whole) {
            from += 8;
            continue;
        }
        if (*reinterpret_cast<unsigned char*>(from) != (from % 2 ? CANARY >> 8 : (CANARY & 0xff))) return from;
        ++from;
    }
    return 0;
}

// Reserves the next addresses of the device's range; null if it is exhausted.
void* reserve_addresses(size_t bytes) {
    static size_t reserved = 0;
    if (device_range() == 0 || bytes > device_range_bytes() - reserved) return nullptr;
    reserved += bytes;
    return reinterpret_cast<void*>(device_range() + reserved - bytes);
}

Allocation* find_live(uintptr_t address) {
    Allocation* found = find_allocation(address);
    return found && !found->freed ? found : nullptr;
}

}  // namespace

uintptr_t device_range() {
    static void* const range =
        mmap(nullptr, device_range_bytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return range == MAP_FAILED ? 0 : reinterpret_cast<uintptr_t>(range);
}

size_t device_range_bytes() { return 256ull << 30; }

CUresult allocate(size_t bytes, CUdeviceptr* pointer) {
    if (!pointer || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    const size_t aligned = round_up(bytes, ALIGNMENT);
    if (aligned < bytes || aligned > settings().memory_bytes - used) return CUDA_ERROR_OUT_OF_MEMORY;
    const size_t page_bytes = round_up(aligned, page_size());
    void* fenced = reserve_addresses(page_bytes + 2 * FENCE);
    if (!fenced) return CUDA_ERROR_OUT_OF_MEMORY;
    Allocation made{next_id++, 0, bytes, reinterpret_cast<uintptr_t>(fenced) + FENCE, page_bytes};
    if (mprotect(reinterpret_cast<void*>(made.pages), page_bytes, PROT_READ | PROT_WRITE) != 0) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    made.start = made.pages + page_bytes - aligned;
    memset(reinterpret_cast<void*>(made.start), POISON, bytes);
    fill_canary(made.pages, made.start);
    fill_canary(made.start + bytes, made.pages + page_bytes);
    used += aligned;
    live.push_back(&allocations.emplace(made.pages, made).first->second);
    *pointer = made.start;
    return CUDA_SUCCESS;
}

CUresult release(CUdeviceptr pointer) {
    Allocation* allocation = find_live(pointer);
    if (!allocation || allocation->start != pointer) return CUDA_ERROR_INVALID_VALUE;
    const CUresult guards = check_guards("cuMemFree");
    used -= round_up(allocation->size, ALIGNMENT);
    allocation->freed = true;
    for (size_t i = 0; i < live.size(); ++i) {
        if (live[i] == allocation) live.erase(live.begin() + static_cast<long>(i--));
    }
    races::clear_shadow(allocation->start, allocation->size);
    // A new inaccessible mapping at the same address releases the memory and keeps the addresses reserved.
    mmap(reinterpret_cast<void*>(allocation->pages), allocation->page_bytes, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return guards;
}

Allocation* find_allocation(uintptr_t address) {
    auto after = allocations.upper_bound(address + FENCE);
    if (after == allocations.begin()) return nullptr;
    Allocation& candidate = std::prev(after)->second;
    return address < candidate.pages + candidate.page_bytes + FENCE ? &candidate : nullptr;
}

bool is_live_range(CUdeviceptr pointer, size_t bytes) {
    const Allocation* found = find_live(pointer);
    return found && pointer >= found->start && pointer - found->start <= found->size &&
           bytes <= found->size - (pointer - found->start);
}

bool is_device_range(CUdeviceptr pointer, size_t bytes) {
    return is_live_range(pointer, bytes) && !find_live(pointer)->free_pending;
}

bool is_pinned(const void* pointer, size_t bytes) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    auto after = pinned.upper_bound(address);
    if (after == pinned.begin()) return false;
    auto found = std::prev(after);
    return address - found->first <= found->second && bytes <= found->second - (address - found->first);
}

CUresult check_guards(const char* what) {
    for (const Allocation* allocation : live) {
        uintptr_t broken =
            broken_canary(allocation->start + allocation->size, allocation->pages + allocation->page_bytes);
        if (!broken) broken = broken_canary(allocation->pages, allocation->start);
        if (!broken) continue;
        char text[256];
        snprintf(text, sizeof text, "%s wrote byte %td of allocation #%u, which has %zu bytes", what,
                 static_cast<ptrdiff_t>(broken - allocation->start), allocation->id, allocation->size);
        log_message(text);
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    return CUDA_SUCCESS;
}

size_t memory_used() { return used; }

}  // namespace emulator

using namespace emulator;

CUDA_API cuMemAlloc_v2(CUdeviceptr* pointer, size_t bytes) {
    EMULATOR_ENTER();
    if (CUresult refused = refuse_during_capture()) return refused;
    return allocate(bytes, pointer);
}

CUDA_API cuMemFree_v2(CUdeviceptr pointer) {
    EMULATOR_ENTER();
    if (pointer == 0) return CUDA_SUCCESS;
    if (CUresult refused = refuse_during_capture()) return refused;
    if (CUresult failed = finish(current_context())) return failed;
    const CUresult result = release(pointer);
    if (result == CUDA_ERROR_ILLEGAL_ADDRESS) current_context()->failure = result;
    return result;
}

// On a GPU, an allocation during a capture becomes a memory node of the graph. The program allocates before it
// captures, so the emulator refuses it.
CUDA_API cuMemAllocAsync(CUdeviceptr* pointer, size_t bytes, CUstream stream) {
    EMULATOR_ENTER();
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (CUresult refused = refuse_waiting_on(stream)) return refused;
    const CUresult result = allocate(bytes, pointer);
    if (result != CUDA_ERROR_OUT_OF_MEMORY) return result;
    // If memory is short, an allocation waits for pending frees.
    if (CUresult failed = finish(current_context())) return failed;
    return allocate(bytes, pointer);
}

CUDA_API cuMemFreeAsync(CUdeviceptr pointer, CUstream stream) {
    EMULATOR_ENTER();
    if (!is_stream(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (is_capturing(stream) || !is_device_range(pointer, 0)) return CUDA_ERROR_INVALID_VALUE;
    Allocation* allocation = find_allocation(pointer);
    if (allocation->start != pointer) return CUDA_ERROR_INVALID_VALUE;
    allocation->free_pending = true;
    return submit(stream, {"cuMemFreeAsync", [pointer] { return release(pointer); }});
}

CUDA_API cuMemGetInfo_v2(size_t* free, size_t* total) {
    EMULATOR_ENTER();
    *total = settings().memory_bytes;
    *free = settings().memory_bytes - memory_used();
    return CUDA_SUCCESS;
}

CUDA_API cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    EMULATOR_ENTER();
    if (CUresult refused = refuse_during_capture()) return refused;
    if (!pointer || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    const size_t rounded = round_up(bytes, page_size());
    void* made = mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    memset(made, POISON, bytes);
    pinned[reinterpret_cast<uintptr_t>(made)] = bytes;
    *pointer = made;
    return CUDA_SUCCESS;
}

CUDA_API cuMemAllocHost_v2(void** pointer, size_t bytes) { return cuMemHostAlloc(pointer, bytes, 0); }

// Does not wait for pending work, because CUDA's documentation does not say that it does.
CUDA_API cuMemFreeHost(void* pointer) {
    EMULATOR_ENTER();
    if (CUresult refused = refuse_during_capture()) return refused;
    auto found = pinned.find(reinterpret_cast<uintptr_t>(pointer));
    if (found == pinned.end()) return CUDA_ERROR_INVALID_VALUE;
    munmap(pointer, round_up(found->second, page_size()));
    pinned.erase(found);
    return CUDA_SUCCESS;
}

CUDA_API cuMemHostGetDevicePointer_v2(CUdeviceptr* device, void* pointer, unsigned) {
    EMULATOR_ENTER();
    if (!is_pinned(pointer, 1)) return CUDA_ERROR_INVALID_VALUE;
    *device = reinterpret_cast<CUdeviceptr>(pointer);
    return CUDA_SUCCESS;
}
