// A launch as a program requests it, by any of the driver's calls.
#pragma once

#include "emulator.h"

namespace emulator {

struct LaunchRequest {
    CUfunction function;
    unsigned grid[3], block[3];
    unsigned shared_bytes;
    CUstream stream;
    void **parameters, **extra;
    bool dependent;  // It may be scheduled before the previous kernel of the stream has completed.
};
CUresult launch(const LaunchRequest& request);

}  // namespace emulator
