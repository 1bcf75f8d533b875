// The report of a data race: both accesses and their locations in the kernels' sources.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>

#include "cuda_device.h"
#include "emulator.h"
#include "races.h"

namespace emulator {
namespace races {
namespace {

// The source location of a program counter by addr2line, innermost first, such as "reduce.cuh:88 in pool.cu:12";
// without addr2line only its offset in the library.
std::string source(const void* pc) {
    Dl_info info;
    if (!pc || !dladdr(pc, &info) || !info.dli_fname) return "";
    // A return address belongs to the call before it.
    const size_t distance = static_cast<size_t>(static_cast<const char*>(pc) - 1 - static_cast<char*>(info.dli_fbase));
    char text[512];
    snprintf(text, sizeof text, "addr2line -s -i -e '%s' 0x%zx 2>/dev/null", info.dli_fname, distance);
    std::string lines;
    if (FILE* output = popen(text, "r")) {
        while (fgets(text, sizeof text, output)) {
            text[strcspn(text, " \n")] = 0;
            if (text[0] == '?' || strstr(text, ".cpp:")) break;  // The remaining lines are in the emulator.
            lines += (lines.empty() ? "" : " in ") + std::string(text);
        }
        pclose(output);
    }
    snprintf(text, sizeof text, "0x%zx in the code", distance);
    return lines.empty() ? text : lines;
}

std::string triple(unsigned number, const uint3& size) {
    return "(" + std::to_string(number % size.x) + ", " + std::to_string(number / size.x % size.y) + ", " +
           std::to_string(number / size.x / size.y) + ")";
}

std::string name(const Mark& who) {
    const std::string thread = "thread " + triple(who.thread_index, blockDim);
    const char* others = who.kind == Mark::thread ? ""
                         : who.kind == Mark::warp ? " (or another thread of its warp)"
                                                  : " (or another thread)";
    return thread + others + " of block " + triple(who.block_index, gridDim);
}

std::string memory(uintptr_t address, bool shared) {
    const Allocation* allocation = shared ? nullptr : find_allocation(address);
    if (!allocation) return "shared memory";
    return "byte " + std::to_string(address - allocation->start) + " of allocation #" + std::to_string(allocation->id);
}

}  // namespace

std::string line_of(const void* pc) {
    const std::string lines = source(pc);
    return lines.empty() ? lines : " (" + lines + ")";
}

void report(uintptr_t address, bool shared, Access now, Access earlier, const Mark& who) {
    static const char* const does[] = {"reads", "writes", "changes by an atomic"};
    static const char* const did[] = {"read", "wrote", "changed by an atomic"};
    fail_running(CUDA_ERROR_LAUNCH_FAILED, "a race in " + memory(address, shared) + ": it " + does[now.kind] +
                                               line_of(now.pc) + " what " + name(who) + " " + did[earlier.kind] +
                                               line_of(earlier.pc) + " without synchronisation");
}

}  // namespace races
}  // namespace emulator
