#include "weights.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "errors.hpp"

namespace gptwo {

namespace {

uint16_t to_bf16(float value) {  // half to even; the value is finite
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float from_bf16(uint16_t value) {
    uint32_t bits = uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

float from_half(uint16_t value) {
    uint32_t shifted = uint32_t(value & 0x7fff) << 13;
    float result;
    std::memcpy(&result, &shifted, 4);
    result *= 0x1p112f;
    return value & 0x8000 ? -result : result;
}

uint16_t to_half(float value) {  // half to even; what is too large was refused before
    const uint16_t sign = value < 0 ? 0x8000 : 0;
    value = std::fabs(value);
    if (value < 0x1p-14f) return uint16_t(sign | uint16_t(std::nearbyint(value * 0x1p24f)));
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits += 0xfff + ((bits >> 13) & 1);
    return uint16_t(sign | ((bits >> 13) - (112u << 10)));
}

// `count` weights of one output, `lane` its place in the panel.
void pack_int8(const float* w, int lane, uint8_t* block) {
    float peak = 0.0f;
    for (int k = 0; k < kInt8Block; ++k) peak = std::fmax(peak, std::fabs(w[k]));
    float scale = peak / kInt8Weight;
    const float inverse = peak < 1e-30f ? 0.0f : kInt8Weight / peak;
    if (peak < 1e-30f) scale = 0.0f;
    std::memcpy(block + 4 * lane, &scale, 4);
    for (int k = 0; k < kInt8Block; ++k)
        block[64 + (k / kGroup) * 64 + lane * kGroup + k % kGroup] = uint8_t(int(std::nearbyint(w[k] * inverse)) + kInt8Weight);
}

int nearest_int4(float x) {
    int value = int(std::nearbyint(x));
    return value < -8 ? -8 : value > 7 ? 7 : value;
}

// The scale that leaves the least squared error among a few: the number of largest magnitude as -8, or somewhat
// smaller, so that the many near zero are finer at the price of the one that is cut off.
float int4_scale(const float* w) {
    float peak = 0.0f;
    for (int k = 0; k < kInt4Block; ++k)
        if (std::fabs(w[k]) > std::fabs(peak)) peak = w[k];
    if (std::fabs(peak) < 1e-6f) return 0.0f;  // a half's smallest steps could not hold it
    float best = 0.0f, least = INFINITY;
    for (float steps : {-8.0f, -8.6f, -9.2f, -7.5f, 7.0f}) {
        const float scale = from_half(to_half(peak / steps));
        if (scale == 0.0f) continue;
        const float inverse = 1.0f / scale;
        float error = 0.0f;
        for (int k = 0; k < kInt4Block; ++k) {
            const float d = w[k] - scale * float(nearest_int4(w[k] * inverse));
            error += d * d;
        }
        if (error < least) least = error, best = scale;
    }
    return best;
}

void pack_int4(const float* w, int lane, uint8_t* block) {
    const float scale = int4_scale(w);
    const uint16_t half = to_half(scale);
    std::memcpy(block + 2 * lane, &half, 2);
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    for (int k = 0; k < kInt4Block; ++k) {
        const int group = k / kGroup, value = nearest_int4(w[k] * inverse) + 8;
        uint8_t& byte = block[32 + (group % 4) * 64 + lane * kGroup + k % kGroup];
        byte = uint8_t(group < 4 ? (byte & 0xf0) | value : (byte & 0x0f) | (value << 4));
    }
}

size_t block_bytes(Format format) {
    return format == Format::int8 ? 64 + kInt8Block * kLanes : 32 + kInt4Block * kLanes / 2;
}

}  // namespace

int block_size(Format format) { return format == Format::int8 ? kInt8Block : format == Format::int4 ? kInt4Block : 0; }

PackedMatrix::PackedMatrix(Format format, int inputs, int outputs, const float* source, ptrdiff_t input_stride,
                           ptrdiff_t output_stride, const float* fold, Pool& pool) {
    const int block = block_size(format);
    const int panels = (outputs + kLanes - 1) / kLanes, blocks = block ? (inputs + block - 1) / block : 0;
    const size_t panel_bytes = block ? blocks * block_bytes(format)
                                     : size_t(inputs) * kLanes * (format == Format::f32 ? 4 : 2);
    bytes_ = Buffer<uint8_t>(panels * panel_bytes);
    matrix_ = {bytes_.data(), panel_bytes, inputs, outputs, panels, blocks, format};

    std::atomic<bool> finite{true}, fits{true};
    pool.run(panels, 4, [&](int first, int last) {
        std::vector<float> rows(size_t(kLanes) * size_t(round_up(inputs, kPad)));  // one output after another
        const size_t stride = size_t(round_up(inputs, kPad));
        for (int panel = first; panel < last; ++panel) {
            std::fill(rows.begin(), rows.end(), 0.0f);
            float check = 0.0f;  // stays zero while all is finite
            float peak = 0.0f;
            const int lanes = outputs - panel * kLanes < kLanes ? outputs - panel * kLanes : kLanes;
            const float* start = source + ptrdiff_t(panel) * kLanes * output_stride;
            for (int k = 0; k < inputs; ++k) {
                const float factor = fold ? fold[k] : 1.0f;
                for (int lane = 0; lane < lanes; ++lane) {
                    const float value = start[k * input_stride + lane * output_stride] * factor;
                    check += value * 0.0f;
                    peak = std::fmax(peak, std::fabs(value));
                    rows[lane * stride + k] = value;
                }
            }
            if (!(check == 0.0f)) finite.store(false);
            if (format == Format::int4 && peak > 7.0f * 65504.0f) fits.store(false);
            uint8_t* out = bytes_.data() + panel * panel_bytes;
            for (int lane = 0; lane < kLanes; ++lane) {
                const float* w = rows.data() + lane * stride;
                if (format == Format::f32)
                    for (int k = 0; k < inputs; ++k) std::memcpy(out + (size_t(k) * kLanes + lane) * 4, w + k, 4);
                if (format == Format::bf16)
                    for (int k = 0; k < inputs; ++k) {
                        const uint16_t value = to_bf16(w[k]);
                        std::memcpy(out + (size_t(k) * kLanes + lane) * 2, &value, 2);
                    }
                for (int b = 0; b < blocks; ++b) {
                    if (format == Format::int8) pack_int8(w + b * block, lane, out + b * block_bytes(format));
                    if (format == Format::int4) pack_int4(w + b * block, lane, out + b * block_bytes(format));
                }
            }
        }
    });
    if (!finite.load()) throw NumericalError("it holds NaN or infinite values");
    if (!fits.load()) throw NumericalError("it holds values too large for int4's half-precision scales; use int8");
}

void PackedMatrix::output_row(int output, float* row) const {
    const uint8_t* panel = matrix_.data + size_t(output / kLanes) * matrix_.panel_bytes;
    const int lane = output % kLanes;
    for (int k = 0; k < matrix_.inputs; ++k) {
        const int block = block_size(matrix_.format);
        const uint8_t* at = block ? panel + (k / block) * block_bytes(matrix_.format) : nullptr;
        const int within = block ? k % block : 0, group = within / kGroup, place = lane * kGroup + within % kGroup;
        switch (matrix_.format) {
            case Format::f32: std::memcpy(row + k, panel + (size_t(k) * kLanes + lane) * 4, 4); break;
            case Format::bf16: {
                uint16_t value;
                std::memcpy(&value, panel + (size_t(k) * kLanes + lane) * 2, 2);
                row[k] = from_bf16(value);
                break;
            }
            case Format::int8: {
                float scale;
                std::memcpy(&scale, at + 4 * lane, 4);
                row[k] = scale * float(int(at[64 + group * 64 + place]) - kInt8Weight);
                break;
            }
            case Format::int4: {
                uint16_t scale;
                std::memcpy(&scale, at + 2 * lane, 2);
                const uint8_t byte = at[32 + (group % 4) * 64 + place];
                row[k] = from_half(scale) * float(int(group < 4 ? byte & 15 : byte >> 4) - 8);
                break;
            }
        }
    }
}

}  // namespace gptwo
