// The element-wise kernels give the same bits with AVX2 and AVX-512 and with any number of threads.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>

#include "model/cached_attention.hpp"
#include "model/embedding.hpp"
#include "model/loss.hpp"
#include "model/norm.hpp"
#include "model/rope.hpp"
#include "model/swiglu.hpp"
#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "tensor/fill.hpp"
#include "tests/tensor/scoped_environment.hpp"

namespace nibble {
namespace {

constexpr int64_t tokens = 77, width = 68;

OwnedTensor normal(Stream& stream, DType type, int64_t rows, int64_t cols, uint32_t id) {
  const OwnedTensor wide(DType::f32, rows, cols);
  OwnedTensor result(type, rows, cols);
  fill_normal(stream, RandomStream(3, Purpose::sampling, 0, id), 1.0f, wide);
  convert(stream, wide, result);
  return result;
}

/// All results of all kernels, as bytes.
std::string results(Stream& stream, DType type) {
  std::string bytes;
  const auto keep = [&](const OwnedTensor& x) {
    bytes.append(static_cast<const char*>(x.view().data), x.view().bytes());
  };
  const OwnedTensor x = normal(stream, DType::f32, tokens, width, 1), gain = normal(stream, DType::f32, 1, width, 2);
  const OwnedTensor dy = normal(stream, type, tokens, width, 3), y(type, tokens, width), r(DType::f32, 1, tokens);
  const OwnedTensor dx = normal(stream, DType::f32, tokens, width, 4), operand(type, tokens, width),
                    dgain(DType::f32, 1, width), scratch(DType::f32, rms_norm_scratch_rows(tokens), width);
  rms_norm_forward(stream, x, gain, 1e-5f, y, r);
  rms_norm_backward(stream, dy, x, gain, r, dx, operand, dgain, scratch);
  for (const OwnedTensor* result : {&y, &r, &dx, &operand, &dgain}) keep(*result);

  const OwnedTensor gate_up = normal(stream, type, tokens, 2 * width, 5), activation(type, tokens, width);
  swiglu_forward(stream, gate_up, activation);
  swiglu_backward(stream, dy, gate_up, gate_up);
  keep(activation);
  keep(gate_up);

  const OwnedTensor rotated = normal(stream, type, tokens, width, 6);
  const ModelConfig config{.head_dim = 34, .rope_theta = 1e4};
  rope(stream, RopeTable(config, tokens), 2, 34, tokens, 0, RopeDirection::forward, rotated);
  keep(rotated);

  const OwnedTensor heads = normal(stream, type, tokens, 3 * 34, 11), input(type, tokens, 3 * 34),
                    rms_of_heads(DType::f32, tokens, 3), head_gain = normal(stream, DType::f32, 1, 34, 12),
                    dhead_gain(DType::f32, 1, 34), sums(DType::f32, rms_norm_scratch_rows(tokens), 34);
  const HeadNormSaved saved{input, rms_of_heads};
  head_norm_forward(stream, head_gain, 1e-5f, heads, &saved);
  keep(heads);
  head_norm_backward(stream, head_gain, saved, heads, dhead_gain, sums);
  keep(heads);
  keep(dhead_gain);

  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) ids.push_back(static_cast<int32_t>(t * t % 19));
  const OwnedTensor table = normal(stream, type, 19, width, 7), rows(DType::f32, tokens, width),
                    dtable(DType::f32, 19, width);
  embedding_forward(stream, ids, table, rows);
  embedding_backward(stream, ids, x, {}, dtable);
  keep(rows);
  keep(dtable);

  const OwnedTensor logits = normal(stream, DType::f32, tokens, width, 8), dlogits(type, tokens, width);
  std::vector<float> losses(tokens), log_sum_exps(tokens);
  softmax_cross_entropy(stream, logits, ids, {.scale = 0.01f, .z = 0.001f}, losses, log_sum_exps, dlogits);
  keep(dlogits);
  bytes.append(reinterpret_cast<const char*>(losses.data()), losses.size() * sizeof(float));

  const OwnedTensor keys = normal(stream, type, tokens, 34, 9), values = normal(stream, type, tokens, 34, 10);
  const OwnedTensor attended(type, 3, width), attention_scratch(DType::f32, stream.threads(), tokens + 34);
  cached_attention(stream, 1, 34, tokens - 3, rotated.view().slice_rows(0, 3), keys, values, attention_scratch,
                   attended);
  keep(attended);
  return bytes;
}

TEST(Bits, DoNotDependOnInstructionSetAndThreads) {
  for (const DType type : {DType::f32, DType::bf16}) {
    std::string expected;
    {
      const ScopedEnvironment scope("NIBBLE_ISA", "avx2");
      Stream stream(1);
      expected = results(stream, type);
    }
    for (const char* isa : {"avx2", "avx512"})
      for (const int threads : {1, 2, 3}) {
        const ScopedEnvironment scope("NIBBLE_ISA", isa);
        try {
          Stream stream(threads);
          EXPECT_TRUE(results(stream, type) == expected) << isa << ", " << threads << " threads";
        } catch (const Error& error) {
          EXPECT_STREQ(isa, "avx512") << error.what();  // a machine without it
        }
      }
  }
}

}  // namespace
}  // namespace nibble
