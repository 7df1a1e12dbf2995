#include "comm/device_communicator.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>

#include "comm/collectives.hpp"
#include "comm/passive_waiting.hpp"

namespace nibble {

void DeviceCommunicator::wait() {
  PassiveWaiting waiting;
  while (true) {
    const bool done = stream_->queue().done();
    look(waiting.time());  // also when it is done: what was aborted is
    if (done) return;
    waiting.pause();
  }
}

void DeviceCommunicator::look(std::chrono::nanoseconds) {
  if (abandoned_) throw rank_is_gone(rank(), "this rank was abandoned");
}

std::optional<std::string> why_not_nccl(const std::vector<RankDevice>& ranks) {
  std::map<std::string, size_t> first;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    if (ranks[rank].device != ranks.front().device)
      throw Error({.kind = ErrorKind::configuration,
                   .what = "the ranks have different GPUs",
                   .where = fmt::format("rank {} on {}", rank, ranks[rank].host),
                   .seen = ranks[rank].device,
                   .allowed = fmt::format("{}, as rank 0 has on {}", ranks.front().device, ranks.front().host),
                   .next = "give all ranks GPUs of one model, or choose among them with CUDA_VISIBLE_DEVICES"});
    const auto [other, is_new] = first.emplace(ranks[rank].identity, rank);
    if (!is_new) return fmt::format("ranks {} and {} share a GPU", other->second, rank);
  }
  const auto without = std::ranges::find(ranks, false, &RankDevice::nccl);
  if (without != ranks.end()) return fmt::format("rank {} runs a program without NCCL", without - ranks.begin());
  return std::nullopt;
}

namespace {

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown host";
}

std::vector<RankDevice> gather_devices(Communicator& host, int device) {
  const cuda::DeviceFacts facts = cuda::devices()[static_cast<size_t>(device)];
  const std::vector<std::string> hosts = gather_all(host, host_name()),
                                 devices =
                                     gather_all(host, fmt::format("{}, compute capability {}.{}", facts.name,
                                                                  facts.architecture / 10, facts.architecture % 10)),
                                 identities = gather_all(host, facts.identity),
                                 with_nccl = gather_all(host, make_nccl_communicator ? "yes" : "");
  std::vector<RankDevice> ranks;
  for (size_t rank = 0; rank < hosts.size(); ++rank)
    ranks.push_back({hosts[rank], devices[rank], identities[rank], !with_nccl[rank].empty()});
  return ranks;
}

/// Hosts numbered in the order of their first ranks.
std::vector<int> numbers_of_hosts(const std::vector<RankDevice>& ranks) {
  std::map<std::string, int> numbers;
  std::vector<int> host_of;
  for (const RankDevice& rank : ranks)
    host_of.push_back(numbers.emplace(rank.host, static_cast<int>(numbers.size())).first->second);
  return host_of;
}

}  // namespace

int device_of_rank(Communicator& host) {
  const std::vector<std::string> hosts = gather_all(host, host_name());
  const size_t devices = cuda::available() ? cuda::devices().size() : 0;
  const auto own = hosts.begin() + host.rank();
  if (devices == 0)
    throw Error({.kind = ErrorKind::resource,
                 .what = cuda::available() ? "there is no GPU" : "this program was built without CUDA",
                 .where = fmt::format("rank {} on {}", host.rank(), *own),
                 .next = "see what nvidia-smi and CUDA_VISIBLE_DEVICES say"});
  return static_cast<int>(static_cast<size_t>(std::count(hosts.begin(), own, *own)) % devices);
}

std::unique_ptr<DeviceCommunicator> make_device_communicator(std::unique_ptr<Communicator> host, int device,
                                                             DeviceLinks links, const NcclOptions& options) {
  std::shared_ptr<Communicator> shared = std::move(host);
  const auto stream = std::make_shared<Stream>(1, Place::device, device);
  const std::vector<RankDevice> ranks = gather_devices(*shared, device);
  if (why_not_nccl(ranks) || links == DeviceLinks::staged) return make_staged_communicator(shared, stream);
  if (links == DeviceLinks::nccl) return make_nccl_communicator(shared, stream, options);
  return make_hierarchical_communicator(shared, stream, numbers_of_hosts(ranks), options);
}

}  // namespace nibble
