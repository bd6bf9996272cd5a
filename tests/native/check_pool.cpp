// The thread pool: every item once, exceptions come to the caller, more threads than CPUs, two callers of two pools.
#include "check_pool.hpp"

#include <chrono>
#include <cstdio>
#include <new>
#include <thread>

#include "scenarios.hpp"

namespace gptwo {

namespace {

void every_item_is_taken_once(Pool& pool) {
    Draw draw(3);
    for (int round = 0; round < 300; ++round) {
        const int count = draw.below(200), grain = 1 + draw.below(20);
        std::vector<int> taken(size_t(count), 0);
        pool.run(count, grain, [&](int first, int last) {
            for (int i = first; i < last; ++i) ++taken[size_t(i)];
        });
        for (int times : taken) require(times == 1, "a loop's item was not worked on exactly once");
    }
}

void exceptions_come_to_the_caller(Pool& pool) {
    for (int round = 0; round < 60; ++round) {
        for (int bad : {0, 13, 39}) {
            bool caught = false;
            try {
                pool.run(40, 1, [&](int first, int last) {
                    if (first <= bad && bad < last) throw std::bad_alloc();
                });
            } catch (const std::bad_alloc&) {
                caught = true;
            }
            require(caught, "an exception in a loop did not come to the caller");
        }
        std::atomic<int> failures{0};
        try {
            pool.run(40, 1, [&](int, int) {
                failures.fetch_add(1);
                throw std::runtime_error("each of many");
            });
        } catch (const std::runtime_error&) {
            require(failures.load() > 0, "an exception came from nowhere");
        }
        std::atomic<int> done{0};
        pool.run(40, 3, [&](int first, int last) { done.fetch_add(last - first); });
        require(done.load() == 40, "a loop after one that failed was not finished");
    }
}

}  // namespace

void check_pool(int threads) {
    Pool pool(threads);
    every_item_is_taken_once(pool);
    exceptions_come_to_the_caller(pool);
    // Sleep long enough for the workers to sleep too, so that they have to be woken.
    for (int round = 0; round < 5; ++round) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        every_item_is_taken_once(pool);
    }
    for (int round = 0; round < 20; ++round) Pool(threads).run(8, 1, [](int, int) {});
}

void check_two_pools() {
    std::vector<std::thread> callers;
    std::atomic<int> failed{0};
    for (int i = 0; i < 2; ++i)
        callers.emplace_back([&] {
            try {
                check_pool(3);
            } catch (const Failure&) {
                failed.fetch_add(1);
            }
        });
    for (std::thread& caller : callers) caller.join();
    require(failed.load() == 0, "two threads with a pool each disturb one another");
}

void print_loop_cost() {
    using Clock = std::chrono::steady_clock;
    for (int threads : {1, 2, 4}) {
        Pool pool(threads);
        std::vector<double> best(2, 1e9);
        for (int round = 0; round < 200; ++round)
            for (int kind = 0; kind < 2; ++kind) {  // nothing to do, and about 20 microseconds of work for each thread
                const int loops = kind ? 20 : 200;
                const auto start = Clock::now();
                for (int i = 0; i < loops; ++i)
                    pool.run(2 * threads, 1, [&](int first, int last) {
                        for (volatile int k = 0; kind && k < 20000 * (last - first);) k = k + 1;
                    });
                const double each = std::chrono::duration<double, std::micro>(Clock::now() - start).count() / loops;
                if (each < best[size_t(kind)]) best[size_t(kind)] = each;
            }
        std::printf("%d threads: an empty loop %.2f us, one with work %.2f us\n", threads, best[0], best[1]);
    }
}

}  // namespace gptwo
