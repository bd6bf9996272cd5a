// The core without Python: prints a hash of all logits for each model, format and cache, and of what the sampler makes of
// random rows. The bits are the same in every scenario, with every number of threads and on every tier, and the hashes for
// every compiler, machine and set of instructions; tests/native/builds.py compares them.
//
//   gptwo_check [--tiers portable,avx2] [--threads 1,2,4] [--shapes odd,blocks] [--brief] [--no-fork] [--loop-cost]
//
// --brief leaves out scenarios, not hashes: for machines that are emulated.
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <cfenv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <thread>

#include "bandwidth.hpp"
#include "check_pool.hpp"
#include "check_sampler.hpp"
#include "errors.hpp"
#include "scenarios.hpp"
#include "tiers.hpp"

namespace gptwo {

extern const Kernels kAvx512Emulated, kAvx512VnniEmulated;

namespace {

struct Options {
    std::vector<std::string> tiers, shapes;
    std::vector<int> threads{1, 2, 4};
    bool fork = true, brief = false;
};

bool wanted(const std::vector<std::string>& list, const std::string& name) {
    if (list.empty()) return true;
    for (const std::string& item : list)
        if (item == name) return true;
    return false;
}

std::vector<const Kernels*> tiers_to_check(const Options& options) {
    std::vector<const Kernels*> all = available_tiers(), chosen;
    all.push_back(&kAvx512Emulated);
    all.push_back(&kAvx512VnniEmulated);
    for (const Kernels* tier : all)
        if (wanted(options.tiers, tier->name)) chosen.push_back(tier);
    require(!chosen.empty(), "none of the tiers that were named is on this machine");
    return chosen;
}

const char* name_of(Format format) {
    switch (format) {
        case Format::f32: return "f32";
        case Format::bf16: return "bf16";
        case Format::int8: return "int8";
        case Format::int4: return "int4";
    }
    return "";
}

// What a program around the core may have done to its thread's floating-point settings must not show.
Logits with_hostile_settings(Model& model, const std::vector<Text>& texts) {
    std::fesetround(FE_UPWARD);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040);  // flush subnormal results to zero, and take subnormal inputs for zero
#endif
    Logits logits = alone(model, texts);
    require(std::fegetround() == FE_UPWARD, "the core leaves other floating-point settings than it found");
    std::fesetenv(FE_DFL_ENV);
    return logits;
}

void check_model(const Shape& shape, Format format, bool bf16_cache, const Options& options,
                 const std::vector<const Kernels*>& tiers) {
    const std::vector<Text> texts = random_texts(shape);
    const std::string label = std::string(shape.name) + " " + name_of(format) + (bf16_cache ? " bf16-cache" : " f32-cache");
    Logits expected;
    for (const Kernels* tier : tiers)
        for (int threads : options.threads) {
            auto model = random_model(shape, format, bf16_cache, *tier, threads);
            const std::string where = label + ", " + tier->name + ", " + std::to_string(threads) + " threads: ";
            const Logits logits = alone(*model, texts);
            if (expected.empty()) {
                expected = logits;
                double sum = 0.0, squares = 0.0;
                for (float x : logits) sum += x, squares += double(x) * x;
                const double mean = sum / double(logits.size());
                require(squares / double(logits.size()) - mean * mean > 1e-3, where + "the logits hardly differ");
            }
            auto hold = [&](const Logits& got, const char* what) {
                require(same_bits(got, expected), where + what + " has other bits");
            };
            hold(logits, "a text alone");
            hold(in_one_batch(*model, texts), "a text in a batch");
            hold(in_random_chunks(*model, texts, 11), "a text in chunks");
            hold(from_forks(*model, texts, 13), "a text after a fork");
            if (options.brief) continue;
            hold(in_random_chunks(*model, texts, 12), "a text in other chunks");
            hold(after_truncation(*model, texts), "a text after a truncation");
            if (threads == options.threads.front()) {
                hold(token_by_token(*model, texts), "a text token by token");
                hold(with_hostile_settings(*model, texts), "a text under other floating-point settings");
                some_rows(*model, texts, expected);
            }
            mistakes(*model, texts, expected);
            require(model->blocks_in_use() == 0, where + "the cache is not empty at the end");
        }
    std::printf("%-9s %-5s %-11s %016llx\n", shape.name, name_of(format), bf16_cache ? "bf16-cache" : "f32-cache",
                static_cast<unsigned long long>(hash_of(expected)));
    std::fflush(stdout);
}

// Two models, and one model, called by several threads at once.
void check_callers(const Kernels& tier) {
    const Shape& shape = shapes()[0];
    const std::vector<Text> texts = random_texts(shape);
    auto one = random_model(shape, Format::f32, false, tier, 2), other = random_model(shape, Format::int8, true, tier, 3);
    const Logits expected_one = alone(*one, texts), expected_other = alone(*other, texts);
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i)
        callers.emplace_back([&, i] {
            try {
                for (int round = 0; round < 3; ++round) {
                    Model& model = i % 2 ? *other : *one;
                    const Logits& expected = i % 2 ? expected_other : expected_one;
                    if (!same_bits(in_random_chunks(model, texts, uint64_t(i * 10 + round)), expected)) wrong.fetch_add(1);
                    if (!same_bits(from_forks(model, texts, uint64_t(i * 10 + round)), expected)) wrong.fetch_add(1);
                }
            } catch (const std::exception&) {
                wrong.fetch_add(1);
            }
        });
    for (std::thread& caller : callers) caller.join();
    require(wrong.load() == 0, "threads that call models at once disturb one another");
}

// A child process runs the model on threads of its own, also when the fork came in the middle of another thread's step.
void check_fork(const Kernels& tier) {
    const Shape& shape = shapes()[0];
    const std::vector<Text> texts = random_texts(shape);
    auto model = random_model(shape, Format::int8, false, tier, 3);
    const Logits expected = alone(*model, texts);
    for (bool busy : {false, true}) {
        std::atomic<bool> stop{false};
        std::thread other;
        if (busy)
            other = std::thread([&] {
                while (!stop.load()) in_random_chunks(*model, texts, 1);
            });
        for (int round = 0; round < (busy ? 20 : 3); ++round) {
            const pid_t child = fork();
            require(child >= 0, "fork failed");
            if (child == 0) {
                alarm(120);  // a child that hangs fails
                _exit(same_bits(in_one_batch(*model, texts), expected) && same_bits(alone(*model, texts), expected) ? 0 : 1);
            }
            int status = -1;
            require(waitpid(child, &status, 0) == child && status == 0, "a forked process has other bits, or crashed");
        }
        stop.store(true);
        if (busy) other.join();
        require(same_bits(alone(*model, texts), expected), "after a fork the parent has other bits");
    }
}

std::vector<std::string> split(const char* list) {
    std::vector<std::string> items;
    std::istringstream stream(list);
    for (std::string item; std::getline(stream, item, ',');) items.push_back(item);
    return items;
}

int run(int count, char** words) {
    Options options;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        const char* value = i + 1 < count ? words[i + 1] : "";
        if (word == "--loop-cost") return print_loop_cost(), 0;
        if (word == "--no-fork" || word == "--brief") {
            (word == "--brief" ? options.brief : options.fork) = word == "--brief";
            continue;
        }
        ++i;
        if (word == "--tiers") options.tiers = split(value);
        else if (word == "--shapes") options.shapes = split(value);
        else if (word == "--threads") {
            options.threads.clear();
            for (const std::string& item : split(value)) options.threads.push_back(std::atoi(item.c_str()));
        } else throw Failure("unknown option " + word);
    }
    const std::vector<const Kernels*> tiers = tiers_to_check(options);
    std::fprintf(stderr, "tiers:");
    for (const Kernels* tier : tiers) std::fprintf(stderr, " %s", tier->name);
    std::fprintf(stderr, "\n");
    for (const Shape& shape : shapes())
        if (wanted(options.shapes, shape.name))
            for (Format format : {Format::f32, Format::bf16, Format::int8, Format::int4})
                for (bool bf16_cache : {false, true}) check_model(shape, format, bf16_cache, options, tiers);
    for (int threads : {1, 2, 4, 16}) check_pool(threads);
    check_two_pools();
    check_sampler();
    require(read_bandwidth(size_t(1) << 23, 2, 0.0) > 0.0, "memory cannot be read");
    check_callers(*tiers.front());
    if (options.fork) check_fork(*tiers.front());
    std::fprintf(stderr, "all the same\n");
    return 0;
}

}  // namespace
}  // namespace gptwo

int main(int count, char** words) {
    try {
        return gptwo::run(count, words);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "FAILED: %s\n", error.what());
        return 1;
    }
}
