// In place of NCCL: the functions of nccl.h that comm/nccl calls, between ranks whose devices are emulated: threads of
// one process, or processes (double_world.hpp).
//
// What NCCL leaves undefined, or answers by waiting for ever, is written down as a violation; then it waits for ever,
// too. Work is queued in the device's queue and done when somebody waits for that; a group ends when all its messages
// have met, each side's in the order of its calls. Communicators do not block: what they are told is in progress until
// they have been asked for it often enough.
// Not for other messages than bytes, nor for other reductions than sums of integers and maxima, nor for communicators
// that block.
#pragma once

#include <nccl.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/comm/nccl/double_world.hpp"

namespace nibble::nccl_double {

inline constexpr int nobody = -1;

struct Faults {
  uint64_t seed = 0;
  std::chrono::microseconds longest_delay{0};  ///< every group waits for a random time up to it

  std::string missing{};                 ///< why there is no NCCL
  ncclResult_t unique_id = ncclSuccess;  ///< what ncclGetUniqueId returns
  int absent = nobody;                   ///< this rank never gets through its start
  int unable = nobody;                   ///< this rank's start fails
  int failing = nobody;                  ///< this rank reports an error, and does no more work
  int64_t groups_before = 0;             ///< how many groups it starts before that
  bool all_learn = false;                ///< the others report that it is gone
};

/// Makes the world that a new id stands for; one of threads, if nobody has said otherwise.
using MakeWorld = std::function<std::shared_ptr<World>(int ranks)>;
void use(const MakeWorld& make_world);

/// From now on, for new worlds. Forgets violations and communicators; nobody uses any.
void reset(const Faults& faults = {});

/// What broke NCCL's rules since then, and communicators that are neither destroyed nor aborted.
std::vector<std::string> violations();

}  // namespace nibble::nccl_double
