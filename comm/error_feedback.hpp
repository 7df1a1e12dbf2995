// Error feedback: what a rank did not send is added to what it has to send next.
//
// The residual changes only when the step counts. What is sent and what stays add up to what came in, bit for bit
// (Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", NeurIPS 2018).
// Not for: who gets what is sent (sparse_allreduce.hpp).
#pragma once

#include <string>

#include "comm/collectives.hpp"
#include "comm/top_k.hpp"
#include "tensor/state.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

class ErrorFeedback {
 public:
  /// For vectors of `length` elements in the host's memory or a device's, where the residual lies, too; it is zero.
  /// Throws Error{configuration} as check_indexable.
  explicit ErrorFeedback(int64_t length, Place place = Place::host);

  /// The selected elements of residual + gradient, as they travel: with Wire::bf16 rounded to nearest. The rest waits
  /// for `commit`; until then a second call begins anew. Throws as top_k_of_buckets and top_k.
  SparseStream select(Stream& stream, std::span<const float> gradient, const Selection& selection, Wire wire);
  /// The same in a device's memory, queued: entries become as many as the selection has; `working` is as large as
  /// top_k_working_bytes (cuda/top_k.hpp) says.
  void select(Stream& stream, const float* gradient, const Selection& selection, Wire wire, SparseEntry* entries,
              void* working);
  /// The step counts: what `select` left is the residual.
  void commit();
  /// The step was refused: the residual stays what it was.
  void discard() { pending_is_new_ = false; }

  /// What has not been sent by the last step that counted.
  std::span<const float> residual() const { return vector(residual_); }
  /// What the last `select` left, or the residual if nothing is pending.
  std::span<const float> rest() const { return vector(pending_is_new_ ? pending_ : residual_); }
  /// What a resumed run needs: this rank's row of [ranks, length]. The list holds until the next commit.
  void state(StateList& list, const std::string& name, int rank, int ranks);

 private:
  std::span<const float> vector(const Tensor& of) const {
    return {static_cast<const float*>(of.data), static_cast<size_t>(length_)};
  }

  int64_t length_;
  OwnedTensor residual_, pending_;
  bool pending_is_new_ = false;
};

}  // namespace nibble
