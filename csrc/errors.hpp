// What the core throws; the bindings turn each into the Python exception of the same name.
#pragma once

#include <stdexcept>
#include <string>

namespace gptwo {

struct DecoderError : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct NumericalError : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct InvalidRequestError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace gptwo
