// gptwo._native: the core as Python sees it. Arrays are checked here; the step runs without the interpreter's lock.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <new>
#include <optional>
#include <stdexcept>

#include "bandwidth.hpp"
#include "bindings_sampler.hpp"
#include "errors.hpp"
#include "model.hpp"
#include "tiers.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace gptwo;

using Integers = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Factors = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Tensor = nb::ndarray<const float, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OwnBytes = nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>;
using Logits = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

namespace {

void raise(const char* name, const char* message) {
    nb::object error = nb::module_::import_("gptwo.errors").attr(name);
    PyErr_SetString(error.ptr(), message);
}

}  // namespace

NB_MODULE(_native, m) {
    nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
        try {
            std::rethrow_exception(thrown);
        } catch (const DecoderError& error) {
            raise("DecoderError", error.what());
        } catch (const NumericalError& error) {
            raise("NumericalError", error.what());
        } catch (const std::bad_alloc&) {
            raise("OutOfMemoryError", "there is not enough memory for the model's weights, its cache or a step");
        } catch (const InvalidRequestError& error) {
            raise("InvalidRequestError", error.what());
        }
    });
    bind_sampler(m);

    m.attr("LAYOUT_VERSION") = kLayoutVersion;
    m.def("tiers", [] {
        std::vector<std::string> names;
        for (const Kernels* tier : available_tiers()) names.push_back(tier->name);
        return names;
    });

    m.def(
        "read_bandwidth",
        [](size_t bytes, int threads, double seconds) {
            nb::gil_scoped_release released;
            return read_bandwidth(bytes, threads, seconds);
        },
        nb::kw_only(), "bytes"_a, "threads"_a, "seconds"_a);

    nb::class_<Model>(m, "Model")
        .def(
            "__init__",
            [](Model* self, int vocab_size, int n_positions, int width, int inner, int heads, float epsilon, bool tied,
               int activation, std::vector<float> attention_scales, int format, bool bf16_cache, int threads,
               const std::string& tier) {
                if (vocab_size < 1 || n_positions < 1 || width < 1 || inner < 1 || heads < 1 || width % heads != 0 ||
                    attention_scales.empty() || threads < 1 || activation < int(Activation::gelu) ||
                    activation > int(Activation::tanh) || format < int(Format::f32) || format > int(Format::int4))
                    throw std::invalid_argument("no model has such a shape");
                const Kernels& kernels = choose_tier(tier);
                Config config{vocab_size,      n_positions, width, inner, int(attention_scales.size()),
                              heads,           epsilon,     tied,  Activation(activation),
                              attention_scales, Format(format), bf16_cache};
                new (self) Model(config, kernels, threads);
            },
            nb::kw_only(), "vocab_size"_a, "n_positions"_a, "width"_a, "inner"_a, "heads"_a, "epsilon"_a, "tied"_a,
            "activation"_a, "attention_scales"_a, "format"_a, "bf16_cache"_a, "threads"_a, "tier"_a)
        .def(
            "set",
            [](Model& self, const std::string& name, Tensor tensor, std::optional<Factors> fold) {
                std::vector<size_t> shape;
                std::vector<ptrdiff_t> strides;
                for (size_t i = 0; i < tensor.ndim(); ++i) {
                    shape.push_back(tensor.shape(i));
                    strides.push_back(tensor.stride(i));
                }
                const size_t inputs = name == "wte.weight" || name == "lm_head.weight" ? tensor.shape(1) : tensor.shape(0);
                if (fold && (tensor.ndim() != 2 || fold->shape(0) != inputs))
                    throw std::invalid_argument("one factor of the fold for each input");
                const float* factors = fold ? fold->data() : nullptr;
                nb::gil_scoped_release released;
                self.set(name, tensor.data(), shape, strides, factors);
            },
            "name"_a, "tensor"_a, "fold"_a.none() = nb::none())
        .def(
            "set_mapped",
            [](Model& self, const std::string& name, Bytes bytes) { self.set_mapped(name, bytes.data(), bytes.size()); },
            nb::keep_alive<1, 3>(), "name"_a, "bytes"_a)
        .def("mapped_bytes", &Model::mapped_bytes, "name"_a)
        .def(
            "packed",
            [](nb::handle_t<Model> self, const std::string& name) {
                const Model& model = nb::cast<const Model&>(self);
                return OwnBytes(model.packed(name), {model.mapped_bytes(name)}, self);
            },
            "name"_a)
        .def("first_not_finite", &Model::first_not_finite, nb::call_guard<nb::gil_scoped_release>())
        .def("set_unfold",
             [](Model& self, Factors factors) {
                 if (factors.shape(0) != size_t(self.config().width)) throw std::invalid_argument("one factor per channel");
                 self.set_unfold(factors.data());
             })
        .def("check_complete", &Model::check_complete)
        .def("open", &Model::open, nb::call_guard<nb::gil_scoped_release>())
        .def("close", &Model::close, nb::call_guard<nb::gil_scoped_release>())
        .def("fork", &Model::fork, nb::call_guard<nb::gil_scoped_release>())
        .def("truncate", &Model::truncate, nb::call_guard<nb::gil_scoped_release>())
        .def("length", &Model::length, nb::call_guard<nb::gil_scoped_release>())
        .def("forward",
             [](Model& self, Integers tokens, Integers sequences, Integers positions, Integers rows, Logits logits) {
                 const size_t n = tokens.shape(0), wanted = rows.shape(0);
                 if (sequences.shape(0) != n || positions.shape(0) != n)
                     throw DecoderError(std::to_string(n) + " token ids, " + std::to_string(sequences.shape(0)) +
                                        " sequence numbers and " + std::to_string(positions.shape(0)) + " positions");
                 if (logits.shape(0) != wanted || logits.shape(1) != size_t(self.config().vocab_size))
                     throw std::invalid_argument("logits must be (rows, vocabulary)");
                 nb::gil_scoped_release released;
                 self.forward(tokens.data(), sequences.data(), positions.data(), int64_t(n), rows.data(), int64_t(wanted),
                              logits.data());
             },
             "tokens"_a.noconvert(), "sequences"_a.noconvert(), "positions"_a.noconvert(), "rows"_a.noconvert(),
             "logits"_a.noconvert())  // a converted copy of the logits would be filled in vain
        .def_prop_ro("blocks_in_use", &Model::blocks_in_use)
        .def_prop_ro("tier", &Model::tier)
        .def_prop_ro("threads", &Model::threads)
        .def_prop_ro("weight_bytes", &Model::weight_bytes);
}
