// Master weights and the model's working copy, of which a rank may keep only its own part.
//
// With `shard: none` every rank has all of both. From `optimizer` on a rank has the masters of its own runs; after an
// update the working copies are gathered, in the order of the forward pass and while that goes on. With `parameters`
// they are not kept either: each unit is gathered before it is used, the next one while this one computes; as codes,
// where the plan says so.
// Not for: gradients (gradient_sum.hpp), updates (optim/).
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "comm/communication_thread.hpp"
#include "model/llama.hpp"
#include "optim/offloaded_state.hpp"
#include "optim/optimizer.hpp"
#include "tensor/pinned_arena.hpp"
#include "trainer/own_codes.hpp"
#include "trainer/rotating_units.hpp"
#include "trainer/shard_plan.hpp"

namespace nibble {

class ShardedWeights {
 public:
  /// `offloaded`: the masters of a device's stream lie in pinned memory of the host (optim/offloaded_state.hpp). All
  /// other arguments must outlive the object.
  ShardedWeights(Stream& stream, const Llama& model, CommunicationThread& thread, const ShardPlan& plan,
                 bool offloaded = false);

  /// What the model's passes run on, values or codes; awaiting a unit brings it. All ranks await the same units in the
  /// same order.
  const ParameterSet& working() const { return working_; }

  /// What this rank updates, without gradients: all parameters, whole or this rank's runs.
  const std::vector<OptimizedParameter>& parameters() const { return parameters_; }

  /// Of a buffer that travels as codes, this rank's rows; none of others, which are whole in working().
  std::vector<OwnCodes::Rows> coded_rows(int buffer) const { return codes_.rows(parameters_, buffer); }

  /// Is given the index and the whole f32 matrix of a parameter, packed, in host memory, and overwrites it.
  using WriteWhole = std::function<void(size_t parameter, const Tensor& whole)>;
  /// Of each parameter of which this rank has masters. `publish` comes next.
  void fill(const WriteWhole& write);

  /// This rank's working copies follow its masters; `publish` comes next.
  void round();
  /// After a change of this rank's working copies: the other ranks get them.
  void publish();

  /// The fp32 masters: "weights/model.norm.weight".
  void state(StateList& list);

 private:
  void keep_all(bool offloaded);
  void keep_own(const Llama& model, bool offloaded);
  void keep_own_working(const Llama& model);
  /// Masters to the host, from which they pass.
  void offload();
  void fill_whole(size_t parameter, const WriteWhole& write);
  /// What is being sent must not change.
  void settle();
  void bring(int unit);
  void gather(int unit);

  Stream& stream_;
  const ParameterLayout& layout_;
  CommunicationThread& thread_;
  const ShardPlan& plan_;
  ParameterSet whole_masters_, working_;
  Arena own_masters_, own_working_;
  PinnedArena offloaded_masters_;
  std::vector<OptimizedParameter> parameters_;
  std::optional<OffloadedState> offloaded_;
  OwnCodes codes_;                                    ///< of what the others get as codes
  std::vector<Parts> gathered_;                       ///< by unit
  std::vector<Pieces> own_;                           ///< by unit: this rank's part where it is kept, if not in place
  std::vector<CommunicationThread::Ticket> tickets_;  ///< by unit: of the last gather
  RotatingUnits rotating_;                            ///< of the working copies, where they are not kept
};

}  // namespace nibble
