#include "comm/device_communicator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "comm/collectives.hpp"
#include "comm/host_name.hpp"
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

void require_equal(const std::vector<RankDevice>& ranks) {
  const auto odd =
      std::ranges::find_if(ranks, [&](const RankDevice& rank) { return rank.device != ranks.front().device; });
  if (odd == ranks.end()) return;
  std::map<std::string, std::string> ranks_of;
  for (size_t rank = 0; rank < ranks.size(); ++rank)
    ranks_of[ranks[rank].device] += fmt::format(" {} on {},", rank, ranks[rank].host);
  std::string seen;
  for (auto& [device, which] : ranks_of) {
    which.pop_back();
    seen += fmt::format("{}{}: ranks{}", seen.empty() ? "" : "; ", device, which);
  }
  throw Error({.kind = ErrorKind::configuration,
               .what = "the ranks have different GPUs",
               .where = fmt::format("rank {} on {}", odd - ranks.begin(), odd->host),
               .seen = seen,
               .allowed = "one model",
               .next = "give all ranks GPUs of one model, or choose among them with CUDA_VISIBLE_DEVICES"});
}

std::optional<std::string> why_not_nccl(const std::vector<RankDevice>& ranks) {
  std::map<std::string, size_t> first;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const auto [other, is_new] = first.emplace(ranks[rank].identity, rank);
    if (!is_new) return fmt::format("ranks {} and {} share a GPU", other->second, rank);
  }
  for (size_t rank = 0; rank < ranks.size(); ++rank)
    if (!ranks[rank].without_nccl.empty())
      return fmt::format("rank {} on {} has none: {}", rank, ranks[rank].host, ranks[rank].without_nccl);
  return std::nullopt;
}

DeviceLinks usable_links(const std::vector<RankDevice>& ranks, std::optional<DeviceLinks> wish) {
  if (ranks.size() == 1 || wish == DeviceLinks::staged) return DeviceLinks::staged;
  const std::optional<std::string> obstacle = why_not_nccl(ranks);
  if (!wish) return obstacle ? DeviceLinks::staged : DeviceLinks::nccl;
  if (obstacle)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the ranks cannot use NCCL",
                 .where = "run.gpu_exchange",
                 .seen = *obstacle,
                 .allowed = "staged, or auto, which takes NCCL where it can",
                 .next = "set run.gpu_exchange=auto"});
  return *wish;
}

namespace {

/// Hosts numbered in the order of their first ranks.
std::vector<int> numbers_of_hosts(const std::vector<RankDevice>& ranks) {
  std::map<std::string, int> numbers;
  std::vector<int> host_of;
  for (const RankDevice& rank : ranks)
    host_of.push_back(numbers.emplace(rank.host, static_cast<int>(numbers.size())).first->second);
  return host_of;
}

}  // namespace

std::vector<RankDevice> gather_devices(Communicator& host, int device) {
  const cuda::DeviceFacts facts = cuda::devices()[static_cast<size_t>(device)];
  const std::string without_nccl = !make_nccl_communicator ? "the program was built without NCCL" : why_no_nccl();
  const std::vector<std::string> hosts = gather_all(host, host_name()),
                                 devices =
                                     gather_all(host, fmt::format("{}, compute capability {}.{}", facts.name,
                                                                  facts.architecture / 10, facts.architecture % 10)),
                                 identities = gather_all(host, facts.identity),
                                 all_without_nccl = gather_all(host, without_nccl);
  std::vector<RankDevice> ranks;
  for (size_t rank = 0; rank < hosts.size(); ++rank)
    ranks.push_back({hosts[rank], devices[rank], identities[rank], all_without_nccl[rank]});
  require_equal(ranks);
  return ranks;
}

std::unique_ptr<DeviceCommunicator> make_device_communicator(std::shared_ptr<Communicator> host, int device,
                                                             DeviceLinks links, const std::vector<RankDevice>& ranks,
                                                             const NcclOptions& options) {
  auto stream = std::make_shared<Stream>(1, Place::device, device);
  switch (links) {
    case DeviceLinks::nccl:
      return make_nccl_communicator(std::move(host), std::move(stream), options);
    case DeviceLinks::hierarchical:
      return make_hierarchical_communicator(std::move(host), std::move(stream), numbers_of_hosts(ranks), options);
    case DeviceLinks::staged:
      break;
  }
  return make_staged_communicator(std::move(host), std::move(stream));
}

}  // namespace nibble
