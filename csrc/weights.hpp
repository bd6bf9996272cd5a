// Weight matrices in their packed layout (kernels.hpp says how it lies): made from float32 arrays, or read where they lie.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.hpp"
#include "memory.hpp"
#include "pool.hpp"

namespace gptwo {

// Files hold packed matrices. Whoever changes what a byte of one means, or how many there are, adds one.
constexpr int kLayoutVersion = 1;

class PackedMatrix {
  public:
    PackedMatrix() = default;
    // source: float32, weight of (input, output) at input * input_stride + output * output_stride. fold: what each input's
    // weights are multiplied by first, or null. Throws NumericalError for a weight that is not finite.
    PackedMatrix(Format format, int inputs, int outputs, const float* source, ptrdiff_t input_stride,
                 ptrdiff_t output_stride, const float* fold, Pool& pool);
    // A matrix that was packed before, `size(...)` bytes at `packed`, on a cache line. They are not copied and must stay.
    PackedMatrix(Format format, int inputs, int outputs, const uint8_t* packed);

    // The bytes that such a matrix takes.
    static size_t size(Format format, int inputs, int outputs);

    const Matrix& view() const { return matrix_; }
    size_t bytes() const { return bytes_.size(); }
    const uint8_t* data() const { return bytes_.data(); }
    // The weights of one output, as they are after packing, for the embedding that shares the head's matrix.
    void output_row(int output, float* row) const;
    // Whether every weight is a number. Packing sees to that; bytes from a file may be anything.
    bool finite() const;

  private:
    Buffer<uint8_t> bytes_;
    Matrix matrix_{};
};

int block_size(Format format);  // inputs that share a scale; 0 for the float formats

}  // namespace gptwo
