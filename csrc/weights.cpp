#include "weights.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "conversions.hpp"
#include "errors.hpp"

namespace gptwo {

namespace {

uint16_t to_half(float value) {  // half to even; what is too large was refused before
    const uint16_t sign = value < 0 ? 0x8000 : 0;
    value = std::fabs(value);
    if (value < 0x1p-14f) return uint16_t(sign | uint16_t(std::nearbyint(value * 0x1p24f)));
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits += 0xfff + ((bits >> 13) & 1);
    return uint16_t(sign | ((bits >> 13) - (112u << 10)));
}

int32_t bits_of(float value) {
    int32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

// Half to even, for magnitudes below 2^22. Unlike nearbyint it is no call, so that loops run in registers.
float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }

// The largest magnitude as bits: for floats without their sign the order of the bits is that of the numbers, and what is
// not finite comes last.
constexpr int32_t kInfinity = 0x7f800000;

template <int count>
int32_t largest_bits(const float* w) {
    int32_t peak = 0;
    for (int k = 0; k < count; ++k) {
        const int32_t bits = bits_of(w[k]) & 0x7fffffff;
        peak = bits > peak ? bits : peak;
    }
    return peak;
}

template <int count>
float largest(const float* w) {
    const int32_t bits = largest_bits<count>(w);
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// One block of the weights of one output, `lane` its place in the panel.
void pack_int8(const float* w, int lane, uint8_t* block) {
    const float peak = largest<kInt8Block>(w);
    const float inverse = peak < 1e-30f ? 0.0f : kInt8Weight / peak, scale = peak < 1e-30f ? 0.0f : peak / kInt8Weight;
    std::memcpy(block + 4 * lane, &scale, 4);
    uint8_t q[kInt8Block];
    for (int k = 0; k < kInt8Block; ++k) q[k] = uint8_t(int32_t(nearest(w[k] * inverse)) + kInt8Weight);
    for (int group = 0; group < kInt8Block / kGroup; ++group)
        std::memcpy(block + 64 + group * 64 + lane * kGroup, q + group * kGroup, kGroup);
}

float nearest_int4(float x) {
    const float value = nearest(x);
    const float above = value < -8.0f ? -8.0f : value;
    return above > 7.0f ? 7.0f : above;
}

// The scale that leaves the least squared error among a few: the number of largest magnitude as -8, or somewhat
// smaller, so that the many near zero are finer at the price of the one that is cut off.
float int4_scale(const float* w) {
    float peak = largest<kInt4Block>(w);
    if (peak < 1e-6f) return 0.0f;  // a half's smallest steps could not hold it
    for (int k = 0; k < kInt4Block; ++k)
        if (std::fabs(w[k]) == peak) {
            peak = w[k];
            break;
        }
    float best = 0.0f, least = INFINITY;
    for (float steps : {-8.0f, -8.6f, -9.2f, -7.5f, 7.0f}) {
        const float scale = from_half(to_half(peak / steps));
        if (scale == 0.0f) continue;
        const float inverse = 1.0f / scale;
        float errors[8] = {};  // summed side by side, in an order that no compiler changes
        for (int k = 0; k < kInt4Block; k += 8)
            for (int i = 0; i < 8; ++i) {
                const float d = w[k + i] - scale * nearest_int4(w[k + i] * inverse);
                errors[i] += d * d;
            }
        for (int half = 4; half > 0; half /= 2)
            for (int i = 0; i < half; ++i) errors[i] += errors[i + half];
        if (errors[0] < least) least = errors[0], best = scale;
    }
    return best;
}

void pack_int4(const float* w, int lane, uint8_t* block) {
    const float scale = int4_scale(w);
    const uint16_t half = to_half(scale);
    std::memcpy(block + 2 * lane, &half, 2);
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    uint8_t q[kInt4Block];
    for (int k = 0; k < kInt4Block; ++k) q[k] = uint8_t(int32_t(nearest_int4(w[k] * inverse)) + 8);
    for (int chunk = 0; chunk < 4; ++chunk)
        for (int i = 0; i < kGroup; ++i)
            block[32 + chunk * 64 + lane * kGroup + i] = uint8_t(q[chunk * kGroup + i] | q[(chunk + 4) * kGroup + i] << 4);
}

size_t block_bytes(Format format) {
    return format == Format::int8 ? 64 + kInt8Block * kLanes : 32 + kInt4Block * kLanes / 2;
}

}  // namespace

int block_size(Format format) { return format == Format::int8 ? kInt8Block : format == Format::int4 ? kInt4Block : 0; }

size_t PackedMatrix::size(Format format, int inputs, int outputs) {
    const int block = block_size(format);
    const size_t panels = size_t(outputs + kLanes - 1) / kLanes;
    if (block) return panels * size_t((inputs + block - 1) / block) * block_bytes(format);
    return panels * size_t(inputs) * kLanes * (format == Format::f32 ? 4 : 2);
}

PackedMatrix::PackedMatrix(Format format, int inputs, int outputs, const uint8_t* packed) {
    const int block = block_size(format), panels = (outputs + kLanes - 1) / kLanes;
    bytes_ = Buffer<uint8_t>::borrowed(packed, size(format, inputs, outputs));
    matrix_ = {packed, bytes_.size() / size_t(panels), inputs, outputs, panels, block ? (inputs + block - 1) / block : 0,
               format};
}

PackedMatrix::PackedMatrix(Format format, int inputs, int outputs, const float* source, ptrdiff_t input_stride,
                           ptrdiff_t output_stride, const float* fold, Pool& pool) {
    Buffer<uint8_t> bytes = Buffer<uint8_t>::uninitialized(size(format, inputs, outputs));
    *this = PackedMatrix(format, inputs, outputs, bytes.data());
    bytes_ = std::move(bytes);

    constexpr int kStrip = 4;  // panels that are packed side by side: in a row of a checkpoint they follow each other
    constexpr int kTile = kPad;  // inputs at a time
    const int block = block_size(format), panels = matrix_.panels, blocks = matrix_.blocks;
    std::atomic<bool> finite{true}, fits{true};
    pool.run((panels + kStrip - 1) / kStrip, 1, [&](int first, int last) {
        alignas(64) float tile[kStrip * kLanes][kTile];  // outputs, inputs
        int32_t peak = 0;
        for (int panel = first * kStrip; panel < last * kStrip && panel < panels; panel += kStrip)
            for (int k0 = 0; k0 < inputs; k0 += kTile) {
                const int count = std::min(kTile, inputs - k0), lanes = std::min(kStrip * kLanes, outputs - panel * kLanes);
                if (count < kTile || lanes < kStrip * kLanes) std::memset(tile, 0, sizeof tile);
                const float* start = source + ptrdiff_t(panel) * kLanes * output_stride + ptrdiff_t(k0) * input_stride;
                if (input_stride == 1)
                    for (int lane = 0; lane < lanes; ++lane)
                        std::memcpy(tile[lane], start + lane * output_stride, size_t(count) * sizeof(float));
                else
                    for (int k = 0; k < count; ++k)
                        for (int lane = 0; lane < lanes; ++lane)
                            tile[lane][k] = start[k * input_stride + lane * output_stride];
                for (int lane = 0; lane < lanes; ++lane) {
                    if (fold)
                        for (int k = 0; k < count; ++k) tile[lane][k] *= fold[k0 + k];
                    peak = std::max(peak, largest_bits<kTile>(tile[lane]));
                }
                for (int p = panel; p < std::min(panel + kStrip, panels); ++p) {
                    uint8_t* out = bytes_.data() + size_t(p) * matrix_.panel_bytes;
                    const auto& w = *reinterpret_cast<const float(*)[kLanes][kTile]>(tile[(p - panel) * kLanes]);
                    if (format == Format::f32)
                        for (int k = 0; k < count; ++k)
                            for (int lane = 0; lane < kLanes; ++lane)
                                std::memcpy(out + (size_t(k0 + k) * kLanes + size_t(lane)) * 4, &w[lane][k], 4);
                    if (format == Format::bf16)
                        for (int k = 0; k < count; ++k) {
                            uint16_t row[kLanes];
                            for (int lane = 0; lane < kLanes; ++lane) row[lane] = to_bf16(w[lane][k]);
                            std::memcpy(out + size_t(k0 + k) * kLanes * 2, row, sizeof row);
                        }
                    for (int k = 0; block && k < kTile; k += block) {
                        const int b = (k0 + k) / block;
                        if (b >= blocks) break;
                        uint8_t* at = out + size_t(b) * block_bytes(format);
                        for (int lane = 0; lane < kLanes; ++lane)
                            format == Format::int8 ? pack_int8(w[lane] + k, lane, at) : pack_int4(w[lane] + k, lane, at);
                    }
                }
            }
        if (peak >= kInfinity) finite.store(false);
        if (format == Format::int4 && peak > bits_of(7.0f * 65504.0f)) fits.store(false);
    });
    if (!finite.load()) throw NumericalError("it holds NaN or infinite values");
    if (!fits.load()) throw NumericalError("it holds values too large for int4's half-precision scales; use int8");
}

bool PackedMatrix::finite() const {
    std::vector<float> row(size_t(matrix_.inputs));
    for (int output = 0; output < matrix_.outputs; ++output) {
        output_row(output, row.data());
        if (!all_finite(row.data(), row.size())) return false;
    }
    return true;
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
