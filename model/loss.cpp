#include "model/loss.hpp"

#include <algorithm>

#include "tensor/convert.hpp"
#include "tensor/gemm.hpp"

namespace nibble {
namespace {

/// As many tokens as `bytes` hold rows of `row_bytes`, in multiples of 64, at least 64.
int64_t tokens_in(int64_t bytes, int64_t row_bytes, int64_t tokens) {
  return std::min(tokens, std::max<int64_t>(bytes / row_bytes / 64 * 64, 64));
}

}  // namespace

LossScratch::LossScratch(Arena& arena, int64_t tokens, int64_t vocabulary, DType type, bool training) {
  // A chunk reads the whole head once, 41 MB beside 21 GFLOP at V = 32000, d = 640 and 512 tokens. The head's gradient
  // is read and written once a group: as a product of 512 tokens that would be 164 MB beside the same 21 GFLOP.
  constexpr int64_t chunk_bytes = int64_t{64} << 20, group_bytes = int64_t{256} << 20;
  const int64_t chunk = tokens_in(chunk_bytes, 4 * vocabulary, tokens);
  logits = arena.take(DType::f32, chunk, vocabulary);
  if (training)
    dlogits = type == DType::f32
                  ? logits
                  : arena.take(type, tokens_in(group_bytes, int64_t(size_of(type)) * vocabulary, tokens), vocabulary);
  losses = arena.take(DType::f32, 2, tokens);
}

void head_loss(Stream& stream, const Tensor& x, const Tensor& head, std::span<const int32_t> targets,
               const LossScratch& scratch, const LossGradients* gradients) {
  const auto of_tokens = [&](int64_t row) {
    return std::span(static_cast<float*>(scratch.losses.slice_rows(row, 1).data), targets.size());
  };
  const std::span<float> losses = of_tokens(0), log_sum_exps = of_tokens(1);
  const auto chunk_loss = [&](int64_t first, int64_t count, const Tensor& dlogits) {
    const Tensor logits = scratch.logits.slice_rows(0, count);
    const auto begin = static_cast<size_t>(first), size = static_cast<size_t>(count);
    gemm(stream, x.slice_rows(first, count), Transpose::no, head, Transpose::yes, logits);
    softmax_cross_entropy(stream, logits, targets.subspan(begin, size),
                          gradients ? gradients->objective : TokenObjective(), losses.subspan(begin, size),
                          log_sum_exps.subspan(begin, size), dlogits);
  };
  const int64_t chunk = scratch.logits.rows, group = gradients ? scratch.dlogits.rows : x.rows;
  for (int64_t start = 0; start < x.rows; start += group) {
    const int64_t end = std::min(start + group, x.rows);
    for (int64_t first = start; first < end; first += chunk) {
      const int64_t count = std::min(chunk, end - first);
      chunk_loss(first, count, gradients ? scratch.dlogits.slice_rows(first - start, count) : Tensor());
    }
    if (!gradients) continue;
    const Tensor dlogits = scratch.dlogits.slice_rows(0, end - start);
    gemm(stream, dlogits, Transpose::no, head, Transpose::no, gradients->dx.slice_rows(start, end - start));
    gemm(stream, dlogits, Transpose::yes, x.slice_rows(start, end - start), Transpose::no, gradients->dhead,
         start == 0 ? Tensor() : gradients->dhead);
  }
}

/// The first tokens' losses on the host; `copied` holds them where they lie on a device.
static Tensor losses_on_host(Stream& stream, const LossScratch& scratch, int64_t tokens, OwnedTensor& copied) {
  const Tensor losses = scratch.losses.slice_cols(0, tokens);
  if (!stream.on_device()) return losses;
  copied = OwnedTensor(DType::f32, losses.rows, losses.cols, "losses of tokens");
  copy(stream, losses, copied);
  stream.wait();
  return copied;
}

void token_losses(Stream& stream, const LossScratch& scratch, std::span<float> losses) {
  OwnedTensor copied;
  const Tensor seen = losses_on_host(stream, scratch, std::ssize(losses), copied);
  std::copy_n(seen.row<float>(0), losses.size(), losses.begin());
}

LossSums loss_sums(Stream& stream, const LossScratch& scratch, int64_t tokens) {
  OwnedTensor copied;
  const Tensor seen = losses_on_host(stream, scratch, tokens, copied);
  LossSums sums;
  for (int64_t t = 0; t < tokens; ++t) {
    sums.cross_entropy += seen.row<float>(0)[t];
    const double log_sum_exp = seen.row<float>(1)[t];
    sums.squared_log_sum_exp += log_sum_exp * log_sum_exp;
  }
  return sums;
}

}  // namespace nibble
