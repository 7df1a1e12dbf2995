#include "trainer/model_gradient.hpp"

#include <algorithm>

#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "trainer/run_parts.hpp"

namespace nibble {
namespace {

constexpr int64_t windows_of_rank = 4;

}  // namespace

std::vector<float> gradient_of_model(const std::string& model, const std::string& data, int rank, int64_t elements) {
  const TokenData tokens = TokenData::open(data);
  const LoadedModel loaded = load_model(find_model(model).path, DType::f32);
  tokens.require_vocabulary(loaded.config.vocabulary);
  if (loaded.config.parameters() < elements)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the model has fewer parameters than the vector elements",
                 .where = "--elements, " + loaded.source.path.string(),
                 .seen = std::to_string(elements),
                 .allowed = "at most " + std::to_string(loaded.config.parameters()),
                 .next = "lower --elements, or name a larger model"});
  Stream stream(1);
  const Loader loader(tokens, window_options(loaded, 0, 1));
  const Batch batch = loader.batch(rank * windows_of_rank, windows_of_rank);
  Llama llama(stream, loaded.config, find_recipe("bf16"), {.sequences = batch.sequences, .length = batch.length});
  const ParameterSet weights = llama.make_weights(), gradients = llama.make_gradients();
  copy_parameters(stream, loaded.weights, weights);
  llama.loss_and_gradients(weights, {batch.inputs, batch.targets, batch.document_starts},
                           {.call = {.pass = Pass::training}, .loss_scale = 1 / static_cast<float>(batch.loss_tokens)},
                           gradients);
  std::vector<float> vector;
  vector.reserve(static_cast<size_t>(elements));
  for (size_t i = 0; i < gradients.size(); ++i)
    for (int64_t row = 0; row < gradients[i].rows && std::ssize(vector) < elements; ++row) {
      const float* const from = gradients[i].row<float>(row);
      vector.insert(vector.end(), from, from + std::min(gradients[i].cols, elements - std::ssize(vector)));
    }
  return vector;
}

}  // namespace nibble
