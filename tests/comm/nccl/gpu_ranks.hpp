// Ranks that train, as threads of one process: each with a world and an emulated GPU, which some may share.
#pragma once

#include <gtest/gtest.h>

#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "comm/local_world.hpp"
#include "comm/thread_communicator.hpp"
#include "tensor/caught_error.hpp"
#include "tensor/cuda/emulation/control.hpp"
#include "tests/comm/nccl/nccl_double.hpp"

namespace nibble::test {

struct GpuWorld {
  int ranks = 1;
  int gpus = 0;  ///< 0: one for each rank
  nccl_double::Faults faults{};
};

/// What each rank's body threw, by rank; nothing: null. NCCL's rules are kept.
inline std::vector<std::exception_ptr> run_on_gpus(const GpuWorld& how, const std::function<void(World&)>& body) {
  nccl_double::reset(how.faults);
  cuda::emulation::set_devices(how.gpus > 0 ? how.gpus : how.ranks);
  std::vector<std::unique_ptr<Communicator>> hosts = make_thread_communicators(how.ranks);
  std::vector<std::exception_ptr> failures(hosts.size());
  {
    std::vector<std::jthread> threads;
    for (size_t rank = 0; rank < hosts.size(); ++rank)
      threads.emplace_back([&, rank] {
        try {
          const std::unique_ptr<World> world = make_local_world(std::move(hosts[rank]));
          body(*world);
        } catch (...) {
          failures[rank] = std::current_exception();
        }
      });
  }
  EXPECT_EQ(nccl_double::violations(), std::vector<std::string>());
  cuda::emulation::set_devices(1);
  return failures;
}

/// The same, where none may throw.
inline void run_well_on_gpus(const GpuWorld& how, const std::function<void(World&)>& body) {
  for (const std::exception_ptr& failure : run_on_gpus(how, body)) {
    if (!failure) continue;
    try {
      std::rethrow_exception(failure);
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
  }
}

/// The texts of what each rank threw; empty: nothing.
inline std::vector<std::string> texts_of(const std::vector<std::exception_ptr>& failures) {
  std::vector<std::string> texts;
  for (const std::exception_ptr& failure : failures) {
    texts.emplace_back();
    if (!failure) continue;
    try {
      std::rethrow_exception(failure);
    } catch (...) {
      texts.back() = caught_error().what();
    }
  }
  return texts;
}

}  // namespace nibble::test
