#include "trainer/gpu_ranks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "trainer/rank_agreement.hpp"
#include "trainer/run_stream.hpp"

namespace nibble {
namespace {

constexpr std::array<std::pair<std::string_view, DeviceLinks>, 3> names = {
    {{"nccl", DeviceLinks::nccl}, {"hierarchical", DeviceLinks::hierarchical}, {"staged", DeviceLinks::staged}}};

/// None for "auto", and for what a run recorded that knew other ways.
std::optional<DeviceLinks> links_named(std::string_view name) {
  const auto found = std::ranges::find(names, name, &std::pair<std::string_view, DeviceLinks>::first);
  return found == names.end() ? std::nullopt : std::optional(found->second);
}

DeviceLinks choose(const std::vector<RankDevice>& ranks, const std::string& wish, const std::string& before) {
  if (const std::optional<DeviceLinks> wanted = links_named(wish)) return usable_links(ranks, wanted);
  const std::optional<DeviceLinks> recorded = links_named(before);
  return usable_links(ranks, recorded && !why_not_nccl(ranks) ? recorded : std::nullopt);
}

}  // namespace

void require_equal_gpus(World& world) {
  world.thread().run([&](Communicator& ranks) { gather_devices(ranks, gpu_of(world)); });
}

GpuRanks::GpuRanks(World& world, const Stream& stream, const std::string& wish, const std::string& before)
    : thread_(world.thread()), exceptions_at_start_(std::uncaught_exceptions()) {
  const int device = gpu_of(world);
  thread_.change(
      [&](std::shared_ptr<Communicator> host) -> std::shared_ptr<Communicator> {
        const std::vector<RankDevice> ranks = gather_devices(*host, device);
        links_ = choose(ranks, wish, before);
        sharing_ = static_cast<int>(
            std::ranges::count(ranks, ranks[static_cast<size_t>(host->rank())].identity, &RankDevice::identity));
        host_ = host;
        return make_device_communicator(std::move(host), device, links_, ranks);
      },
      &stream.queue());
}

GpuRanks::~GpuRanks() {
  if (std::uncaught_exceptions() > exceptions_at_start_) thread_.abandon();
  try {
    thread_.change([this](const std::shared_ptr<Communicator>&) { return std::move(host_); });
  } catch (const Error&) {  // of a job of before
  }
}

std::string GpuRanks::way() const {
  return std::string(std::ranges::find(names, links_, &std::pair<std::string_view, DeviceLinks>::second)->first);
}

std::string GpuRanks::description() const {
  switch (links_) {
    case DeviceLinks::nccl:
      return "over NCCL";
    case DeviceLinks::hierarchical:
      return "over NCCL within hosts, through them between";
    case DeviceLinks::staged:
      break;
  }
  return sharing_ > 1 ? fmt::format("through the host; {} ranks share this one", sharing_) : "through the host";
}

void share_gemms(World& world, Stream& stream) {
  const std::string first =
      gather_all(world, world.is_first() ? nlohmann::json(chosen_gemms(stream)).dump() : "").front();
  choose_gemms(stream, nlohmann::json::parse(first).get<GemmRecord>(), false);
}

GemmRecord gemms_of_all(World& world, Stream& stream) {
  GemmRecord all;
  for (const std::string& text : gather_all(world, nlohmann::json(chosen_gemms(stream)).dump()))
    all.merge(nlohmann::json::parse(text).get<GemmRecord>());
  return all;
}

}  // namespace nibble
