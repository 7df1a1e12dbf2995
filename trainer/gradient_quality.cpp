#include "trainer/gradient_quality.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "tensor/fill.hpp"

namespace nibble {
namespace {

/// Gradients of the parameters and of the residual stream.
struct Gradient {
  ParameterSet parameters;
  std::vector<OwnedTensor> residual;  ///< [layers + 1]

  explicit Gradient(const Llama& model) : parameters(model.make_gradients()) {
    for (int64_t i = 0; i <= model.config().layers; ++i)
      residual.emplace_back(DType::f32, model.tokens(), model.config().width, "gradients of the residual stream");
  }
};

/// The gradient of one batch under one recipe.
class Computation {
 public:
  Computation(Stream& stream, const ModelConfig& config, const ParameterSet& weights, const Batch& batch,
              const Recipe& recipe, const DiagnosisOptions& options)
      : stream_(stream),
        batch_(batch),
        recipe_(recipe),
        options_(options),
        model_(stream, config, recipe, {.sequences = batch.sequences, .length = batch.length, .seed = options.seed}),
        weights_(model_.make_weights()),
        gradient_(model_) {
    copy_parameters(stream, weights, weights_);
  }

  /// With the random numbers of `draw`; valid until the next one.
  const Gradient& draw(int64_t draw, OperandObserver* observer = nullptr) {
    const auto counted = static_cast<double>(batch_.loss_tokens);
    const BackwardOptions backward{
        .call = {.step = draw, .micro_batch = 0, .pass = Pass::training, .observer = observer},
        .loss_scale = static_cast<float>(1 / counted),
        .residual = [this](int64_t layer, const Tensor& gradient) {
          convert(stream_, gradient, gradient_.residual[static_cast<size_t>(layer)]);
        }};
    loss_ = model_
                .loss_and_gradients(weights_, {batch_.inputs, batch_.targets, batch_.document_starts}, backward,
                                    gradient_.parameters)
                .cross_entropy /
            counted;
    model_.discard();  // every draw quantizes by its own statistics
    if (!std::isfinite(loss_)) refuse("the loss is not finite", fmt::format("{}", loss_));
    if (options_.pass_done) options_.pass_done();
    return gradient_;
  }
  double loss() const { return loss_; }
  const Llama& model() const { return model_; }

  [[noreturn]] void refuse(std::string what, std::string seen) const {
    throw Error({.kind = ErrorKind::numerics,
                 .what = std::move(what),
                 .where = "recipe " + recipe_.name,
                 .seen = std::move(seen),
                 .next = "choose a checkpoint from before the run diverged, or other data"});
  }

 private:
  Stream& stream_;
  const Batch& batch_;
  Recipe recipe_;
  const DiagnosisOptions& options_;
  Llama model_;
  ParameterSet weights_;
  Gradient gradient_;
  double loss_ = 0;
};

/// Sums over pairs of elements of two gradients.
struct Products {
  double aa = 0, ab = 0, bb = 0, squared_difference = 0;

  /// Of `scale` a and b, both f32.
  void add(const Tensor& a, double scale, const Tensor& b) {
    for (int64_t i = 0; i < a.rows; ++i) {
      const float *of_a = a.row<float>(i), *of_b = b.row<float>(i);
      for (int64_t j = 0; j < a.cols; ++j) {
        const double x = scale * of_a[j], y = of_b[j];
        aa += x * x;
        ab += x * y;
        bb += y * y;
        squared_difference += (x - y) * (x - y);
      }
    }
  }
  Alignment alignment() const { return {ab / std::sqrt(aa * bb), ab / bb}; }
};

bool in_a_block(const ParameterInfo& info) { return info.layer >= 0 && info.kind == ParameterKind::projection; }

/// The median over the matrices of the blocks of |scale a - b|^2 / |b|^2.
double median_error(const ParameterLayout& layout, const ParameterSet& a, double scale, const ParameterSet& b) {
  std::vector<double> errors;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!in_a_block(layout.parameters()[i])) continue;
    Products products;
    products.add(a[i], scale, b[i]);
    errors.push_back(products.squared_difference / products.bb);
  }
  const auto middle = errors.begin() + static_cast<std::ptrdiff_t>(errors.size() / 2);
  std::ranges::nth_element(errors, middle);
  return *middle;
}

/// Of the matrices of each block.
std::vector<Products> products_of_blocks(const Llama& model, const ParameterSet& a, const ParameterSet& b) {
  std::vector<Products> blocks(static_cast<size_t>(model.config().layers));
  for (size_t i = 0; i < a.size(); ++i) {
    const ParameterInfo& info = model.layout().parameters()[i];
    if (in_a_block(info)) blocks[static_cast<size_t>(info.layer)].add(a[i], 1, b[i]);
  }
  return blocks;
}

/// Takes one draw after the other.
class Comparing {
 public:
  Comparing(Stream& stream, const Computation& of, const Gradient& target, int64_t draws)
      : stream_(stream), of_(of), target_(target), draws_(draws), sum_(of.model().make_gradients()) {
    for (size_t i = 0; i < sum_.size(); ++i) fill(stream, sum_[i], 0.0f);
    result_.residual.resize(target.residual.size());
    result_.weights.resize(static_cast<size_t>(of.model().config().layers));
  }

  void take(const Gradient& draw) {
    for (size_t i = 0; i < draw.residual.size(); ++i) {
      Products products;
      products.add(draw.residual[i], 1, target_.residual[i]);
      add(products, result_.residual[i]);
    }
    const std::vector<Products> blocks = products_of_blocks(of_.model(), draw.parameters, target_.parameters);
    for (size_t i = 0; i < blocks.size(); ++i) add(blocks[i], result_.weights[i]);
    for (size_t i = 0; i < sum_.size(); ++i) nibble::add(stream_, draw.parameters[i], sum_[i]);
    ++taken_;
    if (taken_ != next_ && taken_ != draws_) return;
    constexpr int64_t spacing = 4;
    next_ *= taken_ == next_ ? spacing : 1;
    result_.errors.push_back(
        {taken_, median_error(of_.model().layout(), sum_, 1 / static_cast<double>(taken_), target_.parameters)});
  }
  const Comparison& result() const { return result_; }

 private:
  void add(const Products& products, Alignment& mean) const {
    const Alignment alignment = products.alignment();
    if (!std::isfinite(alignment.cosine) || !std::isfinite(alignment.projection))
      of_.refuse("a gradient is zero or not finite",
                 fmt::format("|g|^2 = {}, |target|^2 = {}", products.aa, products.bb));
    mean.cosine += alignment.cosine / static_cast<double>(draws_);
    mean.projection += alignment.projection / static_cast<double>(draws_);
  }

  Stream& stream_;
  const Computation& of_;
  const Gradient& target_;
  int64_t draws_, taken_ = 0, next_ = 1;
  ParameterSet sum_;
  Comparison result_;
};

Recipe in_fp32(Recipe recipe) {
  recipe.operands = DType::f32;
  return recipe;
}

/// The passes of one recipe and of the two gradients that recipes are compared with.
class RecipeDiagnosis {
 public:
  RecipeDiagnosis(Stream& stream, const ModelConfig& config, const ParameterSet& weights, const Batch& batch,
                  const DiagnosisOptions& options)
      : stream_(stream),
        config_(config),
        weights_(weights),
        batch_(batch),
        options_(options),
        fp32_(computation(find_recipe("fp32"))),
        bf16_(computation(find_recipe("bf16"))),
        in_fp32_(fp32_.draw(0)),
        in_bf16_(bf16_.draw(0)) {}

  GradientDiagnosis references() const {
    Products all;
    for (const Products& block : products_of_blocks(fp32_.model(), in_bf16_.parameters, in_fp32_.parameters)) {
      all.aa += block.aa;
      all.ab += block.ab;
      all.bb += block.bb;
    }
    return {.loss = fp32_.loss(),
            .bf16 = all.alignment(),
            .bf16_error = median_error(fp32_.model().layout(), in_bf16_.parameters, 1, in_fp32_.parameters)};
  }

  GradientQuality measure(const Recipe& recipe) {
    GradientQuality quality{.recipe = recipe.name};
    OperandStatistics operands;
    {
      Computation whole = computation(recipe);
      Comparing to_fp32 = comparing(whole, in_fp32_), to_bf16 = comparing(whole, in_bf16_);
      for (int64_t draw = 0; draw < options_.draws; ++draw) {
        const Gradient& gradient = whole.draw(draw, draw == 0 ? &operands : nullptr);
        to_fp32.take(gradient);
        to_bf16.take(gradient);
      }
      quality.loss = whole.loss();
      quality.whole_to_fp32 = to_fp32.result();
      quality.whole_to_bf16 = to_bf16.result();
    }
    quality.operands = operands.all();
    quality.backward = compare(combine(find_recipe("fp32"), in_fp32(recipe)), in_fp32_);
    Computation forward = computation({recipe.name + ", forward alone", recipe.forward, {}, DType::f32});
    quality.own_forward = compare(in_fp32(recipe), forward.draw(0));
    return quality;
  }

 private:
  Computation computation(const Recipe& recipe) const { return {stream_, config_, weights_, batch_, recipe, options_}; }
  Comparing comparing(const Computation& of, const Gradient& target) const {
    return {stream_, of, target, options_.draws};
  }
  Comparison compare(const Recipe& recipe, const Gradient& target) const {
    Computation drawn = computation(recipe);
    Comparing comparison = comparing(drawn, target);
    for (int64_t draw = 0; draw < options_.draws; ++draw) comparison.take(drawn.draw(draw));
    return comparison.result();
  }

  Stream& stream_;
  const ModelConfig& config_;
  const ParameterSet& weights_;
  const Batch& batch_;
  const DiagnosisOptions& options_;
  Computation fp32_, bf16_;
  const Gradient &in_fp32_, &in_bf16_;
};

/// A copy that holds what bf16 holds.
ParameterSet rounded(Stream& stream, const ParameterLayout& layout, const ParameterSet& weights) {
  ParameterSet copy(layout, DType::bf16, DType::f32, true, "weights in bf16");
  copy_parameters(stream, weights, copy);
  return copy;
}

}  // namespace

int64_t diagnosis_passes(int64_t recipes, int64_t draws) { return 2 + recipes * (3 * draws + 1); }

GradientDiagnosis diagnose_gradients(Stream& stream, const ModelConfig& config, const ParameterSet& weights,
                                     const Batch& batch, std::span<const Recipe> recipes,
                                     const DiagnosisOptions& options) {
  if (batch.loss_tokens == 0)
    throw Error({.kind = ErrorKind::data,
                 .what = "no token of the batch counts, so that there is no gradient",
                 .seen = fmt::format("{} sequences of {} tokens", batch.sequences, batch.length),
                 .next = "take more sequences, or a file whose loss mask keeps some tokens"});
  const ParameterSet in_bf16 =
      rounded(stream, ParameterLayout(config, std::ranges::any_of(recipes, &Recipe::learns)), weights);
  RecipeDiagnosis of(stream, config, in_bf16, batch, options);
  GradientDiagnosis diagnosis = of.references();
  for (const Recipe& recipe : recipes) diagnosis.recipes.push_back(of.measure(recipe));
  return diagnosis;
}

}  // namespace nibble
