#include "trainer/step_forecast.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "trainer/rotating_units.hpp"

namespace nibble {
namespace {

size_t index(int i) { return static_cast<size_t>(i); }

/// Collectives cut what they send into messages of this size; here only latencies depend on it.
constexpr int64_t message_bytes = int64_t{1} << 19;

/// Bytes by rank.
using Sizes = std::vector<int64_t>;

class Step {
 public:
  Step(const ParameterLayout& layout, const ShardPlan& plan, const ForecastInput& input)
      : layout_(layout),
        plan_(plan),
        input_(input),
        rotating_(layout),
        gathered_(index(layout.units())),
        summed_(index(plan.partition().buckets())) {
    std::vector<double> operations;
    std::vector<int64_t> elements;
    for (const MatrixWork& matrix : input.matrices) {
      operations.push_back(matrix.operations);
      elements.push_back(layout.parameters()[index(matrix.parameter)].size());
    }
    waves_ = matrix_waves(matrix_shares(operations, plan.ranks()), elements);
    const ModelConfig& config = input.config;
    const double attention = static_cast<double>(input.length * config.query_width());
    double products = 3 * products_of(layout.head());
    for (int64_t layer = 0; layer < config.layers; ++layer) products += passes() * block_products(layer, attention);
    seconds_ = input.turn_seconds / products;
    attention_ = attention;
  }

  /// The second of two: the first one begins without what a step before it has sent.
  StepForecast play() {
    publish();
    one_step();
    forecast_ = {};
    const double begin = now_;
    one_step();
    forecast_.turns = plan_.turns();
    forecast_.forward_backward = input_.turn_seconds * static_cast<double>(plan_.turns());
    forecast_.optimizer = input_.optimizer_seconds;
    forecast_.exposed = std::max(0.0, now_ - begin - forecast_.forward_backward - forecast_.optimizer);
    // The threads of a kernel share their work evenly, so all of them wait for the one that lost its core.
    forecast_.slowed = input_.speed.core_share * std::max(0.0, forecast_.communication - forecast_.exposed);
    return forecast_;
  }

 private:
  // Time.

  void compute(double products) { now_ += products * seconds_; }
  void wait(double finish) { now_ = std::max(now_, finish); }
  /// The communication thread does one job after the other. Returns when this one is done.
  double submit(double seconds) {
    forecast_.communication += seconds;
    return free_ = std::max(free_, now_) + seconds;
  }

  // What travels.

  int ranks() const { return plan_.ranks(); }
  double seconds_of(const Sizes& parts, double bytes_per_second) {
    const int64_t longest = std::ranges::max(parts), rounds = ranks() - 1;
    const int64_t messages = rounds * ((longest + message_bytes - 1) / message_bytes);
    forecast_.messages += messages;
    const double bytes = static_cast<double>(rounds * longest);
    return static_cast<double>(messages) * input_.speed.latency + (bytes_per_second > 0 ? bytes / bytes_per_second : 0);
  }
  /// Two messages to every other rank.
  double compressed_sum(int64_t values) {
    const double bytes = static_cast<double>(values) * input_.compressed->bytes;
    const int64_t messages = 2 * (ranks() - 1);
    forecast_.messages += messages;
    forecast_.gradient_bytes += std::llround(bytes);
    const double rate = input_.speed.gathered_bytes_per_second;
    return static_cast<double>(messages) * input_.speed.latency + (rate > 0 ? bytes / rate : 0) +
           static_cast<double>(values) * input_.compressed->processor_seconds;
  }
  /// Every other rank is sent what it owns.
  double scatter(const Sizes& parts, int64_t& sent) {
    for (int rank = 0; rank < ranks(); ++rank)
      if (rank != plan_.rank()) sent += parts[index(rank)];
    return seconds_of(parts, input_.speed.summed_bytes_per_second);
  }
  /// A ring: all is passed on but what the next rank owns.
  double gather(const Sizes& parts, int64_t& sent) {
    for (int rank = 0; rank < ranks(); ++rank)
      if (rank != (plan_.rank() + 1) % ranks()) sent += parts[index(rank)];
    return seconds_of(parts, input_.speed.gathered_bytes_per_second);
  }

  template <class ElementBits>
  void add_parts(Sizes& parts, int bucket, ElementBits&& element_bits) const {
    for (int rank = 0; rank < ranks(); ++rank)
      for (const Run& run : plan_.partition().runs(bucket, rank))
        parts[index(rank)] += run.count * element_bits(layout_.parameters()[index(run.tensor)]) / 8;
  }

  void begin_sum(int bucket) {
    if (ranks() == 1) return;
    Sizes parts(index(ranks()));
    if (input_.compressed) {
      add_parts(parts, bucket, [](const ParameterInfo&) { return int64_t{8}; });  // so that values are counted
      summed_[index(bucket)] = submit(compressed_sum(std::accumulate(parts.begin(), parts.end(), int64_t{0})));
      return;
    }
    const int64_t element = input_.wire == Wire::bf16 ? 16 : 32;
    add_parts(parts, bucket, [&](const ParameterInfo&) { return element; });
    double seconds = scatter(parts, forecast_.gradient_bytes);
    if (plan_.shard() == Shard::none) seconds += gather(parts, forecast_.gradient_bytes);
    summed_[index(bucket)] = submit(seconds);
  }
  void gather_unit(int unit) {
    if (ranks() == 1) return;
    Sizes parts(index(ranks()));
    for (const int bucket : plan_.buckets_of_unit(unit))
      add_parts(parts, bucket, [&](const ParameterInfo& info) {
        if (const int bits = plan_.code_bits(info.buffer)) return static_cast<int64_t>(bits);
        return static_cast<int64_t>(8 * size_of(is_vector(info.kind) ? DType::f32 : input_.operands));
      });
    gathered_[index(unit)] = submit(gather(parts, forecast_.weight_bytes));
  }
  /// The largest of all ranks for each buffer that travels as codes: to the owners of these numbers, and back.
  void share_scales() {
    const int64_t scales = std::ranges::count_if(plan_.code_bits(), [](int bits) { return bits > 0; });
    if (ranks() == 1 || scales == 0) return;
    Sizes owned;
    for (int rank = 0; rank < ranks(); ++rank)
      owned.push_back((scales * (rank + 1) / ranks() - scales * rank / ranks()) * static_cast<int64_t>(sizeof(float)));
    const double seconds = scatter(owned, forecast_.weight_bytes) + gather(owned, forecast_.weight_bytes);
    wait(submit(seconds));
  }
  /// Rounds of distance 1, 2, 4 ...: in each a rank passes on as many ranks' numbers as it has.
  void agree() {
    int64_t sent = 0;
    double seconds = 0;
    for (int distance = 1; distance < ranks(); distance *= 2) {
      for (int i = 0; i < std::min(distance, ranks() - distance); ++i)
        sent += ((input_.z_loss ? 2 : 1) * plan_.turns() +
                 std::ssize(plan_.partition().blocks_of((plan_.rank() + i) % ranks())) + input_.statistics +
                 input_.config.layers * input_.config.heads) *
                static_cast<int64_t>(sizeof(double));
      ++forecast_.messages;
      seconds += input_.speed.latency;
    }
    if (input_.speed.gathered_bytes_per_second > 0)
      seconds += static_cast<double>(sent) / input_.speed.gathered_bytes_per_second;
    forecast_.control_bytes += sent;
    wait(submit(seconds));
  }

  // As ShardedWeights and GradientSum.

  void publish() {
    if (plan_.shard() == Shard::none) return;
    if (plan_.shard() == Shard::parameters) {
      share_scales();
      return rotating_.clear();
    }
    for (int unit = 0; unit < layout_.units(); ++unit) gather_unit(unit);
  }
  void await_weights(int unit) {
    if (plan_.shard() == Shard::parameters)
      for (const int missing : rotating_.come_to(unit)) gather_unit(missing);
    wait(gathered_[index(unit)]);
  }
  void await_gradients(int unit) {
    if (plan_.shard() < Shard::gradients) return;
    for (int before = 0; before < layout_.units(); ++before)
      if (share_gradient_memory(layout_, unit, before))
        for (const int bucket : plan_.buckets_of_unit(before)) wait(summed_[index(bucket)]);
  }
  void ready(int64_t turn, int buffer) {
    if (plan_.shard() < Shard::gradients && turn + 1 < plan_.turns()) return;
    if (plan_.completes_bucket(buffer)) begin_sum(plan_.bucket_of(buffer));
  }

  // As Llama; the time of a product is its share of the turn's.

  double products_of(int buffer) const {
    const BufferInfo& info = layout_.buffers()[index(buffer)];
    return is_vector(info.kind) ? 0 : static_cast<double>(info.rows * info.cols);
  }
  double block_products(int64_t layer, double attention) const {
    const int l = static_cast<int>(layer);
    return products_of(layout_.qkv(l)) + attention + products_of(layout_.output(l)) + products_of(layout_.gate_up(l)) +
           products_of(layout_.down(l));
  }
  /// Forward, and twice as many products backward; and once more forward where activations are not kept.
  double passes() const { return input_.recompute == Recompute::block ? 4 : 3; }

  void forward() {
    await_weights(layout_.embedding_unit());
    for (int64_t layer = 0; layer < input_.config.layers; ++layer) {
      await_weights(layout_.block_unit(layer));
      compute(block_products(layer, attention_));
    }
    await_weights(layout_.head_unit());
  }
  void backward(int64_t turn) {
    await_gradients(layout_.head_unit());
    compute(3 * products_of(layout_.head()));
    if (!layout_.tied()) ready(turn, layout_.head());
    ready(turn, layout_.final_norm());
    for (int layer = static_cast<int>(input_.config.layers) - 1; layer >= 0; --layer) {
      await_weights(layout_.block_unit(layer));
      await_gradients(layout_.block_unit(layer));
      if (input_.recompute == Recompute::block) compute(block_products(layer, attention_));
      for (const int buffer : layout_.backward_order()) {
        if (layout_.buffers()[index(buffer)].layer != layer) continue;
        compute(2 * (products_of(buffer) + (buffer == layout_.qkv(layer) ? attention_ : 0)));
        ready(turn, buffer);
      }
    }
    await_gradients(layout_.embedding_unit());
    ready(turn, layout_.embedding());
  }
  // As WholeMatrices, whose waves are about equally long.

  int64_t bytes_in_run(int matrix, int rank) const {
    const MatrixWork& work = input_.matrices[index(matrix)];
    return plan_.partition().runs(rank)[index(work.parameter)].count * static_cast<int64_t>(size_of(work.type));
  }
  /// What this rank has of the others' matrices of a wave, and what the others have of its own.
  double bring(const MatrixWave& wave, bool to_owners) {
    int64_t sent = 0, received = 0, messages = 0;
    for (int owner = 0; owner < ranks(); ++owner)
      for (const int matrix : wave[index(owner)])
        for (int rank = 0; rank < ranks(); ++rank) {
          const int64_t bytes = rank == owner ? 0 : bytes_in_run(matrix, rank);
          const bool sends = to_owners ? rank == plan_.rank() : owner == plan_.rank();
          if (sends && bytes > 0) {
            sent += bytes;
            ++messages;
          } else if (to_owners ? owner == plan_.rank() : rank == plan_.rank()) {
            received += bytes;
          }
        }
    forecast_.matrix_bytes += sent;
    forecast_.messages += messages;
    const double rate = input_.speed.gathered_bytes_per_second;
    return submit((messages > 0 ? input_.speed.latency : 0) +
                  (rate > 0 ? static_cast<double>(std::max(sent, received)) / rate : 0));
  }
  double share_results(const MatrixWave& wave) {
    Sizes parts;
    for (const std::vector<int>& own : wave) {
      int64_t& bytes = parts.emplace_back(0);
      for (const int matrix : own) {
        const MatrixWork& work = input_.matrices[index(matrix)];
        bytes += layout_.parameters()[index(work.parameter)].size() * static_cast<int64_t>(size_of(work.type));
      }
    }
    return submit(gather(parts, forecast_.matrix_bytes));
  }
  void update() {
    if (ranks() == 1 || waves_.empty()) {
      now_ += input_.optimizer_seconds;
      return;
    }
    const bool sharded = plan_.shard() != Shard::none;
    double arrived = sharded ? bring(waves_.front(), true) : now_, returned = now_;
    for (size_t wave = 0; wave < waves_.size(); ++wave) {
      const double arrives = sharded && wave + 1 < waves_.size() ? bring(waves_[wave + 1], true) : now_;
      wait(arrived);
      now_ += input_.optimizer_seconds / static_cast<double>(waves_.size());
      const double returns = sharded ? bring(waves_[wave], false) : share_results(waves_[wave]);
      wait(std::exchange(returned, returns));
      arrived = arrives;
    }
    wait(returned);
  }
  void one_step() {
    for (int64_t turn = 0; turn < plan_.turns(); ++turn) {
      forward();
      backward(turn);
    }
    for (const double finish : summed_) wait(finish);
    agree();
    update();
    publish();
  }

  const ParameterLayout& layout_;
  const ShardPlan& plan_;
  const ForecastInput& input_;
  RotatingUnits rotating_;
  std::vector<MatrixWave> waves_;          ///< of input_.matrices
  double seconds_ = 0;                     ///< of one product of a weight with a micro-batch
  double attention_ = 0;                   ///< of a block, in such products
  double now_ = 0;                         ///< of the thread that computes
  double free_ = 0;                        ///< the communication thread has done all that it was given
  std::vector<double> gathered_, summed_;  ///< when the last gather of a unit and the last sum of a bucket are done
  StepForecast forecast_;
};

}  // namespace

StepForecast forecast_step(const ParameterLayout& layout, const ShardPlan& plan, const ForecastInput& input) {
  return Step(layout, plan, input).play();
}

}  // namespace nibble
