// A training step of one rank, played through without doing it: what it sends, and when it computes and waits.
//
// The jobs of the communication thread are those of ShardedWeights, GradientSum and TrainStep, of the same sizes and in
// the same order.
// Not for: measuring what it is told (run_plan.hpp).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "model/llama.hpp"
#include "optim/whole_matrices.hpp"
#include "trainer/shard_plan.hpp"

namespace nibble {

/// What travels between ranks, while all of them send and receive at the same time.
struct ExchangeSpeed {
  double latency = 0;                  ///< seconds, of one message
  double summed_bytes_per_second = 0;  ///< that a rank sends to be summed
  double gathered_bytes_per_second = 0;
  double core_share = 0;  ///< of a core that computes, which the communication thread takes while it works
};

/// What a sum over ranks takes for each value of the vector.
struct ValueCost {
  double bytes = 0;              ///< that a rank sends
  double processor_seconds = 0;  ///< of the communication thread
};

struct ForecastInput {
  ModelConfig config;
  int64_t length = 0;  ///< tokens of a sequence
  Recompute recompute = Recompute::none;
  DType operands = DType::bf16;
  bool z_loss = false;     ///< the ranks tell each other its term of each micro-batch too
  int64_t statistics = 0;  ///< of the linear operators, of which ranks find the largest (Llama::statistics)
  Wire wire = Wire::f32;
  std::optional<ValueCost> compressed{};  ///< sums of gradients are no plain ones of the wire's type
  std::vector<MatrixWork> matrices{};     ///< parameters that one rank must have whole for its update (Muon)
  double turn_seconds = 0;                ///< forward and backward pass of one micro-batch
  double optimizer_seconds = 0;           ///< norm and update of what this rank owns
  ExchangeSpeed speed;                    ///< of zeros: messages take no time
};

struct StepForecast {
  int64_t turns = 0;
  // Bytes that this rank sends.
  int64_t gradient_bytes = 0;
  int64_t weight_bytes = 0;
  int64_t matrix_bytes = 0;   ///< gradients or directions to the ranks that update them, and back
  int64_t control_bytes = 0;  ///< losses, block sums, statistics and logits, from which all ranks decide alike
  int64_t messages = 0;
  // Seconds.
  double forward_backward = 0;
  double optimizer = 0;
  double communication = 0;  ///< the communication thread works
  double exposed = 0;        ///< of that, while the rank waits
  double slowed = 0;         ///< by the rest, where it takes a core from threads that compute
  double step() const { return forward_backward + optimizer + exposed + slowed; }

  int64_t bytes() const { return gradient_bytes + weight_bytes + matrix_bytes + control_bytes; }
};

/// A step in the midst of a run, for the rank of the plan; one whose updates are not recorded (update_record.hpp).
StepForecast forecast_step(const ParameterLayout& layout, const ShardPlan& plan, const ForecastInput& input);

}  // namespace nibble
