// Ranks whose messages lie in the memory of their GPUs: over NCCL, through the host, or one within hosts and the other
// between them.
//
// All three stand on a communicator of the host, which carries what is small (who the ranks are, texts, numbers) and
// what NCCL does not; and all move messages in order on one stream, beside the one that computes:
//
//   communicator->stream()->queue().after(computing);   // messages leave when what computes them is done
//   reduce_scatter(*communicator, gradient, Wire::f32);  // queued: transfers, and sums in the order of the host's
//   computing.after(communicator->stream()->queue());    // goes on when they are there
//
// A communication thread does so for each of its jobs (CommunicationThread::change).
// Sums keep one order, so they are made here of what arrived, not by NCCL, whose order depends on the machine and its
// version; what that costs stands at make_nccl_communicator. Compressed sums are made where values lie; leaves of them
// that have no kernels for devices, by the host (make_sum_on_host). Not for: the world that such a communicator lives
// in (world.hpp).
#pragma once

#include <atomic>
#include <cassert>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "comm/message_error.hpp"
#include "tensor/stream.hpp"

namespace nibble {

/// What its kinds have in common.
class DeviceCommunicator : public Communicator {
 public:
  DeviceCommunicator(std::shared_ptr<Communicator> host, std::shared_ptr<Stream> stream)
      : host_(std::move(host)), stream_(std::move(stream)) {}

  int rank() const final { return host_->rank(); }
  int size() const final { return host_->size(); }
  Stream* stream() final { return stream_.get(); }
  Communicator& host() final { return *host_; }
  uint64_t bytes_sent() const final { return sent_beside_host() + host_->bytes_sent(); }
  void wait() override;
  void abandon() override {
    abandoned_ = true;
    host_->abandon();
  }

  /// Throws Error{communication} when this communicator is of no use any more, or should not be waited for longer:
  /// `waited` so far. Called again and again while it waits.
  virtual void look(std::chrono::nanoseconds waited);
  /// Payload bytes that did not go through the host's communicator.
  virtual uint64_t sent_beside_host() const { return Communicator::bytes_sent() + reduced_bytes_; }

  /// What NCCL computes itself, others nothing (`reduces`): in place and on all ranks alike, of numbers whose sums and
  /// maxima depend on no order: integers, magnitudes. All ranks call it with as many bytes; it moves in order as
  /// messages do, and throws as they.
  enum class Reduction { sum_of_bytes, sum_of_ints, largest_float };
  virtual bool reduces() const { return false; }
  void all_reduce(Reduction how, std::span<std::byte> values) {
    // Around a ring: each part goes to its owner, and the sum to all.
    const auto ranks = static_cast<size_t>(size());
    reduced_bytes_ += 2 * (ranks - 1) * values.size() / ranks;
    do_all_reduce(how, values);
  }

 protected:
  std::shared_ptr<Communicator> host_;
  std::shared_ptr<Stream> stream_;
  std::atomic<bool> abandoned_ = false;

 private:
  virtual void do_all_reduce(Reduction, std::span<std::byte>) { assert(false); }

  uint64_t reduced_bytes_ = 0;
};

/// As DeviceCommunicator::look.
using Look = std::function<void(std::chrono::nanoseconds waited)>;

/// Every message goes through pinned host memory and the host's communicator: for ranks that share a GPU, and where
/// there is no NCCL. `start` waits until what is sent has left the device, and looks beside where others have work in
/// the same stream.
std::unique_ptr<DeviceCommunicator> make_staged_communicator(std::shared_ptr<Communicator> host,
                                                             std::shared_ptr<Stream> stream, Look beside = {});

struct NcclOptions {
  /// All ranks have started NCCL by then. The first one may build its topology while others still load the program.
  std::chrono::milliseconds start_deadline{120'000};
  /// A wait in which nothing ends for so long is given up. A rank may be late by a checkpoint or an evaluation; it is
  /// the liveness channel's to find those that died. The same time as in PyTorch (ProcessGroupNCCL's default).
  std::chrono::milliseconds stall_deadline{600'000};
  /// Of each two ranks, the sizes of so many messages are compared before they leave, since NCCL's ranks would wait for
  /// ever or write past an end: those of the first steps. A difference that comes later ends with the deadline. So both
  /// ranks must have the same messages in a transfer.
  int64_t compared_messages = 1000;
};

/// Why programs on this machine do not find NCCL; empty: they do. Exists where make_nccl_communicator does.
[[gnu::weak]] std::string why_no_nccl();

/// Every message is an ncclSend and an ncclRecv, those of one transfer in a group; each rank has a GPU of its own,
/// which the calling thread has selected. Exists only in programs that are linked with comm/nccl; else null. Throws
/// Error{communication}, beside what stands below, where why_no_nccl.
///
/// Sums that keep their order cost this: contributions are written to staging and read again (P + 1 more passes over a
/// part than a ring that sums on the way), they cannot be added in NVSwitch (NVLS), and each segment is three kernels.
/// Bytes on the wire are the same, and links are what bounds both from a few MiB on.
///
/// NCCL is asked for errors while anything waits. An error, a deadline or abandon() aborts it, and every transfer
/// throws from then on. The destructor waits for all ranks, unless it was aborted.
/// Throws Error{communication}, on all ranks where rank 0 cannot begin, when NCCL does not start in time.
[[gnu::weak]] std::unique_ptr<DeviceCommunicator> make_nccl_communicator(std::shared_ptr<Communicator> host,
                                                                         std::shared_ptr<Stream> stream,
                                                                         const NcclOptions& options);

/// Ranks of one host over NCCL, others through the hosts; `host_of` by rank. Groups of its ranks
/// (group_communicator.hpp) are then NCCL's, or MPI's, or both.
std::unique_ptr<DeviceCommunicator> make_hierarchical_communicator(std::shared_ptr<Communicator> host,
                                                                   std::shared_ptr<Stream> stream,
                                                                   const std::vector<int>& host_of,
                                                                   const NcclOptions& options);

/// What a rank has.
struct RankDevice {
  std::string host;            ///< its name
  std::string device;          ///< as cuda::DeviceFacts: name and architecture
  std::string identity;        ///< and identity
  std::string without_nccl{};  ///< why; empty: it has NCCL
};

/// Every rank's, of which this one's is `device`. All ranks call it. Throws Error{configuration} as require_equal.
std::vector<RankDevice> gather_devices(Communicator& host, int device);

/// Throws Error{configuration} for ranks with different devices, whose sums and codes could differ; it names them.
void require_equal(const std::vector<RankDevice>& ranks);

/// Why these ranks cannot use NCCL, if they cannot: a sentence.
std::optional<std::string> why_not_nccl(const std::vector<RankDevice>& ranks);

enum class DeviceLinks {
  nccl,          ///< among all ranks
  hierarchical,  ///< NCCL within hosts, the host's communicator between them
  staged,        ///< the host's communicator only
};

/// `wish`, or without one NCCL where all ranks can use it, else staged; a rank alone sends nothing. Throws
/// Error{configuration} for what they cannot have.
DeviceLinks usable_links(const std::vector<RankDevice>& ranks, std::optional<DeviceLinks> wish);

/// Over `links`, which these ranks can use. The stream is of device `device`, and the calling thread's. Throws as the
/// makers of its kinds, and Error{resource} where there is no such device.
std::unique_ptr<DeviceCommunicator> make_device_communicator(std::shared_ptr<Communicator> host, int device,
                                                             DeviceLinks links, const std::vector<RankDevice>& ranks,
                                                             const NcclOptions& options = {});

}  // namespace nibble
