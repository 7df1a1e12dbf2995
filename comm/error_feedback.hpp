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

/// Which elements of a vector are sent.
struct Selection {
  enum class Of { buckets, all };
  Of of = Of::buckets;
  int64_t k = 4;  ///< of each bucket, or of the whole vector

  bool operator==(const Selection&) const = default;
};

class ErrorFeedback {
 public:
  /// For vectors of `length` elements; the residual is zero. Throws Error{configuration} as check_indexable.
  explicit ErrorFeedback(int64_t length);

  /// The selected elements of residual + gradient, as they travel: with Wire::bf16 rounded to nearest. The rest waits
  /// for `commit`; until then a second call begins anew. Throws as top_k_of_buckets and top_k.
  SparseStream select(Stream& stream, std::span<const float> gradient, const Selection& selection, Wire wire);
  /// The step counts: what `select` left is the residual.
  void commit();
  /// The step was refused: the residual stays what it was.
  void discard() { pending_is_new_ = false; }

  /// What has not been sent by the last step that counted.
  std::span<const float> residual() const { return {residual_.view().as<float>(), static_cast<size_t>(length_)}; }
  /// |what the last `select` left|^2, or the residual's if nothing is pending.
  double square_of_rest() const;
  /// What a resumed run needs: this rank's row of [ranks, length]. The list holds until the next commit.
  void state(StateList& list, const std::string& name, int rank, int ranks);

 private:
  int64_t length_;
  OwnedTensor residual_, pending_;
  bool pending_is_new_ = false;
};

}  // namespace nibble
