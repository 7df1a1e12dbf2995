// Helpers of the model tests: fixtures as tensors, distances, and the reference Llamas.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "model/llama.hpp"
#include "tensor/convert.hpp"
#include "trainer/huggingface_config.hpp"
#include "trainer/huggingface_weights.hpp"
#include "trainer/safetensors.hpp"

namespace nibble::test {

/// A file of tensors, each read as f32 (integers as they are stored).
class Fixture {
 public:
  explicit Fixture(const std::string& path) : file_(path) {}

  const Tensor& operator[](const std::string& name) {
    auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      const SafetensorsEntry& entry = file_.entry(name);
      const DType type = entry.dtype == "I32" ? DType::i32 : entry.dtype == "I64" ? DType::i64 : DType::f32;
      OwnedTensor tensor(type, entry.rows(), entry.cols());
      file_.read(name, tensor);
      found = tensors_.emplace(name, std::move(tensor)).first;
    }
    return found->second.view();
  }

 private:
  SafetensorsFile file_;
  std::map<std::string, OwnedTensor> tensors_;
};

/// ||a - b|| / ||b|| in the Frobenius norm; a is f32 or bf16, b f32.
inline double relative_error(const Tensor& a, const Tensor& b) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < b.rows; ++i)
    for (int64_t j = 0; j < b.cols; ++j) {
      const double x = a.dtype == DType::bf16 ? static_cast<float>(a.row<bf16>(i)[j]) : a.row<float>(i)[j];
      const double y = b.row<float>(i)[j];
      difference += (x - y) * (x - y);
      norm += y * y;
    }
  return std::sqrt(difference / norm);
}

inline std::string data(const std::string& name) { return std::string(NIBBLE_TEST_DATA) + "/model/data/" + name; }

/// A reference Llama with its batch and its float64 loss and gradients.
struct ReferenceLlama {
  explicit ReferenceLlama(const std::string& name, const std::string& recipe_name = "fp32",
                          Recompute recompute = Recompute::none)
      : directory(data("llama/" + name)),
        stream(2),
        config(read_huggingface_config(directory)),
        batch_file(directory + "/batch.safetensors"),
        expected(directory + "/gradients.safetensors"),
        model(
            stream, config, find_recipe(recipe_name),
            {.sequences = batch_file["tokens"].rows, .length = batch_file["tokens"].cols - 1, .recompute = recompute}),
        masters(import_huggingface(directory, model.layout(), DType::f32)),
        weights(model.make_weights()),
        gradients(model.make_gradients()) {
    copy_parameters(stream, masters, weights);
    const Tensor& tokens = batch_file["tokens"];
    for (int64_t i = 0; i < tokens.rows; ++i)
      for (int64_t j = 0; j + 1 < tokens.cols; ++j) {
        inputs.push_back(static_cast<int32_t>(tokens.row<int64_t>(i)[j]));
        targets.push_back(static_cast<int32_t>(tokens.row<int64_t>(i)[j + 1]));
      }
  }

  MicroBatch batch() const { return {inputs, targets, {}}; }
  float loss_scale() const { return 1.0f / static_cast<float>(inputs.size()); }
  /// Mean loss in nats; fills `gradients`.
  double run() {
    return model.loss_and_gradients(weights, batch(), {.loss_scale = loss_scale()}, gradients).cross_entropy /
           static_cast<double>(inputs.size());
  }

  std::string directory;
  Stream stream;
  ModelConfig config;
  Fixture batch_file, expected;
  Llama model;
  ParameterSet masters, weights, gradients;
  std::vector<int32_t> inputs, targets;
};

}  // namespace nibble::test
