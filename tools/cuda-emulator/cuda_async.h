// The instructions on shared memory that kernels/async.cuh and kernels/wgmma.cuh use, with 32-bit addresses.
#pragma once

#include <cstdint>

unsigned emulator_shared_address(const void* pointer);
unsigned emulator_load_shared(unsigned from, const char* file, int line);
void emulator_store_shared(unsigned to, unsigned value, const char* file, int line);

// cp.async: `present` bytes are copied, the others are zeros.
void emulator_copy_async(unsigned to, const void* from, unsigned bytes, unsigned present, const char* file, int line);
void emulator_commit_copies();
void emulator_wait_copies(unsigned pending);

// ldmatrix.x4: one lane's operands.
struct MatricesCall {
    unsigned* to;
    unsigned from;
    bool transposed;
    const char* file;
    int line;
    const void* pc;
};
void emulator_load_matrices(unsigned (&to)[4], unsigned from, bool transposed, const char* file, int line);

void emulator_fence_async_proxy();
