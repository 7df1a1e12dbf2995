// A function run on every rank of a world of threads, each with a stream of an emulated device.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "comm/device_communicator.hpp"
#include "tensor/cuda/emulation/control.hpp"
#include "tests/comm/nccl/nccl_double.hpp"
#include "tests/comm/rank_threads.hpp"

namespace nibble {

/// Long enough for a machine that is busy with other things.
inline constexpr NcclOptions patient{.start_deadline = std::chrono::minutes(2),
                                     .stall_deadline = std::chrono::minutes(2)};

struct DeviceWorld {
  int ranks = 2;
  bool share = false;  ///< all have one device
  nccl_double::Faults faults{};
  RandomDelays delays{};
};

using OnDevice = std::function<void(std::shared_ptr<Communicator> host, std::shared_ptr<Stream> stream)>;

/// Throws as run_on_threads. NCCL's rules are kept.
inline void run_on_devices(const DeviceWorld& world, const OnDevice& body) {
  nccl_double::reset(world.faults);
  cuda::emulation::set_devices(world.share ? 1 : world.ranks);
  run_on_ranks(
      world.ranks,
      [&](Communicator& host) {
        const int device = world.share ? 0 : host.rank();
        body({&host, [](Communicator*) {}}, std::make_shared<Stream>(1, Place::device, device));
      },
      world.delays);
  EXPECT_EQ(nccl_double::violations(), std::vector<std::string>());
  cuda::emulation::set_devices(1);
}

}  // namespace nibble
