// The floating-point settings of a thread, which decide bits: rounding to nearest even, subnormal numbers kept.
//
// They belong to whoever calls, and other libraries change them: one linked with -ffast-math, or
// torch.set_flush_denormal, makes a thread flush subnormal numbers to zero, and new threads inherit it.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace gptwo {

class StandardFloats {  // for its lifetime; then what was there before
  public:
    StandardFloats() : before_(get()) {
        if (before_ != kStandard) set(kStandard);
    }
    ~StandardFloats() {
        if (before_ != kStandard) set(before_);
    }
    StandardFloats(const StandardFloats&) = delete;
    StandardFloats& operator=(const StandardFloats&) = delete;

  private:
#if defined(__x86_64__)
    using Settings = unsigned;
    static constexpr Settings kStandard = 0x1f80;  // all exceptions masked, no flag raised
    static Settings get() { return _mm_getcsr(); }
    static void set(Settings settings) { _mm_setcsr(settings); }
#elif defined(__aarch64__)
    using Settings = uint64_t;
    static constexpr Settings kStandard = 0;
    static Settings get() {
        Settings settings;
        asm volatile("mrs %0, fpcr" : "=r"(settings));
        return settings;
    }
    static void set(Settings settings) { asm volatile("msr fpcr, %0" : : "r"(settings)); }
#else
    using Settings = int;
    static constexpr Settings kStandard = 0;
    static Settings get() { return kStandard; }
    static void set(Settings) {}
#endif
    Settings before_;
};

}  // namespace gptwo
