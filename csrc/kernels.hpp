// What the tiers offer: plain structs and one table of functions for each instruction set.
//
// This header is included by sources that are compiled with flags the machine may not have. It and what those sources
// include stay free of the standard library's inline code: the linker keeps one copy of such a function for the whole
// program, and that copy could be the one with instructions the machine lacks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gptwo {

constexpr int kLanes = 16;    // outputs in a panel, floats in a register group
constexpr int kGroup = 4;     // inputs that lie together in the integer formats
constexpr int kInt8Block = 64;  // inputs that share a scale
constexpr int kInt4Block = 32;
// The largest magnitudes. Without VNNI, bytes are multiplied as unsigned weight times signed activation, and the sum of two
// products saturates at 32767: 2 x (91 + 91) x 90 = 32760 is the best use of that. int4 has room: its weights end at 15.
constexpr int kInt8Weight = 91, kInt8Activation = 90, kInt4Activation = 127;
constexpr int kPositions = 64;  // positions in a block of the cache
constexpr int kPad = 64;        // rows of activations are padded with zeros to a multiple of this

constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

enum class Format : int { f32 = 0, bf16 = 1, int8 = 2, int4 = 3 };

enum class Activation : int { none = 0, gelu = 1, gelu_tanh = 2, quick_gelu = 3, relu = 4, silu = 5, tanh = 6 };

// A packed weight matrix: panels of 16 outputs, one after another.
//   f32, bf16: for each input, 16 weights.
//   int8: for each block of 64 inputs, 16 float scales, then 16 groups of (16 outputs x 4 inputs) bytes, weight + 91.
//   int4: for each block of 32 inputs, 16 half-precision scales, then 4 x 64 bytes, weight + 8; the low halves of chunk
//         c are group c, the high halves group c + 4.
struct Matrix {
    const uint8_t* data;
    size_t panel_bytes;
    int inputs, outputs, panels, blocks;
    Format format;
};

// Rows of activations: as floats, or quantised for an integer matrix. Row r of `x` starts at r * stride.
struct Rows {
    const float* x;
    size_t stride;
    const int8_t* q;       // (rows, q_stride)
    const int8_t* rest;    // what `q` left over, finer, for blocks that hold an outlier
    size_t q_stride;       // padded inputs
    const float* scale;    // (rows, blocks)
    const int32_t* start;  // (rows, blocks): where a dot product with q starts, to take away the weights' offset
    const int32_t* rest_start;  // (rows, blocks): the same for rest, or kNoRest
    int blocks;
    int count;
};
constexpr int32_t kNoRest = INT32_MIN;

// Where a product goes: out = activation(product + bias), or out += product + bias.
struct Target {
    float* out;
    size_t stride;
    const float* bias;  // padded to whole panels, or null
    Activation activation;
    bool add;
};

// One head's attention of consecutive positions of one sequence.
struct AttentionTask {
    const float* q;  // (count, q_stride): the queries
    size_t q_stride;
    float* out;  // (count, out_stride)
    size_t out_stride;
    const void* const* keys;    // for each block of 64 positions: (D, 64)
    const void* const* values;  // for each block: (64, padded D)
    int head_size, padded_head_size;
    int first_position, count;
    float scale;
    bool bf16;        // how keys and values are stored
    float* scratch;  // attention_scratch(...) floats
};

constexpr int kAttentionRows = 4;  // queries that are looked at together
constexpr size_t attention_scratch(int length, int padded_head_size) {  // floats, for `length` positions
    return size_t(kAttentionRows) * size_t(round_up(length, kPositions) + padded_head_size);
}

struct Kernels {
    const char* name;
    void (*product)(const Matrix&, const Rows&, const Target&, int first_panel, int last_panel);
    void (*layer_norm)(const float* x, float* y, int width, const float* gain, const float* bias, float epsilon);
    // One row of `padded` floats into the row's places of a Rows; `block` is 64 or 32.
    void (*quantize)(const float* x, int padded, int block, int8_t* q, int8_t* rest, float* scale, int32_t* start,
                     int32_t* rest_start);
    void (*attention)(const AttentionTask&);
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvx512, kAvx512Vnni;
#endif

}  // namespace gptwo
