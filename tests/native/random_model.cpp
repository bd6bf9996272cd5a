#include "random_model.hpp"

#include <cmath>

namespace gptwo {

uint64_t Draw::bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

float Draw::uniform(float half_width) {
    const float share = float(int32_t(bits() >> 40) - (1 << 23)) * 0x1p-23f;  // 24 bits: exact
    return share * half_width;
}

const std::vector<Shape>& shapes() {
    static const std::vector<Shape> all{
        {"plain", 61, 160, 24, 96, 2, 3, true, Activation::gelu_tanh, {1, 3, 17, 64, 100}},
        {"odd", 53, 100, 30, 37, 2, 2, false, Activation::gelu, {2, 5, 66, 31}},
        {"narrow", 17, 90, 6, 13, 2, 1, false, Activation::relu, {7, 80, 1}},
        {"head-33", 70, 80, 66, 100, 2, 2, true, Activation::silu, {13, 65, 4}},
        {"blocks", 130, 70, 144, 300, 1, 3, false, Activation::tanh, {11, 1, 20}},
        {"one-head", 257, 70, 80, 80, 2, 1, true, Activation::quick_gelu, {9, 30, 2, 1, 1, 1, 1}},
        {"long", 33, 320, 16, 20, 1, 2, true, Activation::gelu_tanh, {300, 130, 101, 7}},  // more than a slab of 512
    };
    return all;
}

std::vector<Text> random_texts(const Shape& shape) {
    Draw draw(7);
    std::vector<Text> texts;
    for (int length : shape.lengths) {
        texts.emplace_back();
        for (int i = 0; i < length; ++i) texts.back().push_back(draw.below(shape.vocab_size));
    }
    return texts;
}

namespace {

struct Filler {
    Model& model;
    Draw draw;

    void set(const std::string& name, const std::vector<float>& values, const std::vector<size_t>& shape,
             const float* fold = nullptr) {
        std::vector<ptrdiff_t> strides{1};
        if (shape.size() == 2) strides = {ptrdiff_t(shape[1]), 1};
        model.set(name, values.data(), shape, strides, fold);
    }
    void matrix(const std::string& name, int rows, int columns, const float* fold = nullptr) {
        std::vector<float> values(size_t(rows) * size_t(columns));
        const float half_width = 1.7f / std::sqrt(float(columns < rows ? columns : rows));
        for (float& value : values) value = draw.uniform(half_width);
        set(name, values, {size_t(rows), size_t(columns)}, fold);
    }
    void vector(const std::string& name, int count, float middle, float half_width, float outlier = 0.0f) {
        std::vector<float> values(size_t(count), middle);
        for (float& value : values) value += draw.uniform(half_width);
        if (outlier != 0.0f) values[size_t(count) / 2] = outlier;
        set(name, values, {size_t(count)});
    }
    void linear(const std::string& name, int inputs, int outputs, const float* fold, float outlier = 0.0f) {
        matrix(name + ".weight", inputs, outputs, fold);
        vector(name + ".bias", outputs, 0.0f, 0.3f, outlier);
    }
    void norm(const std::string& name, int width, float outlier = 0.0f) {
        vector(name + ".weight", width, 1.0f, 0.5f, outlier);
        vector(name + ".bias", width, 0.0f, 0.1f);
    }
};

}  // namespace

std::unique_ptr<Model> random_model(const Shape& shape, Format format, bool bf16_cache, const Kernels& tier, int threads) {
    const int c = shape.width, f = shape.inner;
    std::vector<float> scales;
    for (int layer = 0; layer < shape.layers; ++layer) scales.push_back(1.0f / std::sqrt(float(c / shape.heads)));
    Config config{shape.vocab_size, shape.n_positions, c, f, shape.layers, shape.heads, 1e-5f, shape.tied,
                  shape.activation, scales, format, bf16_cache};
    auto model = std::make_unique<Model>(config, tier, threads);

    std::vector<float> fold(size_t(c), 1.0f), unfold(size_t(c), 1.0f);
    const bool folds = format == Format::int8 || format == Format::int4;
    for (size_t k = 1; k < fold.size(); k += 3) fold[k] = 4.0f, unfold[k] = 0.25f;
    const float* factors = folds ? fold.data() : nullptr;

    Filler fill{*model, Draw(uint64_t(c) * 1000 + uint64_t(f))};
    fill.matrix("wte.weight", shape.vocab_size, c, shape.tied ? factors : nullptr);
    if (shape.tied && folds) model->set_unfold(unfold.data());
    if (!shape.tied) fill.matrix("lm_head.weight", shape.vocab_size, c, factors);
    fill.matrix("wpe.weight", shape.n_positions, c);
    for (int layer = 0; layer < shape.layers; ++layer) {
        const std::string h = "h." + std::to_string(layer) + ".";
        fill.norm(h + "ln_1", c, 30.0f);  // not folded: the second term has to take it
        fill.linear(h + "attn.c_attn", c, 3 * c, factors);
        fill.linear(h + "attn.c_proj", c, c, nullptr);
        fill.norm(h + "ln_2", c);
        fill.linear(h + "mlp.c_fc", c, f, factors, 60.0f);
        fill.linear(h + "mlp.c_proj", f, c, nullptr);
    }
    fill.norm("ln_f", c);
    model->check_complete();
    return model;
}

}  // namespace gptwo
