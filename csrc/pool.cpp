#include "pool.hpp"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <chrono>
#include <system_error>
#include <utility>

#include "floats.hpp"

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

int cpus() {  // that this process may use
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return int(std::thread::hardware_concurrency());
}

// Waits for what should come soon: at first without a pause for anybody else, then giving way to whoever wants the CPU.
// False when it did not come within `kPatience`; then it is time to sleep.
template <typename Ready>
bool comes_soon(bool spin, const Ready& ready) {
    using Clock = std::chrono::steady_clock;
    constexpr auto kSpin = std::chrono::microseconds(20), kPatience = std::chrono::microseconds(200);
    if (ready()) return true;
    if (!spin) return false;
    const auto start = Clock::now();
    for (auto now = start; now - start < kPatience; now = Clock::now()) {
        if (now - start > kSpin) std::this_thread::yield();
        for (int i = 0; i < 16; ++i) {
            if (ready()) return true;
            pause();
        }
    }
    return false;
}

// Threads that start in its scope get no signals: those are for the threads of the program around the core, and one
// that waits for input would not notice a signal that a worker has taken. Faults stay where they happen.
class SignalsBlocked {
  public:
    SignalsBlocked() {
        sigset_t all;
        sigfillset(&all);
        for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) sigdelset(&all, fault);
        pthread_sigmask(SIG_BLOCK, &all, &before_);
    }
    ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_;
};

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
    std::atomic<bool> caller_sleeps{false}, stop{false};
    bool spin = true;
    std::mutex mutex;
    std::condition_variable wake, all_done;
    std::exception_ptr error;  // under the mutex; the caller reads it when all is done
    std::vector<std::thread> workers;

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
                std::lock_guard<std::mutex> lock(mutex);
                if (!error) error = std::current_exception();
            }
            if (done.fetch_add(last - first, std::memory_order_seq_cst) + last - first == all &&
                caller_sleeps.load(std::memory_order_seq_cst)) {
                { std::lock_guard<std::mutex> lock(mutex); }
                all_done.notify_one();
            }
            seen = ticket.load(std::memory_order_acquire);
        }
    }

    void wake_workers(int wanted) {
        { std::lock_guard<std::mutex> lock(mutex); }
        if (wanted >= int(workers.size())) return wake.notify_all();
        for (int i = 0; i < wanted; ++i) wake.notify_one();
    }

    void wait_until_done(int all) {
        if (comes_soon(spin, [&] { return done.load(std::memory_order_acquire) >= all; })) return;
        std::unique_lock<std::mutex> lock(mutex);
        caller_sleeps.store(true, std::memory_order_seq_cst);
        all_done.wait(lock, [&] { return done.load(std::memory_order_seq_cst) >= all; });
        caller_sleeps.store(false, std::memory_order_relaxed);
    }
};

Pool::Pool(int threads) : threads_(threads < 1 ? 1 : threads), generation_(fork_generation()) { start(); }

void Pool::start() {
    shared_ = std::make_unique<Shared>();
    shared_->spin = threads_ <= cpus();
    if (threads_ == 1) return;
    SignalsBlocked blocked;
    shared_->workers.reserve(size_t(threads_) - 1);
    try {
        for (int i = 1; i < threads_; ++i) shared_->workers.emplace_back([s = shared_.get()] { work(*s); });
    } catch (const std::exception&) {
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

// The workers stayed behind in the parent.
void Pool::renew_after_fork() {
    (void)shared_.release();
    generation_ = fork_generation();
    start();
}

void Pool::work(Shared& shared) {
    const StandardFloats floats;
    uint32_t finished = 0;
    for (;;) {
        const bool soon = comes_soon(shared.spin, [&] {
            return uint32_t(shared.ticket.load(std::memory_order_acquire) >> 32) != finished;
        });
        if (!soon) {
            std::unique_lock<std::mutex> lock(shared.mutex);
            shared.sleeping.fetch_add(1);
            shared.wake.wait(lock, [&] { return shared.stop.load() || uint32_t(shared.ticket.load() >> 32) != finished; });
            shared.sleeping.fetch_sub(1);
            if (shared.stop.load()) return;
        }
        finished = shared.help();
    }
}

void Pool::run_erased(int count, int grain, Call call, const void* body) {
    if (count <= 0) return;
    if (generation_ != fork_generation()) renew_after_fork();
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
    const int pieces = (count - 1) / grain + 1, asleep = s.sleeping.load(std::memory_order_seq_cst);
    if (asleep > 0) s.wake_workers(asleep < pieces - 1 ? asleep : pieces - 1);
    s.help();
    s.wait_until_done(count);
    if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
}

}  // namespace gptwo
