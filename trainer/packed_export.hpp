// `nibble export --quantize`: from a model and the name of a format to what is written, and what is said about it.
//
// Not for: formats (packed_format.hpp, row_type.hpp), writing (huggingface.hpp, gguf_model.hpp).
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/token_data.hpp"
#include "tensor/stream.hpp"
#include "trainer/packed_groups.hpp"
#include "trainer/packing_plan.hpp"
#include "trainer/perplexity_change.hpp"
#include "trainer/run_directory.hpp"

namespace nibble {

struct PackedExportOptions {
  std::string quantize;  ///< of a folder nvfp4, mxfp4, fp8, int8 or trained; of GGUF q8_0, q4_0 or mxfp4
  bool gguf = false;
  std::string data{};         ///< tokens on which perplexity is measured; empty: it is not
  int64_t tokens = 16384;     ///< how many of them
  bool weights_only = false;  ///< the file says nothing of activations
};

class PackedExport {
 public:
  /// Measures the perplexity before, where there is data, and with it the scales of activations where the format needs
  /// them; nothing of it stays in memory. The others must outlive the object. Throws Error{configuration} for a format
  /// that the container does not have, that has no codes of training (`trained`), or whose blocks do not divide a
  /// width.
  PackedExport(Stream& stream, const ModelDescription& model, WeightSource& source, const PackedExportOptions& options);

  /// What the export is of: where training's codes are packed, the values that they stand for.
  WeightSource& source() { return *multiplied_; }
  std::vector<TensorGroup> folder_groups(const RowType& other);
  nlohmann::ordered_json config() const;
  /// Of GGUF: the type of a matrix, where `other` is that of those which are not quantized.
  const RowType& matrix_type(const ParameterInfo& info, const RowType& other) const;
  /// Of the most matrices.
  const RowType& main_type() const { return *blocks_; }

  /// What stands in the file beside measurements.
  std::map<std::string, std::string> facts() const;
  bool measures() const { return before_.has_value(); }
  /// Of the weights that were read back; where it measures().
  PerplexityChange measure(WeightSource& exported);
  /// Lines for whoever asked for the export.
  std::vector<std::string> notes() const;

 private:
  void measure_before(const std::string& data);

  Stream& stream_;
  const ModelDescription& model_;
  WeightSource& source_;
  Precision precision_;
  std::string format_;
  PackingPlan plan_;
  const RowType* blocks_ = nullptr;  ///< of GGUF
  std::unique_ptr<MultipliedWeights> multiplied_;
  int64_t tokens_;
  std::optional<TokenData> data_;
  std::optional<PerplexityChange> before_;
  bool activations_ = false;         ///< the file says how they are quantized
  std::vector<float> input_scales_;  ///< of nvfp4's activations, by buffer
};

}  // namespace nibble
