#include "model/loss.hpp"

#include <algorithm>

#include "tensor/gemm.hpp"

namespace nibble {
namespace {

/// As many tokens as 64 MiB of logits hold, 64 to 1024. The head's weight gradient is read and written once a chunk:
/// at V = 32000, d = 640 and 512 tokens that is 164 MB (8 ms at 20 GB/s) beside 63 GFLOP (30 ms at 2 TFLOP/s).
int64_t tokens_per_chunk(int64_t tokens, int64_t vocabulary) {
  return std::min(tokens, std::clamp<int64_t>((int64_t{64} << 20) / (4 * vocabulary) / 64 * 64, 64, 1024));
}

}  // namespace

LossScratch::LossScratch(Arena& arena, int64_t tokens, int64_t vocabulary, DType type, bool training) {
  const int64_t chunk = tokens_per_chunk(tokens, vocabulary);
  logits = arena.take(DType::f32, chunk, vocabulary);
  if (training) dlogits = type == DType::f32 ? logits : arena.take(type, chunk, vocabulary);
  losses = arena.take(DType::f32, 1, tokens);
}

double head_loss(Stream& stream, const Tensor& x, const Tensor& head, std::span<const int32_t> targets,
                 const LossScratch& scratch, const LossGradients* gradients) {
  const std::span<float> losses(scratch.losses.as<float>(), targets.size());
  for (int64_t first = 0; first < x.rows; first += scratch.logits.rows) {
    const int64_t count = std::min(scratch.logits.rows, x.rows - first);
    const Tensor rows = x.slice_rows(first, count), logits = scratch.logits.slice_rows(0, count);
    const Tensor dlogits = gradients ? scratch.dlogits.slice_rows(0, count) : Tensor();
    gemm(stream, rows, Transpose::no, head, Transpose::yes, logits);
    softmax_cross_entropy(stream, logits, targets.subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
                          gradients ? gradients->scale : 0.0f,
                          losses.subspan(static_cast<size_t>(first), static_cast<size_t>(count)), dlogits);
    if (!gradients) continue;
    const bool overwrite = first == 0 && !gradients->accumulate;
    gemm(stream, dlogits, Transpose::no, head, Transpose::no, gradients->dx.slice_rows(first, count));
    gemm(stream, dlogits, Transpose::yes, rows, Transpose::no, gradients->dhead,
         overwrite ? Tensor() : gradients->dhead);
  }
  double sum = 0;
  for (const float loss : losses) sum += loss;
  return sum;
}

}  // namespace nibble
