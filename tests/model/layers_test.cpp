// Each layer, forward and backward, against PyTorch in float64 (data/layers.safetensors; shapes in data/README.md).
#include <gtest/gtest.h>

#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "model/attention.hpp"
#include "model/embedding.hpp"
#include "model/loss.hpp"
#include "model/norm.hpp"
#include "model/rope.hpp"
#include "model/swiglu.hpp"
#include "tensor/convert.hpp"
#include "tensor/random.hpp"
#include "tests/model/fixtures.hpp"

namespace nibble {
namespace {

using test::Fixture, test::relative_error;

constexpr double fp32_tolerance = 1e-6;

class Layers : public ::testing::Test {
 protected:
  OwnedTensor like(const Tensor& x) { return {DType::f32, x.rows, x.cols}; }
  OwnedTensor copy(const Tensor& x) {
    OwnedTensor result = like(x);
    convert(stream, x, result);
    return result;
  }

  Stream stream{2};
  Fixture f{test::data("layers.safetensors")};
};

TEST_F(Layers, RmsNorm) {
  const Tensor& x = f["rmsnorm.x"];
  const OwnedTensor y = like(x), inverse_rms(DType::f32, 1, x.rows), dx = like(x), operand = like(x),
                    dgain = like(f["rmsnorm.gain"]), scratch(DType::f32, rms_norm_scratch_rows(x.rows), x.cols);
  rms_norm_forward(stream, x, f["rmsnorm.gain"], 1e-5f, y, inverse_rms);
  EXPECT_LT(relative_error(y, f["rmsnorm.y"]), fp32_tolerance);
  rms_norm_backward(stream, f["rmsnorm.dy"], x, f["rmsnorm.gain"], inverse_rms, dx, operand, dgain, scratch);
  EXPECT_LT(relative_error(dx, f["rmsnorm.dx"]), fp32_tolerance);
  EXPECT_EQ(relative_error(operand, dx), 0);
  EXPECT_LT(relative_error(dgain, f["rmsnorm.dgain"]), fp32_tolerance);
  rms_norm_backward(stream, f["rmsnorm.dy"], x, f["rmsnorm.gain"], inverse_rms, dx, operand, dgain, scratch);
  const OwnedTensor doubled = copy(f["rmsnorm.dx"]);
  add(stream, f["rmsnorm.dx"], doubled);
  EXPECT_LT(relative_error(dx, doubled), fp32_tolerance) << "the gradient of the residual stream is added to";
}

TEST_F(Layers, RmsNormKnownAnswer) {  // reference 6.4
  float x[] = {1, -2, 3, -4}, gain[] = {1, 1, 1, 1}, y[4], inverse_rms[1];
  rms_norm_forward(stream, Tensor(x, 1, 4), Tensor(gain, 1, 4), 1e-5f, Tensor(y, 1, 4), Tensor(inverse_rms, 1, 1));
  const float expected[] = {0.3651481f, -0.7302963f, 1.0954444f, -1.4605925f};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(y[i], expected[i], 2e-7f);
}

// Its definition in double, head by head; heads lie among other columns, and 12 channels are no multiple of a vector.
TEST_F(Layers, HeadNorm) {
  constexpr int64_t tokens = 70, heads = 3, hd = 12, behind = 5;
  constexpr double epsilon = 1e-5;
  const RandomStream random(4, Purpose::sampling);
  uint64_t drawn = 0;
  const OwnedTensor all(DType::f32, tokens, heads * hd + behind), dall(DType::f32, tokens, heads * hd + behind),
      gain(DType::f32, 1, hd);
  for (const Tensor& x : {all.view(), dall.view(), gain.view()})
    for (int64_t i = 0; i < x.size(); ++i)  // bf16 values, so that both types see the same operands
      x.as<float>()[i] = static_cast<float>(bf16(random.normal_pair(drawn++)[0]));
  std::vector<double> y(static_cast<size_t>(tokens * heads * hd)), dx(y.size()), dgain_sum(hd);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t h = 0; h < heads; ++h) {
      const float *x = all.view().row<float>(t) + h * hd, *dy = dall.view().row<float>(t) + h * hd;
      const float* g = gain.view().as<float>();
      double squares = 0, product = 0;
      for (int64_t c = 0; c < hd; ++c) squares += static_cast<double>(x[c]) * x[c];
      for (int64_t c = 0; c < hd; ++c) product += static_cast<double>(g[c]) * dy[c] * x[c];
      const double r = 1 / std::sqrt(squares / hd + epsilon);
      for (int64_t c = 0; c < hd; ++c) {
        const auto at = static_cast<size_t>((t * heads + h) * hd + c);
        y[at] = x[c] * r * g[c];
        dx[at] = r * (static_cast<double>(g[c]) * dy[c] - x[c] * r * r * product / hd);
        dgain_sum[static_cast<size_t>(c)] += dy[c] * x[c] * r;
      }
    }
  for (const DType type : {DType::f32, DType::bf16}) {
    const OwnedTensor operands(type, tokens, heads * hd + behind), gradients(type, tokens, heads * hd + behind),
        input(type, tokens, heads * hd), inverse_rms(DType::f32, tokens, heads), dgain(DType::f32, 1, hd),
        scratch(DType::f32, rms_norm_scratch_rows(tokens), hd), seen(DType::f32, tokens, heads * hd + behind);
    convert(stream, all, operands);
    convert(stream, dall, gradients);
    const Tensor x = operands.view().slice_cols(0, heads * hd), gradient = gradients.view().slice_cols(0, heads * hd);
    const HeadNormSaved saved{input, inverse_rms};
    head_norm_forward(stream, gain, epsilon, x, &saved);
    head_norm_backward(stream, gain, saved, gradient, dgain, scratch);
    const auto expect_near = [&](const OwnedTensor& result, const OwnedTensor& before,
                                 const std::vector<double>& heads_of) {
      convert(stream, result, seen);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t c = 0; c < heads * hd; ++c) {
          const double expected = heads_of[static_cast<size_t>(t * heads * hd + c)];
          ASSERT_NEAR(seen.view().row<float>(t)[c], expected,
                      (type == DType::f32 ? 1e-6 : 0x1p-8) * (1 + std::abs(expected)));
        }
        for (int64_t c = heads * hd; c < heads * hd + behind; ++c)
          ASSERT_EQ(seen.view().row<float>(t)[c], before.view().row<float>(t)[c]) << "not a head's";
      }
    };
    expect_near(operands, all, y);
    expect_near(gradients, dall, dx);
    for (int64_t c = 0; c < hd; ++c) EXPECT_NEAR(dgain.view().as<float>()[c], dgain_sum[static_cast<size_t>(c)], 2e-5);
  }
}

TEST_F(Layers, SwiGlu) {
  const Tensor &gate = f["swiglu.gate"], &up = f["swiglu.up"], &dy = f["swiglu.dy"];
  const int64_t ffn = gate.cols;
  const OwnedTensor gate_up(DType::f32, gate.rows, 2 * ffn), dgate_up(DType::f32, gate.rows, 2 * ffn), y = like(gate);
  convert(stream, gate, gate_up.view().slice_cols(0, ffn));
  convert(stream, up, gate_up.view().slice_cols(ffn, ffn));
  swiglu_forward(stream, gate_up, y);
  EXPECT_LT(relative_error(y, f["swiglu.y"]), fp32_tolerance);
  swiglu_backward(stream, dy, gate_up, dgate_up);
  EXPECT_LT(relative_error(dgate_up.view().slice_cols(0, ffn), f["swiglu.dgate"]), fp32_tolerance);
  EXPECT_LT(relative_error(dgate_up.view().slice_cols(ffn, ffn), f["swiglu.dup"]), fp32_tolerance);
}

TEST_F(Layers, Rope) {
  const ModelConfig config{.width = 64, .heads = 4, .kv_heads = 4, .head_dim = 16, .rope_theta = 1e4};
  const RopeTable table(config, 37);
  const OwnedTensor y = copy(f["rope.x"]), dx = copy(f["rope.dy"]);
  rope(stream, table, 4, 16, 37, 0, RopeDirection::forward, y);
  EXPECT_LT(relative_error(y, f["rope.y"]), fp32_tolerance);
  rope(stream, table, 4, 16, 37, 0, RopeDirection::backward, dx);
  EXPECT_LT(relative_error(dx, f["rope.dx"]), fp32_tolerance);
  // One token at a time from its own position: what the decoder does.
  const OwnedTensor single = copy(f["rope.x"]);
  for (int64_t t = 0; t < 37; ++t)
    rope(stream, table, 4, 16, 1, t, RopeDirection::forward, single.view().slice_rows(t, 1));
  EXPECT_EQ(relative_error(single, y), 0);
}

TEST_F(Layers, RopeKnownAnswer) {  // reference 6.3: hd 4, position 1
  const RopeTable table({.head_dim = 4, .rope_theta = 1e4}, 2);
  float q[] = {1, 2, 3, 4};
  rope(stream, table, 1, 4, 1, 1, RopeDirection::forward, Tensor(q, 1, 4));
  const float expected[] = {-1.9841106f, 1.9599007f, 2.4623779f, 4.0197997f};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(q[i], expected[i], 1e-6f);
}

TEST_F(Layers, RopeFrequenciesOfLlama3) {
  std::ifstream file(test::data("rope_llama3.json"));
  const nlohmann::json cases = nlohmann::json::parse(file);
  int checked = 0;
  for (const nlohmann::json& item : cases["cases"]) {
    ModelConfig config{.head_dim = item["head_dim"], .rope_theta = item["rope_theta"]};
    config.rope_scaling = RopeScaling{item["factor"], item["low_freq_factor"], item["high_freq_factor"],
                                      item["original_max_position_embeddings"]};
    const std::vector<double> frequencies = rope_frequencies(config);
    ASSERT_EQ(frequencies.size(), item["inv_freq"].size());
    for (size_t i = 0; i < frequencies.size(); ++i, ++checked)
      EXPECT_NEAR(frequencies[i] / item["inv_freq"][i].get<double>(), 1, 1e-6) << i;
  }
  EXPECT_EQ(checked, 64 + 32);
}

TEST_F(Layers, Attention) {
  const AttentionShape shape{.sequences = 2, .length = 37, .heads = 4, .kv_heads = 2, .head_dim = 16};
  const OwnedTensor qkv(DType::f32, 74, 128), dqkv(DType::f32, 74, 128), y(DType::f32, 74, 64), lse(DType::f32, 4, 74);
  convert(stream, f["attention.q"], qkv.view().slice_cols(0, 64));
  convert(stream, f["attention.k"], qkv.view().slice_cols(64, 32));
  convert(stream, f["attention.v"], qkv.view().slice_cols(96, 32));
  AttentionScratch scratch;
  const Arena arena("scratch",
                    [&](Arena& memory) { scratch = AttentionScratch(memory, shape, DType::f32, stream, true); });
  std::vector<int32_t> starts(74);
  for (int64_t t = 0; t < 74; ++t) {
    const int32_t* document = f["attention.document"].as<int32_t>();
    starts[static_cast<size_t>(t)] = t % 37 > 0 && document[t] == document[t - 1] ? starts[static_cast<size_t>(t - 1)]
                                                                                  : static_cast<int32_t>(t % 37);
  }
  for (const std::string kind : {"causal", "documents"}) {
    const std::span<const int32_t> document_starts = kind == "causal" ? std::span<const int32_t>() : starts;
    attention_forward(stream, shape, qkv, document_starts, scratch, y, lse);
    EXPECT_LT(relative_error(y, f["attention." + kind + ".out"]), fp32_tolerance) << kind;
    for (int64_t t = 0; t < 74; ++t)
      for (int64_t h = 0; h < 4; ++h)
        EXPECT_NEAR(lse.view().row<float>(h)[t], f["attention." + kind + ".lse"].row<float>(t)[h], 2e-6) << kind;
    attention_backward(stream, shape, f["attention.dout"], qkv, document_starts, y, lse, scratch, dqkv);
    EXPECT_LT(relative_error(dqkv.view().slice_cols(0, 64), f["attention." + kind + ".dq"]), fp32_tolerance) << kind;
    EXPECT_LT(relative_error(dqkv.view().slice_cols(64, 32), f["attention." + kind + ".dk"]), fp32_tolerance) << kind;
    EXPECT_LT(relative_error(dqkv.view().slice_cols(96, 32), f["attention." + kind + ".dv"]), fp32_tolerance) << kind;
  }
}

/// softmax(q k^T / sqrt(hd) + mask) v and its gradients, in double, with the whole matrix of scores.
struct SlowAttention {
  std::vector<double> y, dq, dk, dv;
  std::vector<double> max_logits;  ///< by head

  SlowAttention(const AttentionShape& s, const Tensor& qkv, const Tensor& dy, const std::vector<int32_t>& starts) {
    const int64_t T = s.length, hd = s.head_dim, group = s.heads / s.kv_heads;
    const double scale = 1 / std::sqrt(static_cast<double>(hd));
    y.resize(static_cast<size_t>(s.tokens() * s.query_width()));
    dq = y;
    dk.resize(static_cast<size_t>(s.tokens() * s.kv_width()));
    dv = dk;
    max_logits.assign(static_cast<size_t>(s.heads), -std::numeric_limits<double>::infinity());
    for (int64_t b = 0; b < s.sequences; ++b)
      for (int64_t h = 0; h < s.heads; ++h)
        for (int64_t i = 0; i < T; ++i) {
          const int64_t g = h / group, start = starts[static_cast<size_t>(b * T + i)];
          const float* q = qkv.row<float>(b * T + i) + h * hd;
          const auto key = [&](int64_t j) { return qkv.row<float>(b * T + j) + (s.heads + g) * hd; };
          const auto value = [&](int64_t j) { return qkv.row<float>(b * T + j) + (s.heads + s.kv_heads + g) * hd; };
          const float* d = dy.row<float>(b * T + i) + h * hd;
          std::vector<double> p(static_cast<size_t>(T)), dp(static_cast<size_t>(T));
          double total = 0, delta = 0;
          for (int64_t j = start; j <= i; ++j) {
            double score = 0;
            for (int64_t c = 0; c < hd; ++c) score += static_cast<double>(q[c]) * key(j)[c];
            double& most = max_logits[static_cast<size_t>(h)];
            most = std::max(most, score * scale);
            total += p[static_cast<size_t>(j)] = std::exp(score * scale);
          }
          for (int64_t j = start; j <= i; ++j) {
            const auto at = static_cast<size_t>(j);
            p[at] /= total;
            for (int64_t c = 0; c < hd; ++c) {
              y[static_cast<size_t>((b * T + i) * s.query_width() + h * hd + c)] += p[at] * value(j)[c];
              dp[at] += static_cast<double>(d[c]) * value(j)[c];
              dv[static_cast<size_t>((b * T + j) * s.kv_width() + g * hd + c)] += p[at] * d[c];
            }
            delta += p[at] * dp[at];
          }
          for (int64_t j = start; j <= i; ++j) {
            const double ds = p[static_cast<size_t>(j)] * (dp[static_cast<size_t>(j)] - delta) * scale;
            for (int64_t c = 0; c < hd; ++c) {
              dq[static_cast<size_t>((b * T + i) * s.query_width() + h * hd + c)] += ds * key(j)[c];
              dk[static_cast<size_t>((b * T + j) * s.kv_width() + g * hd + c)] += ds * q[c];
            }
          }
        }
  }
};

double relative_error(const Tensor& a, const std::vector<double>& b) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < a.size(); ++i) {
    const double x = a.dtype == DType::bf16 ? static_cast<float>(a.row<bf16>(i / a.cols)[i % a.cols])
                                            : a.row<float>(i / a.cols)[i % a.cols];
    difference += (x - b[static_cast<size_t>(i)]) * (x - b[static_cast<size_t>(i)]);
    norm += b[static_cast<size_t>(i)] * b[static_cast<size_t>(i)];
  }
  return std::sqrt(difference / norm);
}

// A head of 24 channels, which is no multiple of a vector; lengths below, at and above the blocks of 128 queries and
// 256 keys; documents that begin anywhere.
TEST_F(Layers, AttentionAcrossBlocks) {
  for (const DType type : {DType::f32, DType::bf16})
    for (const int64_t length : {1, 127, 128, 257, 300, 520}) {
      const AttentionShape shape{.sequences = 2, .length = length, .heads = 3, .kv_heads = 1, .head_dim = 24};
      const int64_t columns = 5 * 24;
      const OwnedTensor qkv(DType::f32, shape.tokens(), columns), dy(DType::f32, shape.tokens(), 72);
      const RandomStream random(5, Purpose::sampling, 0, static_cast<uint32_t>(length));
      uint64_t drawn = 0;
      for (const Tensor& x : {qkv.view(), dy.view()})
        for (int64_t i = 0; i < x.size(); ++i)  // bf16 values, so that both types see the same operands
          x.as<float>()[i] = static_cast<float>(bf16(random.normal_pair(drawn++)[0]));
      const OwnedTensor operands(type, shape.tokens(), columns), gradient(type, shape.tokens(), 72);
      convert(stream, qkv, operands);
      convert(stream, dy, gradient);
      const OwnedTensor y(type, shape.tokens(), 72), dqkv(type, shape.tokens(), columns),
          lse(DType::f32, 3, shape.tokens());
      AttentionScratch scratch;
      const Arena arena("scratch",
                        [&](Arena& memory) { scratch = AttentionScratch(memory, shape, type, stream, true); });
      for (const bool documents : {false, true}) {
        std::vector<int32_t> starts(static_cast<size_t>(shape.tokens()));
        if (documents)
          for (int64_t t = 0; t < shape.tokens(); ++t) {
            const int64_t position = t % length;
            const bool begins = position == 0 || random.uniform(static_cast<uint64_t>(t)) < 0.02f;
            starts[static_cast<size_t>(t)] =
                begins ? static_cast<int32_t>(position) : starts[static_cast<size_t>(t - 1)];
          }
        const SlowAttention slow(shape, qkv, dy, starts);
        std::vector<float> max_logits(3, -std::numeric_limits<float>::infinity());
        attention_forward(stream, shape, operands,
                          documents ? std::span<const int32_t>(starts) : std::span<const int32_t>(), scratch, y, lse,
                          max_logits);
        for (size_t head = 0; head < 3; ++head)
          EXPECT_NEAR(max_logits[head], slow.max_logits[head], 2e-6) << length << documents << head;
        attention_backward(stream, shape, gradient, operands,
                           documents ? std::span<const int32_t>(starts) : std::span<const int32_t>(), y, lse, scratch,
                           dqkv);
        const double tolerance = type == DType::f32 ? 2e-6 : 1e-2;
        EXPECT_LT(relative_error(y, slow.y), tolerance) << length << documents;
        if (length > 1) {  // one key has probability 1 and no gradient
          EXPECT_LT(relative_error(dqkv.view().slice_cols(0, 72), slow.dq), tolerance) << length << documents;
          EXPECT_LT(relative_error(dqkv.view().slice_cols(72, 24), slow.dk), tolerance) << length << documents;
        }
        EXPECT_LT(relative_error(dqkv.view().slice_cols(96, 24), slow.dv), tolerance) << length << documents;
      }
    }
}

TEST_F(Layers, CrossEntropyWithTheHead) {
  const Tensor &hidden = f["cross_entropy.hidden"], &weight = f["cross_entropy.weight"];
  std::vector<int32_t> targets;
  for (int64_t t = 0; t < hidden.rows; ++t) {
    const int32_t target = f["cross_entropy.targets"].as<int32_t>()[t];
    targets.push_back(target == -100 ? -1 : target);
  }
  LossScratch scratch;
  const Arena arena("scratch",
                    [&](Arena& memory) { scratch = LossScratch(memory, hidden.rows, weight.rows, DType::f32, true); });
  const OwnedTensor dhidden = like(hidden), dweight = like(weight);
  const LossGradients gradients{{.scale = 0.1f}, dhidden, dweight};
  head_loss(stream, hidden, weight, targets, scratch, &gradients);
  EXPECT_NEAR(loss_sums(stream, scratch, hidden.rows).cross_entropy / 10, 6.9022129689979534, 2e-6);
  EXPECT_LT(relative_error(dhidden, f["cross_entropy.dhidden"]), fp32_tolerance);
  EXPECT_LT(relative_error(dweight, f["cross_entropy.dweight"]), fp32_tolerance);
}

// The same in chunks: a vocabulary for which 150 tokens take three of them.
TEST_F(Layers, CrossEntropyInChunks) {
  constexpr int64_t tokens = 150, vocabulary = 262144, width = 8;
  const OwnedTensor hidden(DType::f32, tokens, width), weight(DType::f32, vocabulary, width);
  const RandomStream random(9, Purpose::sampling);
  for (int64_t i = 0; i < hidden.view().size(); ++i)
    hidden.view().as<float>()[i] = random.normal_pair(static_cast<uint64_t>(i))[0];
  for (int64_t i = 0; i < weight.view().size(); ++i)
    weight.view().as<float>()[i] = random.normal_pair(static_cast<uint64_t>(i))[1];
  std::vector<int32_t> targets(tokens);
  for (int64_t t = 0; t < tokens; ++t) targets[static_cast<size_t>(t)] = static_cast<int32_t>(t * 1000);
  LossScratch scratch;
  const Arena arena("scratch",
                    [&](Arena& memory) { scratch = LossScratch(memory, tokens, vocabulary, DType::f32, true); });
  ASSERT_LT(scratch.logits.rows, tokens / 2);
  const OwnedTensor dhidden = like(hidden), dweight = like(weight);
  const LossGradients gradients{{.scale = 1}, dhidden, dweight};
  head_loss(stream, hidden, weight, targets, scratch, &gradients);
  const double loss = loss_sums(stream, scratch, tokens).cross_entropy;
  double expected = 0;
  std::vector<double> expected_dweight(width);
  for (int64_t t = 0; t < tokens; ++t) {
    const float* x = hidden.view().row<float>(t);
    const auto logit = [&](int64_t v) {
      double sum = 0;
      for (int64_t i = 0; i < width; ++i) sum += static_cast<double>(x[i]) * weight.view().row<float>(v)[i];
      return sum;
    };
    double total = 0;
    for (int64_t v = 0; v < vocabulary; ++v) total += std::exp(logit(v));
    expected += std::log(total) - logit(t * 1000);
    for (int64_t i = 0; i < width; ++i)
      expected_dweight[static_cast<size_t>(i)] += (std::exp(logit(5000)) / total - (t == 5 ? 1 : 0)) * x[i];
  }
  EXPECT_NEAR(loss, expected, 1e-6 * expected);
  for (int64_t i = 0; i < width; ++i)
    EXPECT_NEAR(dweight.view().row<float>(5000)[i], expected_dweight[static_cast<size_t>(i)], 1e-5);
}

TEST_F(Layers, CrossEntropyIsTheSameInAnyChunksAndGroups) {
  constexpr int64_t tokens = 150, vocabulary = 70, width = 24;
  const OwnedTensor values(DType::f32, tokens + vocabulary, width), both(DType::bf16, tokens + vocabulary, width);
  const RandomStream random(9, Purpose::sampling);
  for (int64_t i = 0; i < values.view().size(); ++i)
    values.view().as<float>()[i] = random.normal_pair(static_cast<uint64_t>(i))[0];
  convert(stream, values, both);
  std::vector<int32_t> targets(tokens);
  for (int64_t t = 0; t < tokens; ++t) targets[static_cast<size_t>(t)] = t % 7 == 0 ? -1 : static_cast<int32_t>(t % 70);
  LossScratch scratch;
  const Arena arena("scratch",
                    [&](Arena& memory) { scratch = LossScratch(memory, tokens, vocabulary, DType::bf16, true); });
  struct Result {
    double loss;
    OwnedTensor dx, dhead;
  };
  const auto run = [&](int64_t chunk, int64_t group) {
    LossScratch cut = scratch;
    cut.logits = scratch.logits.slice_rows(0, chunk);
    cut.dlogits = scratch.dlogits.slice_rows(0, group);
    Result result{0, OwnedTensor(DType::bf16, tokens, width), OwnedTensor(DType::f32, vocabulary, width)};
    const LossGradients gradients{{.scale = 0.5f, .z = 0.01f}, result.dx, result.dhead};
    head_loss(stream, both.view().slice_rows(0, tokens), both.view().slice_rows(tokens, vocabulary), targets, cut,
              &gradients);
    result.loss = loss_sums(stream, cut, tokens).cross_entropy;
    return result;
  };
  const Result whole = run(tokens, tokens);
  for (const auto& [chunk, group] : {std::pair<int64_t, int64_t>{64, 150}, {64, 128}, {32, 40}}) {
    const Result parts = run(chunk, group);
    EXPECT_NEAR(parts.loss, whole.loss, 1e-6 * whole.loss);
    for (int64_t i = 0; i < tokens * width; ++i) {
      const auto expected = float(whole.dx.view().as<bf16>()[i]);
      ASSERT_NEAR(float(parts.dx.view().as<bf16>()[i]), expected, 0x1p-7 * std::abs(expected) + 1e-6);
    }
    for (int64_t i = 0; i < vocabulary * width; ++i)  // summed group by group
      ASSERT_NEAR(parts.dhead.view().as<float>()[i], whole.dhead.view().as<float>()[i], 2e-6) << chunk << ", " << group;
  }
}

TEST_F(Layers, CrossEntropyKnownAnswers) {  // reference 6.4
  float logits[] = {2, 1, 0.1f}, losses[1], lse[1], gradient[3];
  const int32_t target[] = {0};
  softmax_cross_entropy(stream, Tensor(logits, 1, 3), target, {.scale = 1}, losses, lse, Tensor(gradient, 1, 3));
  EXPECT_NEAR(losses[0], 0.417030016, 0x1p-22);  // one unit in the last place of log sum exp = 2.417
  const float expected[] = {-0.3409989f, 0.2424330f, 0.0985659f};
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(gradient[i], expected[i], 2e-7);
  EXPECT_NEAR(lse[0], 2.417030016, 0x1p-22);
  std::vector<float> uniform(32000, 3.0f);
  softmax_cross_entropy(stream, Tensor(uniform.data(), 1, 32000), target, {.scale = 1}, losses, lse, {});
  EXPECT_NEAR(losses[0], 10.373491182, 2e-6);
  EXPECT_EQ(logits[2], 0.1f) << "logits are not written to";
  logits[1] = NAN;
  softmax_cross_entropy(stream, Tensor(logits, 1, 3), target, {.scale = 1}, losses, lse, {});
  EXPECT_TRUE(std::isnan(losses[0])) << "a NaN among the logits must reach the loss";
}

TEST_F(Layers, EmbeddingAddsRepeatedTokensInOrder) {
  const std::vector<int32_t> ids = {3, 1, 3, 3};
  const OwnedTensor table(DType::f32, 5, 37), x(DType::f32, 4, 37), dtable(DType::f32, 5, 37);
  for (int64_t i = 0; i < table.view().size(); ++i) table.view().as<float>()[i] = static_cast<float>(i);
  embedding_forward(stream, ids, table, x);
  for (int64_t t = 0; t < 4; ++t)
    for (int64_t i = 0; i < 37; ++i)
      EXPECT_EQ(x.view().row<float>(t)[i], static_cast<float>(ids[static_cast<size_t>(t)] * 37 + i));
  embedding_backward(stream, ids, x, {}, dtable);
  for (int64_t i = 0; i < 37; ++i) {
    EXPECT_EQ(dtable.view().row<float>(3)[i], 3 * table.view().row<float>(3)[i]);
    EXPECT_EQ(dtable.view().row<float>(1)[i], table.view().row<float>(1)[i]);
    EXPECT_EQ(dtable.view().row<float>(0)[i], 0);
  }
}

}  // namespace
}  // namespace nibble
