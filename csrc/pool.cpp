#include "pool.hpp"

#include <pthread.h>

#include <system_error>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gptwo {

namespace {

std::atomic<long> g_generation{0};

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

constexpr int kSpins = 4000;  // some tens of microseconds

}  // namespace

long fork_generation() {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { g_generation.fetch_add(1); });
    (void)registered;
    return g_generation.load();
}

struct Pool::Shared {
    // The number of the loop in the upper half, the next item in the lower: one exchange takes a piece of one loop, and
    // fails if that loop is over. The fields below belong to the loop; they change only when all its pieces are done.
    alignas(64) std::atomic<uint64_t> ticket{0};
    alignas(64) std::atomic<int> done{0};
    alignas(64) std::atomic<int> count{0};
    std::atomic<int> grain{1};
    std::atomic<Call> call{nullptr};
    std::atomic<const void*> body{nullptr};

    alignas(64) std::atomic<int> sleeping{0};
    std::atomic<bool> stop{false};
    std::mutex mutex;
    std::condition_variable wake;
    std::vector<std::thread> workers;

    std::atomic<bool> failed{false};
    std::exception_ptr failure;  // the first exception of a loop, under the mutex

    void keep(std::exception_ptr thrown) {
        std::lock_guard<std::mutex> lock(mutex);
        if (!failed.exchange(true)) failure = std::move(thrown);
    }

    // Works on the present loop until nothing of it is left; returns its number.
    uint32_t help() {
        uint64_t seen = ticket.load(std::memory_order_acquire);
        for (;;) {
            const int first = int(uint32_t(seen)), all = count.load(std::memory_order_acquire);
            const int step = grain.load(std::memory_order_acquire);
            if (first >= all) return uint32_t(seen >> 32);
            // These may be of a later loop than `seen`; then, for they were read with acquire, the exchange fails.
            const int last = all - first < step ? all : first + step;
            if (!ticket.compare_exchange_weak(seen, (seen & ~uint64_t(0xffffffff)) | uint32_t(last),
                                              std::memory_order_acq_rel, std::memory_order_acquire))
                continue;
            try {
                call.load(std::memory_order_relaxed)(body.load(std::memory_order_relaxed), first, last);
            } catch (...) {
                keep(std::current_exception());
            }
            done.fetch_add(last - first, std::memory_order_release);
            seen = ticket.load(std::memory_order_acquire);
        }
    }
};

Pool::Pool(int threads) : threads_(threads < 1 ? 1 : threads), generation_(fork_generation()) { start(); }

void Pool::start() {
    shared_ = std::make_unique<Shared>();
    try {
        for (int i = 1; i < threads_; ++i) shared_->workers.emplace_back([s = shared_.get()] { work(*s); });
    } catch (const std::system_error&) {
        // The system gives no more threads: those there are do the work.
    }
}

Pool::~Pool() {
    if (generation_ != fork_generation()) {
        (void)shared_.release();  // the threads in it are the parent's
        return;
    }
    {
        std::lock_guard<std::mutex> lock(shared_->mutex);
        shared_->stop.store(true);
    }
    shared_->wake.notify_all();
    for (auto& worker : shared_->workers) worker.join();
}

void Pool::wake_after_fork() {
    if (generation_ == fork_generation()) return;
    (void)shared_.release();
    generation_ = fork_generation();
    start();
}

void Pool::work(Shared& shared) {
    uint32_t finished = 0;
    for (;;) {
        int spins = 0;
        while (uint32_t(shared.ticket.load(std::memory_order_acquire) >> 32) == finished) {
            if (++spins < kSpins) {
                pause();
                continue;
            }
            std::unique_lock<std::mutex> lock(shared.mutex);
            shared.sleeping.fetch_add(1);
            shared.wake.wait(lock, [&] { return shared.stop.load() || uint32_t(shared.ticket.load() >> 32) != finished; });
            shared.sleeping.fetch_sub(1);
            if (shared.stop.load()) return;
            spins = 0;
        }
        finished = shared.help();
    }
}

void Pool::run_erased(int count, int grain, Call call, const void* body) {
    if (count <= 0) return;
    Shared& s = *shared_;
    if (s.workers.empty() || count <= grain) return call(body, 0, count);
    // First a loop number with nothing to take, so that no worker reads the fields while they change.
    const uint64_t number = (s.ticket.load(std::memory_order_relaxed) >> 32) + 1;
    s.ticket.store((number << 32) | 0x7fffffff, std::memory_order_seq_cst);
    s.done.store(0, std::memory_order_relaxed);
    s.count.store(count, std::memory_order_release);
    s.grain.store(grain, std::memory_order_release);
    s.call.store(call, std::memory_order_relaxed);
    s.body.store(body, std::memory_order_relaxed);
    s.ticket.store(((number + 1) & 0xffffffff) << 32, std::memory_order_seq_cst);
    if (s.sleeping.load(std::memory_order_seq_cst) > 0) {
        { std::lock_guard<std::mutex> lock(s.mutex); }
        s.wake.notify_all();
    }
    s.help();
    for (int spins = 0; s.done.load(std::memory_order_acquire) < count;) {
        if (++spins < kSpins)
            pause();
        else
            std::this_thread::yield();
    }
    if (s.failed.load(std::memory_order_relaxed)) {
        std::lock_guard<std::mutex> lock(s.mutex);
        s.failed.store(false);
        std::rethrow_exception(std::exchange(s.failure, nullptr));
    }
}

}  // namespace gptwo
