// Attention's passes give the same bits with any number of threads, whatever stood in the scratch memory before.
#include "model/attention.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "tensor/convert.hpp"
#include "tensor/fill.hpp"

namespace nibble {
namespace {

constexpr int64_t heads = 6, kv_heads = 2, head_dim = 40, sequences = 2;

enum class Documents { one, regular, uneven };

std::vector<int32_t> document_starts(Documents documents, int64_t length) {
  std::vector<int32_t> starts;
  if (documents == Documents::one) return starts;
  for (int64_t t = 0; t < sequences * length; ++t) {
    const int64_t position = t % length;
    const int64_t uneven = position < 600 ? 0 : position < 1024 ? 600 : 1024 + (position - 1024) / 200 * 200;
    starts.push_back(static_cast<int32_t>(documents == Documents::regular ? position / 77 * 77 : uneven));
  }
  return starts;
}

/// NaN in every element and every padding.
void poison(const Tensor& x) { std::memset(x.data, 0xff, static_cast<size_t>(x.rows * x.stride) * size_of(x.dtype)); }

/// y, log-sum-exp and dqkv as bytes.
std::string results(int threads, DType type, int64_t length, Documents documents) {
  Stream stream(threads);
  const AttentionShape shape{sequences, length, heads, kv_heads, head_dim};
  const auto normal = [&](int64_t cols, uint32_t id) {
    const OwnedTensor values(DType::f32, shape.tokens(), cols);
    fill_normal(stream, RandomStream(3, Purpose::sampling, 0, id), 1.0f, values);
    OwnedTensor result(type, shape.tokens(), cols);
    convert(stream, values, result);
    return result;
  };
  const OwnedTensor qkv = normal(shape.query_width() + 2 * shape.kv_width(), 1), dy = normal(shape.query_width(), 2),
                    y(type, shape.tokens(), shape.query_width()), log_sum_exp(DType::f32, heads, shape.tokens()),
                    dqkv(type, shape.tokens(), qkv.view().cols);
  AttentionScratch scratch;
  const Arena arena("scratch", [&](Arena& memory) { scratch = AttentionScratch(memory, shape, type, stream, true); });
  for (int thread = 0; thread < threads; ++thread) {
    const AttentionScratch::Part& part = scratch.part(thread);
    for (const Tensor& x : {part.scores, part.probabilities, part.output, part.dscores, part.dkey, part.dvalue})
      poison(x);
  }
  for (const Tensor& x : {scratch.delta(), scratch.dquery(), dqkv.view()}) poison(x);
  const std::vector<int32_t> starts = document_starts(documents, length);
  attention_forward(stream, shape, qkv, starts, scratch, y, log_sum_exp);
  attention_backward(stream, shape, dy, qkv, starts, y, log_sum_exp, scratch, dqkv);
  const OwnedTensor wide(DType::f32, dqkv.view().rows, dqkv.view().cols);
  convert(stream, dqkv, wide);
  for (int64_t i = 0; i < wide.view().size(); ++i) EXPECT_TRUE(std::isfinite(wide.view().as<float>()[i])) << i;
  std::string bytes;
  for (const OwnedTensor* x : {&y, &log_sum_exp, &dqkv})
    bytes.append(static_cast<const char*>(x->view().data), x->view().bytes());
  return bytes;
}

TEST(Attention, GivesTheSameBitsWithAnyNumberOfThreads) {
  for (const DType type : {DType::f32, DType::bf16})
    for (const int64_t length : {1, 130, 513, 1300})
      for (const Documents documents : {Documents::one, Documents::regular, Documents::uneven}) {
        const std::string expected = results(1, type, length, documents);
        for (const int threads : {2, 5})
          EXPECT_EQ(results(threads, type, length, documents) == expected, true)
              << name(type) << ", length " << length << ", documents " << static_cast<int>(documents) << ", " << threads
              << " threads";
      }
}

}  // namespace
}  // namespace nibble
