// Threads that share out the items of a loop.
//
// run(count, grain, body) calls body(first, last) for pieces of [0, count), on the caller's thread and the workers', and
// returns when all are done. Which thread takes which piece is left to chance, so pieces must write to separate places
// and never add to each other: then the result does not depend on the threads.
//
// Workers spin for a moment after each loop, since the next one follows within microseconds while a step runs, and then
// sleep. The caller never waits for a worker that has not taken a piece: one that the system has put aside costs nothing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace gptwo {

class Pool {
  public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }
    // One caller at a time. If `body` throws, on whichever thread, the other pieces still run, and the first of what was
    // thrown comes out of here.
    template <typename Body>
    void run(int count, int grain, const Body& body) {
        run_erased(count, grain, [](const void* b, int first, int last) { (*static_cast<const Body*>(b))(first, last); },
                   &body);
    }
    // Call before the first run of a step: after a fork of the process the workers are gone, and new ones are started.
    void wake_after_fork();

  private:
    using Call = void (*)(const void*, int, int);
    struct Shared;
    void run_erased(int count, int grain, Call call, const void* body);
    void start();
    static void work(Shared& shared);

    int threads_;
    long generation_;  // of processes: how many forks lie behind
    std::unique_ptr<Shared> shared_;
};

// How many forks lie behind this process; for what else must be made anew after one.
long fork_generation();

}  // namespace gptwo
