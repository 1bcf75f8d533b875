// Fibers: stacks of their own, switched by hand, so that a device thread can stop at a barrier.
#pragma once

#include <cstddef>

namespace emulator {

class Fiber {
public:
    explicit Fiber(void (*entry)());
    // Runs the fiber until it calls `leave`. Only from outside any fiber.
    void enter();
    // Returns to whoever entered the running fiber.
    static void leave();

    unsigned thread = 0;   // The device thread it is in the middle of.
    bool waiting = false;  // It left at a barrier or shuffle; otherwise it is free.
    bool released = false;

private:
    void* position_ = nullptr;
};

}  // namespace emulator
