// The emulated machine's settings, read from environment variables.
#include <cstdlib>
#include <cstring>

#include "emulator.h"

namespace emulator {
namespace {

long number(const char* name, long fallback) {
    const char* text = getenv(name);
    return text && *text ? strtol(text, nullptr, 10) : fallback;
}

// "9.0" becomes 90.
int capability() {
    const char* text = getenv("CUDA_EMULATOR_CC");
    if (!text || !*text) return 90;
    char* rest = nullptr;
    const long major = strtol(text, &rest, 10);
    return static_cast<int>(major * 10 + (*rest == '.' ? strtol(rest + 1, nullptr, 10) : 0));
}

bool is(const char* name, const char* value) {
    const char* text = getenv(name);
    return text && strcmp(text, value) == 0;
}

}  // namespace

const Settings& settings() {
    static const Settings read = {
        static_cast<int>(number("CUDA_EMULATOR_DEVICES", 1)),
        static_cast<int>(number("CUDA_EMULATOR_DRIVER", 13000)),
        capability(),
        static_cast<size_t>(number("CUDA_EMULATOR_MEMORY_MB", 2048)) << 20,
        static_cast<size_t>(number("CUDA_EMULATOR_GRAPH_NODES", 1 << 20)),
        static_cast<uint64_t>(number("CUDA_EMULATOR_GRAPH_LAUNCH_NS", 0)),
        is("CUDA_LAUNCH_BLOCKING", "1"),
        is("CUDA_EMULATOR_ORDER", "reverse"),
        is("CUDA_EMULATOR_COPIES", "early"),
        is("CUDA_EMULATOR_PRODUCTS", "early"),
    };
    return read;
}

int largest_shared() {
    const int capability = settings().capability;
    int kilobytes = 227;
    if (capability < 80) {
        kilobytes = 64;
    } else if (capability == 80 || capability == 87) {
        kilobytes = 163;
    } else if (capability < 90 || capability >= 120) {
        kilobytes = 99;
    }
    return kilobytes * 1024;
}

}  // namespace emulator
