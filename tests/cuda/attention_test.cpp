// Attention on a device against the CPU's kernels, which other tests hold to slow ones.
#include "model/attention.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tensor/cuda/graph.hpp"
#include "tensor/error.hpp"
#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::drawn, testing::on_device, testing::on_host, testing::same_bits;

enum class Documents { one, many };

struct Case {
  DType type;
  AttentionShape shape;
  Documents documents = Documents::one;
  int64_t padding = 0;  ///< elements between rows, and before the first one

  std::string name() const {
    return std::string(nibble::name(type)) + ", " + std::to_string(shape.sequences) + " x " +
           std::to_string(shape.length) + " tokens, " + std::to_string(shape.heads) + "/" +
           std::to_string(shape.kv_heads) + " heads of " + std::to_string(shape.head_dim) +
           (documents == Documents::many ? ", documents" : "") + (padding ? ", padded" : "");
  }
};

/// Documents of 1 to 90 tokens.
std::vector<int32_t> document_starts(const AttentionShape& shape) {
  std::mt19937 generator(7);
  std::vector<int32_t> starts;
  for (int64_t sequence = 0; sequence < shape.sequences; ++sequence) {
    int64_t start = 0, end = 0;
    for (int64_t t = 0; t < shape.length; ++t) {
      if (t == end) start = t, end += 1 + generator() % 90;
      starts.push_back(static_cast<int32_t>(start));
    }
  }
  return starts;
}

/// A matrix on the device, NaN but for what it is filled with, with padding behind rows and before the first one.
class Padded {
 public:
  Padded(Stream& device, DType type, int64_t rows, int64_t cols, int64_t padding) : device_(device), padding_(padding) {
    const OwnedTensor poison(type, rows + 1, cols + padding);
    std::memset(poison.view().data, 0xff, poison.view().bytes());
    memory_ = on_device(device, poison);
  }
  Padded(Stream& device, const Tensor& host, int64_t padding)
      : Padded(device, host.dtype, host.rows, host.cols, padding) {
    copy(device, host, view());
    device.wait();
  }
  Tensor view() const {
    Tensor inner = memory_.view().slice_rows(0, memory_.view().rows - 1);
    inner.data = static_cast<char*>(inner.data) + padding_ * static_cast<int64_t>(size_of(inner.dtype));
    inner.cols -= padding_;
    return inner;
  }
  OwnedTensor on_host() const { return testing::on_host(device_, view()); }
  /// Whether nothing was written outside.
  bool kept_padding() const {
    const OwnedTensor whole = testing::on_host(device_, memory_), inner = on_host();
    const size_t unit = size_of(whole.view().dtype);
    const auto* bytes = static_cast<const unsigned char*>(whole.view().data);
    const int64_t stride = whole.view().cols, rows = inner.view().rows, cols = inner.view().cols;
    for (int64_t i = 0; i < whole.view().size(); ++i) {
      const int64_t at = i - padding_;
      if (at >= 0 && at / stride < rows && at % stride < cols) continue;
      for (size_t j = 0; j < unit; ++j)
        if (bytes[static_cast<size_t>(i) * unit + j] != 0xff) return false;
    }
    return true;
  }

 private:
  Stream& device_;
  int64_t padding_;
  OwnedTensor memory_;
};

struct Operands {
  OwnedTensor qkv, dy;
  std::vector<int32_t> starts;
};

struct Results {
  OwnedTensor y, log_sum_exp, max_logits, dqkv;
};

class AttentionOnDevice : public ::testing::Test {
 protected:
  Stream host{2}, device{2, Place::device};

  static Operands operands(const Case& of) {
    const AttentionShape& shape = of.shape;
    Operands made{drawn(of.type, shape.tokens(), shape.query_width() + 2 * shape.kv_width(), 1),
                  drawn(of.type, shape.tokens(), shape.query_width(), 2),
                  {}};
    if (of.documents == Documents::many) made.starts = document_starts(shape);
    return made;
  }
  static Results results(const Case& of) {
    const AttentionShape& shape = of.shape;
    Results made{OwnedTensor(of.type, shape.tokens(), shape.query_width()),
                 OwnedTensor(DType::f32, shape.heads, shape.tokens()), OwnedTensor(DType::f32, 1, shape.heads),
                 OwnedTensor(of.type, shape.tokens(), shape.query_width() + 2 * shape.kv_width())};
    for (int64_t head = 0; head < shape.heads; ++head)
      made.max_logits.view().as<float>()[head] = -std::numeric_limits<float>::infinity();
    return made;
  }

  Results of_host(const Case& of, const Operands& in) {
    Results out = results(of);
    AttentionScratch scratch;
    const Arena arena("scratch",
                      [&](Arena& memory) { scratch = AttentionScratch(memory, of.shape, of.type, host, true); });
    attention_forward(host, of.shape, in.qkv, in.starts, scratch, out.y, out.log_sum_exp,
                      {out.max_logits.view().as<float>(), static_cast<size_t>(of.shape.heads)});
    attention_backward(host, of.shape, in.dy, in.qkv, in.starts, out.y, out.log_sum_exp, scratch, out.dqkv);
    return out;
  }

  /// The backward pass gets y and the log-sum-exps from `forward` where it is given.
  Results of_device(const Case& of, const Operands& in, const Results* forward = nullptr,
                    AttentionBy by = AttentionBy::own) {
    const Results made = results(of);
    AttentionScratch scratch;
    const Arena arena(
        "scratch", [&](Arena& memory) { scratch = AttentionScratch(memory, of.shape, of.type, device, true, by); },
        Place::device);
    const Padded qkv(device, in.qkv, of.padding), dy(device, in.dy, of.padding);
    const Padded y(device, of.type, made.y.view().rows, made.y.view().cols, of.padding),
        dqkv(device, of.type, made.dqkv.view().rows, made.dqkv.view().cols, of.padding),
        log_sum_exp(device, DType::f32, of.shape.heads, of.shape.tokens(), of.padding);
    const OwnedTensor max_logits = on_device(device, made.max_logits);
    OwnedTensor starts;
    std::span<const int32_t> starts_there;
    if (!in.starts.empty()) {
      starts = on_device(device, Tensor(const_cast<int32_t*>(in.starts.data()), 1, std::ssize(in.starts)));
      starts_there = {starts.view().on_device<int32_t>(), in.starts.size()};
    }
    attention_forward(device, of.shape, qkv.view(), starts_there, scratch, y.view(), log_sum_exp.view(),
                      {max_logits.view().on_device<float>(), static_cast<size_t>(of.shape.heads)});
    Results out{y.on_host(), log_sum_exp.on_host(), on_host(device, max_logits), {}};
    if (forward) {
      copy(device, forward->y, y.view());
      copy(device, forward->log_sum_exp, log_sum_exp.view());
    }
    attention_backward(device, of.shape, dy.view(), qkv.view(), starts_there, y.view(), log_sum_exp.view(), scratch,
                       dqkv.view());
    out.dqkv = dqkv.on_host();
    for (const Padded* written : {&y, &log_sum_exp, &dqkv}) EXPECT_TRUE(written->kept_padding()) << of.name();
    return out;
  }
};

float element(const Tensor& x, int64_t row, int64_t col) {
  return x.dtype == DType::bf16 ? static_cast<float>(x.row<bf16>(row)[col]) : x.row<float>(row)[col];
}

/// Relative to the root mean square of what is expected.
struct Difference {
  double largest = 0, typical = 0;  ///< of an element; root mean square
};
Difference difference(const Tensor& seen, const Tensor& expected) {
  double squares = 0, of_errors = 0, largest = 0;
  for (int64_t i = 0; i < expected.rows; ++i)
    for (int64_t j = 0; j < expected.cols; ++j) {
      const double value = element(expected, i, j), error = std::abs(element(seen, i, j) - value);
      squares += value * value;
      of_errors += error * error;
      if (!(error <= largest)) largest = error;  // a NaN stays
    }
  return {largest / std::sqrt(squares / static_cast<double>(expected.size())), std::sqrt(of_errors / squares)};
}

/// In f32 both sides sum in their own order, and the exponentials of one are not the other's. In bf16 the two add the
/// same rounded numbers, but for those few that the sums' last bits put on the other side of a rounding's border: a
/// result may then have another last bit, 2^-7 of a number that is a few times the usual one.
Difference allowed(DType type) { return type == DType::f32 ? Difference{2e-5, 1e-6} : Difference{0x1p-4, 1e-3}; }

constexpr DType types[] = {DType::f32, DType::bf16};

std::vector<Case> cases(DType type) {
  return {{type, {1, 1, 1, 1, 32}},
          {type, {3, 1, 2, 1, 64}},
          {type, {2, 5, 4, 1, 24}},
          {type, {1, 64, 2, 2, 64}},
          {type, {1, 130, 2, 1, 32}},
          {type, {2, 67, 1, 1, 128}, Documents::many},
          {type, {1, 140, 4, 1, 64}, Documents::many},
          {type, {1, 260, 1, 1, 32}, Documents::many},
          {type, {2, 70, 4, 2, 64}, Documents::one, 3},
          {type, {1, 75, 2, 1, 41}, Documents::many, 5},
          {type, {1, 40, 1, 1, 100}, Documents::one, 8}};
}

TEST_F(AttentionOnDevice, AgreesWithTheHosts) {
  for (const DType type : types)
    for (const Case& of : cases(type)) {
      SCOPED_TRACE(of.name());
      const Operands in = operands(of);
      const Results here = of_host(of, in), there = of_device(of, in, &here);
      const AttentionShape& shape = of.shape;
      const auto agree = [&](const Tensor& seen, const Tensor& expected) {
        const Difference measured = difference(seen, expected);
        EXPECT_LT(measured.largest, allowed(type).largest);
        EXPECT_LT(measured.typical, allowed(type).typical);
      };
      agree(there.y, here.y);
      agree(there.dqkv, here.dqkv);
      for (int64_t head = 0; head < shape.heads; ++head) {
        EXPECT_NEAR(there.max_logits.view().as<float>()[head], here.max_logits.view().as<float>()[head], 2e-6);
        for (int64_t t = 0; t < shape.tokens(); ++t)
          ASSERT_NEAR(there.log_sum_exp.view().row<float>(head)[t], here.log_sum_exp.view().row<float>(head)[t], 4e-6)
              << "head " << head << ", token " << t;
      }
    }
}

// One token that belongs to the document before it is more than what is allowed.
TEST_F(AttentionOnDevice, TheComparisonSeesASingleToken) {
  for (const DType type : types) {
    const Case of{type, {1, 140, 2, 1, 32}, Documents::many};
    const Operands in = operands(of);
    Operands other = operands(of);
    const int32_t last = other.starts.back();
    ASSERT_GT(last, 0);
    other.starts[static_cast<size_t>(last)] = other.starts[static_cast<size_t>(last - 1)];
    const Results here = of_host(of, in), there = of_device(of, other, &here);
    EXPECT_GT(difference(there.y, here.y).typical, 10 * allowed(type).typical);
    EXPECT_GT(difference(there.dqkv, here.dqkv).typical, 10 * allowed(type).typical);
  }
}

TEST_F(AttentionOnDevice, GivesTheSameBitsEveryTime) {
  for (const DType type : types) {
    const Case of{type, {2, 100, 4, 2, 32}, Documents::many};
    const Operands in = operands(of);
    const Results once = of_device(of, in), again = of_device(of, in);
    EXPECT_TRUE(same_bits(once.y, again.y));
    EXPECT_TRUE(same_bits(once.log_sum_exp, again.log_sum_exp));
    EXPECT_TRUE(same_bits(once.max_logits, again.max_logits));
    EXPECT_TRUE(same_bits(once.dqkv, again.dqkv));
  }
}

TEST_F(AttentionOnDevice, LargestLogitsAreOnlyRaised) {
  const AttentionShape shape{1, 3, 3, 3, 32};
  const OwnedTensor qkv(DType::f32, shape.tokens(), 9 * 32), y(DType::f32, 3, 96, "test", Place::device),
      log_sum_exp(DType::f32, 3, 3, "test", Place::device), largest(DType::f32, 1, 3);
  for (int64_t t = 0; t < 3; ++t)
    for (int64_t head = 0; head < 3; ++head) {
      qkv.view().row<float>(t)[32 * head] = 1;
      qkv.view().row<float>(t)[96 + 32 * head] = static_cast<float>(-2 - t);
    }
  float* const values = largest.view().as<float>();
  values[0] = -std::numeric_limits<float>::infinity(), values[1] = -0.1f, values[2] = 7;
  const OwnedTensor there = on_device(device, largest), operands = on_device(device, qkv);
  const std::span<float> none, of_heads(there.view().on_device<float>(), 3);
  for (const std::span<float> asked_for : {none, of_heads})
    attention_forward(device, shape, operands, {}, {}, y, log_sum_exp, asked_for);
  copy(device, there, largest);
  device.wait();
  EXPECT_EQ(values[0], -2 / std::sqrt(32.0f));
  EXPECT_EQ(values[1], -0.1f);
  EXPECT_EQ(values[2], 7);
}

class AttentionIsRefused : public AttentionOnDevice {
 protected:
  void expect(const std::string& allowed, int64_t head_dim, DType type, AttentionBy by) {
    try {
      const Arena arena(
          "scratch",
          [&](Arena& memory) {
            AttentionScratch(memory, {1, 8, 1, 1, head_dim}, type, device, true, by);
          },
          Place::device);
      FAIL() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::configuration);
      EXPECT_EQ(error.detail().allowed, allowed);
    }
  }
};

TEST_F(AttentionIsRefused, ForWideHeads) {
  expect("1 to 128", 129, DType::bf16, AttentionBy::own);
  expect("1 to 128", 136, DType::bf16, AttentionBy::cudnn);
}

TEST_F(AttentionIsRefused, ByCudnnForOtherHeadsAndOperandsAndWhereThereIsNone) {
  expect("multiples of 8", 41, DType::bf16, AttentionBy::cudnn);
  expect("bf16", 64, DType::f32, AttentionBy::cudnn);
  if (!attention_library().missing.empty()) expect("kernels of our own", 64, DType::bf16, AttentionBy::cudnn);
}

// Rows without gaps, as arenas lay out these widths.
const std::vector<AttentionShape> cudnn_shapes = {{1, 64, 2, 2, 64},   {1, 130, 4, 2, 32}, {2, 256, 4, 1, 64},
                                                  {3, 128, 2, 1, 128}, {2, 160, 4, 2, 40}, {1, 1024, 8, 2, 64}};

class AttentionByCudnn : public AttentionOnDevice {
 protected:
  void SetUp() override {
    if (const std::string missing = attention_library().missing; !missing.empty())
      GTEST_SKIP() << "not run: " << missing;
  }

  /// log_sum_exp in the host's order, [H, sequences T].
  Results of_cudnn(const Case& of, const Operands& in) {
    const AttentionShape& shape = of.shape;
    Results out = of_device(of, in, nullptr, AttentionBy::cudnn);
    OwnedTensor by_head(DType::f32, shape.heads, shape.tokens());
    const auto* from = out.log_sum_exp.view().as<float>();
    for (int64_t sequence = 0; sequence < shape.sequences; ++sequence)
      for (int64_t head = 0; head < shape.heads; ++head, from += shape.length)
        std::copy_n(from, shape.length, by_head.view().row<float>(head) + sequence * shape.length);
    out.log_sum_exp = std::move(by_head);
    return out;
  }
};

// Probabilities and results in bf16 may have another last bit, 2^-8 of a number: cuDNN sums in an order of its own, and
// reads its own output in the backward pass.
TEST_F(AttentionByCudnn, AgreesWithTheHostsAndOurOwn) {
  for (const AttentionShape& shape : cudnn_shapes) {
    const Case of{DType::bf16, shape};
    SCOPED_TRACE(of.name());
    const Operands in = operands(of);
    const Results seen = of_cudnn(of, in), here = of_host(of, in), own = of_device(of, in);
    for (const Results* expected : {&here, &own}) {
      EXPECT_LT(difference(seen.y, expected->y).typical, 0x1p-7);
      EXPECT_LT(difference(seen.dqkv, expected->dqkv).typical, 0x1p-7);
      EXPECT_LT(difference(seen.y, expected->y).largest, 0x1p-3);
      EXPECT_LT(difference(seen.dqkv, expected->dqkv).largest, 0x1p-3);
      for (int64_t head = 0; head < shape.heads; ++head)
        for (int64_t t = 0; t < shape.tokens(); ++t)
          ASSERT_NEAR(seen.log_sum_exp.view().row<float>(head)[t], expected->log_sum_exp.view().row<float>(head)[t],
                      1e-4)
              << "head " << head << ", token " << t;
    }
  }
}

TEST_F(AttentionByCudnn, GivesTheSameBitsEveryTime) {
  for (const AttentionShape& shape : cudnn_shapes) {
    const Case of{DType::bf16, shape};
    SCOPED_TRACE(of.name());
    const Operands in = operands(of);
    const Results once = of_cudnn(of, in), again = of_cudnn(of, in);
    EXPECT_TRUE(same_bits(once.y, again.y));
    EXPECT_TRUE(same_bits(once.log_sum_exp, again.log_sum_exp));
    EXPECT_TRUE(same_bits(once.dqkv, again.dqkv));
  }
}

TEST_F(AttentionByCudnn, MayBePartOfAGraph) {
  const Case of{DType::bf16, {2, 128, 4, 2, 64}};
  const AttentionShape& shape = of.shape;
  const Operands in = operands(of);
  const Results expected = of_device(of, in, nullptr, AttentionBy::cudnn), made = results(of);
  AttentionScratch scratch;
  const Arena arena(
      "scratch",
      [&](Arena& memory) { scratch = AttentionScratch(memory, shape, of.type, device, true, AttentionBy::cudnn); },
      Place::device);
  const OwnedTensor qkv = on_device(device, in.qkv), dy = on_device(device, in.dy), y = on_device(device, made.y),
                    log_sum_exp = on_device(device, made.log_sum_exp), dqkv = on_device(device, made.dqkv);
  const std::unique_ptr<cuda::Graph> graph = cuda::make_graph(device.queue());
  for (int time = 0; time < 2; ++time)
    graph->run([&] {
      attention_forward(device, shape, qkv, {}, scratch, y, log_sum_exp);
      attention_backward(device, shape, dy, qkv, {}, y, log_sum_exp, scratch, dqkv);
    });
  EXPECT_TRUE(same_bits(on_host(device, y), expected.y));
  EXPECT_TRUE(same_bits(on_host(device, dqkv), expected.dqkv));
}

}  // namespace
}  // namespace nibble
