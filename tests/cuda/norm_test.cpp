// Norms give the same bits on a device as on the host: rows and gains are summed in one order.
#include "model/norm.hpp"

#include <gtest/gtest.h>

#include "tensor/error.hpp"
#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::Twin, testing::same_bits;

constexpr DType types[] = {DType::f32, DType::bf16};
constexpr float epsilon = 1e-5f;

class NormOnDevice : public ::testing::Test {
 protected:
  Twin twin(DType type, int64_t rows, int64_t cols, int64_t padding = 0) {
    return Twin(device, type, rows, cols, padding, ++seed);
  }
  Stream host{2}, device{2, Place::device};
  unsigned seed = 0;
};

struct Shape {
  int64_t tokens, width, padding;
};

TEST_F(NormOnDevice, OfTheResidualStream) {
  for (const auto& [tokens, width, padding] :
       {Shape{1, 1, 0}, Shape{3, 7, 0}, Shape{200, 3, 5}, Shape{33, 8, 8}, Shape{70, 264, 0}, Shape{70, 264, 3},
        Shape{64, 640, 8}, Shape{5, 1004, 2}, Shape{34, 2048, 0}, Shape{2, 4096, 0}, Shape{1, 4099, 1},
        Shape{2, 8192, 0}, Shape{2, 16384, 8}})
    for (const DType type : types) {
      const Twin x = twin(DType::f32, tokens, width, padding), gain = twin(DType::f32, 1, width),
                 y = twin(type, tokens, width, padding), r = twin(DType::f32, 1, tokens);
      rms_norm_forward(host, x.here, gain.here, epsilon, y.here, r.here);
      rms_norm_forward(device, x.there, gain.there, epsilon, y.there, r.there);
      EXPECT_TRUE(same_bits(device, y)) << tokens << " x " << width;
      EXPECT_TRUE(same_bits(device, r)) << tokens << " x " << width;

      const Twin dy = twin(type, tokens, width, padding), dx = twin(DType::f32, tokens, width, padding),
                 operand = twin(type, tokens, width, padding), dgain = twin(DType::f32, 1, width),
                 scratch = twin(DType::f32, rms_norm_scratch_rows(tokens), width, padding);
      rms_norm_backward(host, dy.here, x.here, gain.here, r.here, dx.here, operand.here, dgain.here, scratch.here);
      rms_norm_backward(device, dy.there, x.there, gain.there, r.there, dx.there, operand.there, dgain.there,
                        scratch.there);
      for (const Twin* const result : {&dx, &operand, &dgain})
        EXPECT_TRUE(same_bits(device, *result)) << tokens << " x " << width;
    }
}

TEST_F(NormOnDevice, OfHeads) {
  struct Heads {
    int64_t tokens, heads, head_dim, padding;
  };
  for (const auto& [tokens, heads, head_dim, padding] :
       {Heads{1, 1, 2, 0}, Heads{5, 1, 64, 3}, Heads{33, 3, 34, 0}, Heads{40, 4, 64, 8}, Heads{40, 16, 128, 0},
        Heads{2, 2, 4096, 8}, Heads{65, 5, 24, 1}})
    for (const DType type : types) {
      const int64_t width = heads * head_dim;
      const Twin x = twin(type, tokens, width, padding), gain = twin(DType::f32, 1, head_dim),
                 input = twin(type, tokens, width, padding), r = twin(DType::f32, tokens, heads, padding);
      const HeadNormSaved here{input.here, r.here}, there{input.there, r.there};
      head_norm_forward(host, gain.here, epsilon, x.here, &here);
      head_norm_forward(device, gain.there, epsilon, x.there, &there);
      for (const Twin* const result : {&x, &input, &r})
        EXPECT_TRUE(same_bits(device, *result)) << tokens << " x " << heads << " x " << head_dim;
      head_norm_forward(host, gain.here, epsilon, x.here, nullptr);
      head_norm_forward(device, gain.there, epsilon, x.there, nullptr);
      EXPECT_TRUE(same_bits(device, x)) << tokens << " x " << heads << " x " << head_dim;

      const Twin dx = twin(type, tokens, width, padding), dgain = twin(DType::f32, 1, head_dim),
                 scratch = twin(DType::f32, rms_norm_scratch_rows(tokens), head_dim);
      head_norm_backward(host, gain.here, here, dx.here, dgain.here, scratch.here);
      head_norm_backward(device, gain.there, there, dx.there, dgain.there, scratch.there);
      for (const Twin* const result : {&dx, &dgain})
        EXPECT_TRUE(same_bits(device, *result)) << tokens << " x " << heads << " x " << head_dim;
    }
}

TEST_F(NormOnDevice, BlocksTakeSeveralBatchesOfManyRows) {
  constexpr int64_t tokens = 64 * (2 * 2048 + 1) + 1;
  const Twin x = twin(DType::f32, tokens, 1), gain = twin(DType::f32, 1, 1), y = twin(DType::f32, tokens, 1),
             r = twin(DType::f32, 1, tokens);
  rms_norm_forward(host, x.here, gain.here, epsilon, y.here, r.here);
  rms_norm_forward(device, x.there, gain.there, epsilon, y.there, r.there);
  EXPECT_TRUE(same_bits(device, y));
  EXPECT_TRUE(same_bits(device, r));
}

TEST_F(NormOnDevice, NothingAddsNothing) {
  const Twin gain = twin(DType::f32, 1, 40), dgain = twin(DType::f32, 1, 40), none = twin(DType::f32, 0, 40),
             r = twin(DType::f32, 1, 0);
  rms_norm_forward(device, none.there, gain.there, epsilon, none.there, r.there);
  rms_norm_backward(device, none.there, none.there, gain.there, r.there, none.there, none.there, dgain.there,
                    none.there);
  EXPECT_TRUE(same_bits(testing::on_host(device, dgain.there), OwnedTensor(DType::f32, 1, 40)));
}

TEST_F(NormOnDevice, ASumInAnotherOrderIsSeen) {
  const Twin x = twin(DType::f32, 1, 640), gain = twin(DType::f32, 1, 640), y = twin(DType::f32, 1, 640),
             r = twin(DType::f32, 1, 1);
  std::swap(x.here.as<float>()[3], x.here.as<float>()[21]);  // of other lanes
  rms_norm_forward(host, x.here, gain.here, epsilon, y.here, r.here);
  rms_norm_forward(device, x.there, gain.there, epsilon, y.there, r.there);
  EXPECT_FALSE(same_bits(device, y));
}

TEST_F(NormOnDevice, WiderThanABlockHoldsIsRefused) {
  const OwnedTensor x(DType::f32, 1, 16385, "test", Place::device), r(DType::f32, 1, 1, "test", Place::device);
  EXPECT_THROW(rms_norm_forward(device, x, x, epsilon, x, r), Error);
  EXPECT_THROW(head_norm_forward(device, x.view().slice_cols(0, 4097), epsilon, x.view().slice_cols(0, 4097), nullptr),
               Error);
}

}  // namespace
}  // namespace nibble
