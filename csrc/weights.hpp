// Weight matrices in their packed layout (kernels.hpp says how it lies), made from float32 arrays.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.hpp"
#include "memory.hpp"
#include "pool.hpp"

namespace gptwo {

class PackedMatrix {
  public:
    PackedMatrix() = default;
    // source: float32, weight of (input, output) at input * input_stride + output * output_stride. fold: what each input's
    // weights are multiplied by first, or null. Throws NumericalError for a weight that is not finite.
    PackedMatrix(Format format, int inputs, int outputs, const float* source, ptrdiff_t input_stride,
                 ptrdiff_t output_stride, const float* fold, Pool& pool);

    const Matrix& view() const { return matrix_; }
    size_t bytes() const { return bytes_.size(); }
    // The weights of one output, as they are after packing, for the embedding that shares the head's matrix.
    void output_row(int output, float* row) const;

  private:
    Buffer<uint8_t> bytes_;
    Matrix matrix_{};
};

int block_size(Format format);  // inputs that share a scale; 0 for the float formats

}  // namespace gptwo
