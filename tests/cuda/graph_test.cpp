// Work that a device gets as a graph: what it does, what of it may differ from time to time, and what it must not have.
#include "tensor/cuda/graph.hpp"

#include <gtest/gtest.h>

#include "tensor/cuda/emulation/control.hpp"
#include "tensor/cuda/mark.hpp"
#include "tensor/error.hpp"
#include "tensor/fill.hpp"
#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::on_device;
using testing::on_host;

class GraphTest : public ::testing::Test {
 protected:
  std::vector<float> values() {
    const OwnedTensor host = on_host(device_, there_);
    return {host.view().as<float>(), host.view().as<float>() + 4};
  }
  void expect_refused(const std::function<void()>& work) {
    const std::vector<float> before = values();
    EXPECT_THROW(graph_->run([&] {
      fill(device_, there_, 77.0f);
      work();
    }),
                 Error);
    EXPECT_EQ(values(), before) << "what was recorded before was done";
  }

  Stream device_{1, Place::device};
  OwnedTensor there_{DType::f32, 1, 4, "test", Place::device}, other_{DType::f32, 1, 4, "test", Place::device};
  std::unique_ptr<cuda::Graph> graph_ = cuda::make_graph(device_.queue());
};

TEST_F(GraphTest, DoesTheWorkInItsOrderWithTheArgumentsOfTheTime) {
  for (const float value : {1.0f, 2.0f, 3.0f}) {
    graph_->run([&] {
      fill(device_, there_, value);
      copy(device_, there_, other_);
      add(device_, other_, there_);
    });
    EXPECT_EQ(values(), std::vector<float>(4, 2 * value));
  }
}

TEST_F(GraphTest, MayHaveOtherKernelsTheNextTime) {
  graph_->run([&] { fill(device_, there_, 5.0f); });
  graph_->run([&] {
    copy(device_, there_, other_);
    add(device_, other_, there_);
  });
  EXPECT_EQ(values(), std::vector<float>(4, 10));
  graph_->run([] {});
  EXPECT_EQ(values(), std::vector<float>(4, 10));
}

TEST_F(GraphTest, StandsBetweenWhatIsQueuedBeforeAndAfter) {
  fill(device_, there_, 3.0f);
  graph_->run([&] { add(device_, there_, there_); });
  add(device_, there_, there_);
  EXPECT_EQ(values(), std::vector<float>(4, 12));
}

TEST_F(GraphTest, HasNeitherWaitsNorMemoryNorOtherQueues) {
  fill(device_, there_, 1.0f);
  const std::unique_ptr<cuda::Queue> other = cuda::make_queue();
  expect_refused([&] { device_.wait(); });
  expect_refused([&] { OwnedTensor(DType::f32, 100, 100, "test", Place::device); });
  expect_refused([&] { throw Error({.kind = ErrorKind::numerics, .what = "of the work itself"}); });
  if (!cuda::emulation::linked()) return;  // the runtime joins the other queue to the recording
  expect_refused([&] { device_.queue().after(*other); });
  expect_refused([&] { cuda::mark(device_.queue()); });
  const std::vector<float> host(4);
  expect_refused([&] { device_.queue().copy(there_.view().data, host.data(), 16); });
}

}  // namespace
}  // namespace nibble
