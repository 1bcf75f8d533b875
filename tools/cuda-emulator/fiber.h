// Fibers: threads of execution with their own stacks and cooperative switching, so that a device thread can wait at a
// barrier.
#pragma once

#include <cstddef>

namespace emulator {

class Fiber {
  public:
    explicit Fiber(void (*entry)());
    // Runs the fiber until it calls `leave`. Must be called from outside any fiber.
    void enter();
    // Returns from the `enter` call of the running fiber.
    static void leave();

    unsigned thread = 0;   // The device thread that it is running.
    bool waiting = false;  // True if it left at a barrier or shuffle; otherwise it is free for another thread.
    bool released = false;

  private:
    void* position_ = nullptr;
};

}  // namespace emulator
