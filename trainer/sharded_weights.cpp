#include "trainer/sharded_weights.hpp"

#include <algorithm>

#include "comm/wire_work.hpp"
#include "tensor/convert.hpp"

namespace nibble {
namespace {

constexpr int nothing = -1;

size_t index(int i) { return static_cast<size_t>(i); }

/// The same bytes, cut into pieces elsewhere.
void copy_pieces(const WireWork& work, const Pieces& from, const Pieces& to) {
  size_t copied = 0;
  for (const std::span<std::byte> piece : from) {
    work.unpack(piece, to, copied);
    copied += piece.size();
  }
}

}  // namespace

ShardedWeights::ShardedWeights(Stream& stream, const Llama& model, CommunicationThread& thread, const ShardPlan& plan,
                               bool offloaded)
    : stream_(stream),
      layout_(model.layout()),
      thread_(thread),
      plan_(plan),
      working_(model.make_weights(plan.shard() == Shard::parameters ? Residency::rotating : Residency::all,
                                  plan.code_bits())),
      rotating_(model.layout()) {
  if (plan.shard() == Shard::none) {
    keep_all(offloaded);
    return;
  }
  keep_own(model, offloaded);
  for (int unit = 0; unit < layout_.units(); ++unit) gathered_.push_back(plan.unit_parts(unit, working_));
  tickets_.assign(gathered_.size(), nothing);
  working_.on_await([this](int unit) { bring(unit); });
}

void ShardedWeights::keep_all(bool offloaded) {
  if (!offloaded)
    whole_masters_ =
        ParameterSet(layout_, DType::f32, DType::f32, false, "master weights", Residency::all, {}, stream_.place());
  for (size_t i = 0; i < layout_.parameters().size(); ++i)
    parameters_.push_back({.info = &layout_.parameters()[i],
                           .master = offloaded ? Tensor() : whole_masters_[i],
                           .gradient = {},
                           .working = working_[i],
                           .number = static_cast<int>(i)});
  if (offloaded) offload();
}

void ShardedWeights::offload() {
  const std::vector<Run>& runs = plan_.partition().runs(plan_.rank());
  offloaded_masters_ = PinnedArena("pinned master weights", [&](PinnedArena& arena) {
    for (OptimizedParameter& parameter : parameters_) {
      const ParameterInfo& info = *parameter.info;
      parameter.master = parameter.owned ? arena.take_packed(DType::f32, 1, runs[index(parameter.number)].count)
                                         : arena.take_packed(DType::f32, info.rows, info.cols);
    }
  });
  constexpr int64_t portion = int64_t{1} << 20;  // small: masters are rounded by themselves once in a run
  offloaded_ = offloaded_state(parameters_, {}, portion);
}

void ShardedWeights::keep_own(const Llama& model, bool offloaded) {
  const Partition& partition = plan_.partition();
  const std::vector<Run>& runs = partition.runs(plan_.rank());
  for (const Run& run : runs)
    parameters_.push_back({.info = &layout_.parameters()[index(run.tensor)],
                           .master = {},
                           .gradient = {},
                           .working = working_[index(run.tensor)],
                           .owned = true,
                           .first = run.first,
                           .working_first = run.first,
                           .number = run.tensor});
  if (!offloaded)
    own_masters_ = Arena(
        "master weights",
        [&](Arena& arena) {
          for (const Run& run : runs) parameters_[index(run.tensor)].master = arena.take(DType::f32, 1, run.count);
        },
        stream_.place());
  if (plan_.shard() == Shard::parameters) keep_own_working(model);
  if (offloaded) offload();
}

void ShardedWeights::keep_own_working(const Llama& model) {
  const Partition& partition = plan_.partition();
  const std::vector<Run>& runs = partition.runs(plan_.rank());
  const auto lay_out_working = [&](Arena& arena) {
    for (const Run& run : runs) {
      OptimizedParameter& parameter = parameters_[index(run.tensor)];
      // Values, whatever the others get of them.
      const DType type = is_vector(parameter.info->kind) ? DType::f32 : model.precision().operands();
      parameter.working = arena.take(type, 1, run.count);
      parameter.working_first = 0;
    }
  };
  own_working_ = Arena("weights", lay_out_working, stream_.place());
  codes_ = OwnCodes(model, plan_, parameters_, stream_.place());
  own_.resize(index(layout_.units()));
  for (int unit = 0; unit < layout_.units(); ++unit)
    for (const int bucket : plan_.buckets_of_unit(unit))
      for (const Run& run : partition.runs(bucket, plan_.rank())) {
        const Tensor& codes = codes_.of(run.tensor);
        const Tensor& sent = codes ? codes : parameters_[index(run.tensor)].working;
        append_pieces(own_[index(unit)], sent, 0, sent.size());
      }
}

void ShardedWeights::fill(const WriteWhole& write) {
  if (plan_.shard() == Shard::none) {
    for (size_t i = 0; i < parameters_.size(); ++i) fill_whole(i, write);
    return round();
  }
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const OptimizedParameter& parameter = parameters_[i];
    if (parameter.master.size() == 0) continue;
    const OwnedTensor whole(DType::f32, parameter.info->rows, parameter.info->cols);
    write(i, whole);
    copy(stream_, whole.view().run(parameter.first, parameter.master.size()), parameter.master);
    stream_.wait();
  }
  round();
}

void ShardedWeights::fill_whole(size_t parameter, const WriteWhole& write) {
  const Tensor& master = parameters_[parameter].master;
  if (master.place == Place::host) return write(parameter, master);
  const OwnedTensor there(DType::f32, master.rows, master.cols);
  write(parameter, there);
  copy(stream_, there, master);
  stream_.wait();
}

void ShardedWeights::settle() {
  for (const CommunicationThread::Ticket ticket : tickets_)
    if (ticket != nothing) thread_.wait(ticket);
}

void ShardedWeights::round() {
  settle();
  if (!offloaded_) return refresh_working_copies(stream_, parameters_);
  offloaded_->pass(stream_, [this](std::span<const OffloadedState::Piece> pieces) {
    refresh_working_copies(stream_, parameters_of(pieces));
  });
}

void ShardedWeights::publish() {
  if (plan_.shard() == Shard::none) return;
  if (plan_.shard() == Shard::parameters) {
    settle();
    codes_.follow(parameters_, thread_, working_);
    return rotating_.clear();
  }
  for (int unit = 0; unit < layout_.units(); ++unit) gather(unit);
}

void ShardedWeights::gather(int unit) {
  tickets_[index(unit)] = thread_.submit([this, unit](Communicator& ranks) {
    const Parts& parts = gathered_[index(unit)];
    if (!own_.empty()) copy_pieces(WireWork(ranks), own_[index(unit)], parts[index(plan_.rank())]);
    all_gather(ranks, parts);
  });
}

void ShardedWeights::bring(int unit) {
  if (plan_.shard() == Shard::parameters)
    for (const int missing : rotating_.come_to(unit)) gather(missing);
  thread_.wait(tickets_[index(unit)]);
}

void ShardedWeights::state(StateList& list) {
  for (const OptimizedParameter& parameter : parameters_) add_state(list, "weights", parameter, parameter.master);
}

}  // namespace nibble
