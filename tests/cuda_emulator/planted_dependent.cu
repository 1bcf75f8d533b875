// Kernels for the emulator's own tests: dependent kernels that wait for the previous kernel too late, or not at all.
#include "async.cuh"

// Unlike kernels/, these kernels take plain arguments instead of one parameter struct, and wait where they say.
#undef KERNEL
#define KERNEL(name) extern "C" __global__ void KERNEL_NAME(name)

// What a variant does instead of waiting first in every thread.
enum Way : u32 {
    RIGHT,
    WITHOUT,
    ONE_WARP,
    READS_FIRST,
    WRITES_FIRST,
    COUNTS_FIRST,
    COPIES_FIRST,
    SHARED_FIRST,
    EXPLICIT
};

// values[i] += 1 for 256 values. READS_FIRST and the next three access global memory before they wait. Shared memory may
// be used before.
KERNEL(planted_wait)(float* values, u32 way) {
    DYNAMIC_SHARED(float, cells);
    const u32 i = threadIdx.x;
    float value = 0.0f;
    if (way == READS_FIRST) value = values[i];
    if (way == WRITES_FIRST && i == 0) values[256] = 1.0f;
    if (way == COUNTS_FIRST) atomicAdd(reinterpret_cast<u32*>(values + 256), 1u);
    if (way == COPIES_FIRST && i == 0) {
        copy_async<16>(shared_address(cells), values, true);
        commit_copies();
    }
    if (way == SHARED_FIRST) cells[i] = 1.0f;
    if (way != WITHOUT && (way != ONE_WARP || i < WARP)) wait_for_previous_kernel();
    if (way == COPIES_FIRST && i == 0) wait_copies<0>();
    if (way != READS_FIRST) value = values[i];
    values[i] = value + 1.0f;
}
