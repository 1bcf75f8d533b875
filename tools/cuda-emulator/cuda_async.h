// The instructions on shared memory that kernels/async.cuh and kernels/wgmma.cuh use, with 32-bit addresses.
#pragma once

#include <cstdint>

#include "number.h"

// The last parameters of functions that report errors with the line that calls them.
#define EMULATOR_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

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

// wgmma: one thread's operands. Those in shared memory are given by descriptors; `a_registers` is null if the left one
// is. The thread has cols / 2 accumulators.
struct WgmmaCall {
    Number number;
    bool left_major_lines, right_major_lines;
    unsigned cols;
    float* d;
    const unsigned* a_registers;
    uint64_t a, b;
};
void emulator_wgmma(const WgmmaCall& call, const char* file, int line);
void emulator_wgmma_fence(const char* file, int line);
void emulator_wgmma_commit(const char* file, int line);
void emulator_wgmma_wait(unsigned pending, const char* file, int line);
void emulator_fence_async_proxy();
