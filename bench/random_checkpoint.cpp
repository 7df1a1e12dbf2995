// random_checkpoint RUN RANKS: a checkpoint of Llama 3.2 1B's shape with random weights, as so many ranks write it, but
// without moments. For measuring what reads large checkpoints where no machine is there to train one.
#include <fmt/format.h>

#include <cstdlib>
#include <vector>

#include "data/tokenizer.hpp"
#include "model/llama.hpp"
#include "tensor/error.hpp"
#include "trainer/checkpoint.hpp"
#include "trainer/checkpoint_save.hpp"

namespace {

using namespace nibble;

/// Of meta-llama/Llama-3.2-1B's config.json.
ModelConfig llama_3_2_1b() {
  return {.vocabulary = 128256,
          .width = 2048,
          .layers = 16,
          .heads = 32,
          .kv_heads = 8,
          .head_dim = 64,
          .ffn = 8192,
          .context = 131072,
          .rope_theta = 500000.0,
          .rope_scaling = RopeScaling{.factor = 32},
          .norm_epsilon = 1e-5,
          .tied = true};
}

void write_checkpoint(const std::string& run, int ranks) {
  const ModelConfig config = llama_3_2_1b();
  const ParameterLayout layout(config);
  const ParameterSet weights(layout, DType::f32, DType::f32, false, "weights");
  Stream stream;
  initialize(stream, config, layout, 1, 0.02, weights);
  StateList state;
  for (size_t i = 0; i < weights.size(); ++i) state.add(weights_prefix + layout.parameters()[i].name, weights[i]);

  constexpr int64_t step = 1;
  begin_checkpoint(run, step, state);
  std::vector<RankFile> files;
  for (int rank = 0; rank < ranks; ++rank) files.push_back(write_rank_file(saving_path(run, step), rank, ranks, state));
  const CheckpointHeader header{
      .step = step, .model = config, .tokenizer = make_byte_tokenizer()->info(), .config_text = "steps: 1\n"};
  fmt::print("{}, {} parameters\n", commit_checkpoint(run, header, files).string(), config.parameters());
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3 || std::atoi(arguments[2]) < 1) {
    fmt::print(stderr, "usage: random_checkpoint RUN RANKS\n");
    return 2;
  }
  try {
    write_checkpoint(arguments[1], std::atoi(arguments[2]));
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return error.exit_code();
  }
}
