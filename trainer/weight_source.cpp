#include "trainer/weight_source.hpp"

#include <utility>

#include "tensor/error.hpp"
#include "trainer/checkpoint_load.hpp"

namespace nibble {
namespace {

class CheckpointWeights final : public WeightSource {
 public:
  explicit CheckpointWeights(VerifiedCheckpoint checkpoint)
      : WeightSource(checkpoint.header().model), checkpoint_(std::move(checkpoint)) {
    require_checkpoint_weights(checkpoint_, layout());
  }

  void read_rows(size_t parameter, int64_t first, const Tensor& into) override {
    read_checkpoint_weight(checkpoint_, info(parameter), first, into);
  }

 private:
  VerifiedCheckpoint checkpoint_;
};

class HeldWeights final : public WeightSource {
 public:
  HeldWeights(const ModelConfig& config, const ParameterSet& weights) : WeightSource(config), weights_(weights) {}

  void read_rows(size_t parameter, int64_t first, const Tensor& into) override {
    const Tensor rows = weights_[parameter].slice_rows(first, into.rows);
    if (rows.dtype == DType::f32) copy_from<float>(rows, into);
    else copy_from<bf16>(rows, into);
  }

 private:
  template <class Source>
  static void copy_from(const Tensor& from, const Tensor& into) {
    for (int64_t row = 0; row < from.rows; ++row)
      for (int64_t col = 0; col < from.cols; ++col) {
        const auto value = static_cast<float>(from.row<Source>(row)[col]);
        if (into.dtype == DType::f32) into.row<float>(row)[col] = value;
        else into.row<bf16>(row)[col] = bf16(value);
      }
  }

  const ParameterSet& weights_;
};

}  // namespace

std::unique_ptr<WeightSource> open_checkpoint_weights(VerifiedCheckpoint checkpoint) {
  return std::make_unique<CheckpointWeights>(std::move(checkpoint));
}

std::unique_ptr<WeightSource> held_weights(const ModelConfig& config, const ParameterSet& weights) {
  return std::make_unique<HeldWeights>(config, weights);
}

}  // namespace nibble
