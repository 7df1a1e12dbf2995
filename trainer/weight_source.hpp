// Weights that are read as they are asked for: rows of a matrix at a time, so that no model need fit into memory.
//
// Where they lie (a checkpoint of any number of ranks, a Hugging Face folder, memory) is the source's affair.
// Not for: training and evaluation, which hold all weights (run_directory.hpp: load_model).
#pragma once

#include <cstdint>
#include <memory>

#include "model/parameters.hpp"
#include "trainer/checkpoint.hpp"

namespace nibble {

class WeightSource {
 public:
  explicit WeightSource(const ModelConfig& config) : config_(config), layout_(config) {}
  virtual ~WeightSource() = default;
  WeightSource(const WeightSource&) = delete;
  WeightSource& operator=(const WeightSource&) = delete;

  const ModelConfig& config() const { return config_; }
  /// Names, shapes and order of the parameters; those that one GEMM multiplies with share ParameterInfo::buffer. Steps
  /// of quantizers are none of them.
  const ParameterLayout& layout() const { return layout_; }
  const ParameterInfo& info(size_t parameter) const { return layout_.parameters()[parameter]; }
  size_t parameters() const { return layout_.parameters().size(); }

  /// Fills `into` [n, cols] (f32, or bf16 rounded to nearest even; its rows may be strided) with rows [first, first +
  /// n) of a parameter. Throws Error{checkpoint} for values that are not finite and files that changed meanwhile.
  virtual void read_rows(size_t parameter, int64_t first, const Tensor& into) = 0;
  void read(size_t parameter, const Tensor& into) { read_rows(parameter, 0, into); }

 private:
  ModelConfig config_;
  ParameterLayout layout_;
};

/// So many rows of that width are read at once by who needs no more than one: some megabytes.
constexpr int64_t rows_at_once(int64_t cols) { return cols >= (1 << 20) ? 1 : (1 << 20) / cols; }

/// The master weights. Throws Error{checkpoint} when they are not those of the model that the manifest describes.
std::unique_ptr<WeightSource> open_checkpoint_weights(VerifiedCheckpoint checkpoint);

/// Weights in memory, which must outlive the source.
std::unique_ptr<WeightSource> held_weights(const ModelConfig& config, const ParameterSet& weights);

}  // namespace nibble
