// Rotations give the same bits on a device as on the host, with tables in the memory of each.
#include "model/rope.hpp"

#include <gtest/gtest.h>

#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::Twin, testing::same_bits;

class RopeOnDevice : public ::testing::Test {
 protected:
  Stream host{2}, device{2, Place::device};
};

TEST_F(RopeOnDevice, TablesAreTheHosts) {
  const ModelConfig config{.head_dim = 34, .rope_theta = 1e4};
  const RopeTable here(config, 9), on_host_stream(host, config, 9), there(device, config, 9);
  EXPECT_TRUE(same_bits(on_host_stream.cos(), here.cos()));
  EXPECT_EQ(there.positions(), 9);
  EXPECT_EQ(there.cos().place, Place::device);
  EXPECT_TRUE(same_bits(testing::on_host(device, there.cos()), here.cos()));
  EXPECT_TRUE(same_bits(testing::on_host(device, there.sin()), here.sin()));
}

TEST_F(RopeOnDevice, Rotations) {
  struct Shape {
    int64_t tokens, length, first_position, heads, head_dim, behind, padding;
  };
  for (const Shape& s :
       {Shape{1, 1, 0, 1, 2, 0, 0}, Shape{6, 3, 0, 3, 34, 34, 0}, Shape{40, 20, 5, 5, 64, 128, 8},
        Shape{7, 7, 2, 2, 128, 0, 3}, Shape{300, 100, 0, 2, 16, 16, 0}, Shape{5, 5, 95, 40, 48, 96, 0}})
    for (const DType type : {DType::f32, DType::bf16}) {
      const ModelConfig config{.head_dim = s.head_dim, .rope_theta = 1e4};
      const RopeTable here(config, s.first_position + s.length), there(device, config, s.first_position + s.length);
      const Twin x(device, type, s.tokens, s.heads * s.head_dim + s.behind, s.padding, 1);
      const auto rotate = [&](RopeDirection direction) {
        rope(host, here, s.heads, s.head_dim, s.length, s.first_position, direction, x.here);
        rope(device, there, s.heads, s.head_dim, s.length, s.first_position, direction, x.there);
        return same_bits(device, x);
      };
      EXPECT_TRUE(rotate(RopeDirection::forward)) << s.heads << " x " << s.head_dim;
      EXPECT_TRUE(rotate(RopeDirection::forward)) << s.heads << " x " << s.head_dim;
      EXPECT_TRUE(rotate(RopeDirection::backward)) << s.heads << " x " << s.head_dim;
    }
}

TEST_F(RopeOnDevice, AnotherPositionIsSeen) {
  const ModelConfig config{.head_dim = 64, .rope_theta = 1e4};
  const RopeTable here(config, 9), there(device, config, 9);
  const Twin x(device, DType::bf16, 4, 64, 0, 1);
  rope(host, here, 1, 64, 4, 0, RopeDirection::forward, x.here);
  rope(device, there, 1, 64, 4, 1, RopeDirection::forward, x.there);
  EXPECT_FALSE(same_bits(device, x));
}

}  // namespace
}  // namespace nibble
