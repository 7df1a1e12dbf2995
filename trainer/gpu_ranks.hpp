// How the ranks of a run on GPUs send to each other, for as long as the run lives.
//
// Not for: the ways themselves (comm/device_communicator.hpp), who is on which GPU (run_stream.hpp).
#pragma once

#include <memory>
#include <string>

#include "comm/device_communicator.hpp"
#include "comm/world.hpp"
#include "tensor/gemm.hpp"

namespace nibble {

/// All ranks call it. Throws Error{configuration} that names ranks and devices where these differ.
void require_equal_gpus(World& world);

class GpuRanks {
 public:
  /// From now on jobs of the world's thread send the memory of the stream's GPU, behind what the stream had to do when
  /// they were submitted. `wish` as run.gpu_exchange; `before`: what the run used until now, or empty, for `auto`. World
  /// and stream must outlive the object. All ranks call it.
  /// Throws Error: configuration (ranks that cannot do so), communication (NCCL does not start).
  GpuRanks(World& world, const Stream& stream, const std::string& wish, const std::string& before);
  /// Jobs have been waited for. All ranks come here, unless the world has failed.
  ~GpuRanks();
  GpuRanks(const GpuRanks&) = delete;
  GpuRanks& operator=(const GpuRanks&) = delete;

  /// As in run.gpu_exchange.
  std::string way() const;
  /// A line for people.
  std::string description() const;

 private:
  CommunicationThread& thread_;
  int exceptions_at_start_;
  std::shared_ptr<Communicator> host_;
  DeviceLinks links_ = DeviceLinks::staged;
  int sharing_ = 1;  ///< ranks that have this rank's GPU
};

/// The first rank's algorithms become those of all ranks; what is not among them the library chooses, equally
/// everywhere. All ranks call it.
void share_gemms(World& world, Stream& stream);
/// What any rank multiplied with. All ranks call it.
GemmRecord gemms_of_all(World& world, Stream& stream);

}  // namespace nibble
