#include "comm/world.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <utility>

#include "comm/collectives.hpp"
#include "comm/host_name.hpp"
#include "comm/local_world.hpp"
#include "comm/rendezvous.hpp"
#include "tensor/caught_error.hpp"
#include "tensor/files.hpp"
#ifdef NIBBLE_MPI
#include "comm/mpi_communicator.hpp"
#endif

namespace nibble {
namespace {

#ifdef NIBBLE_MPI
constexpr bool has_mpi = true;
std::unique_ptr<Communicator> make_launched_communicator() { return make_mpi_communicator(); }
#else
constexpr bool has_mpi = false;
std::unique_ptr<Communicator> make_launched_communicator() { return make_self_communicator(); }
#endif

/// Hosts that are still starting their ranks have this long to reach rank 0.
constexpr std::chrono::milliseconds meeting_time(30000);

/// Two builds of the same version may still compute differently, so the file itself is compared.
std::string executable() {
  const FileChecksum file = checksum_file("/proc/self/exe", ErrorKind::resource);
  return fmt::format("{} bytes, checksum {}", file.bytes, hex(file.value));
}

/// Empty when all ranks run the same executable; otherwise which do not. The most frequent one is the right one, and
/// that of the lowest rank where several are equally frequent.
std::optional<Error> odd_executables(const std::vector<std::string>& executables,
                                     const std::vector<std::string>& hosts) {
  const auto count = [&](const std::string& which) {
    return std::count(executables.begin(), executables.end(), which);
  };
  const std::string& right =
      *std::max_element(executables.begin(), executables.end(),
                        [&](const auto& one, const auto& other) { return count(one) < count(other); });
  std::vector<std::string> odd;
  const std::string* seen = nullptr;
  for (size_t rank = 0; rank < hosts.size(); ++rank) {
    if (executables[rank] == right) continue;
    odd.push_back(fmt::format("rank {} on {}", rank, hosts[rank]));
    seen = &executables[rank];
  }
  if (!seen) return std::nullopt;
  return Error({.kind = ErrorKind::configuration,
                .what = "the ranks do not all run the same nibble",
                .where = fmt::format("{}", fmt::join(odd, ", ")),
                .seen = *seen,
                .allowed = right + ", as the others",
                .next = "copy one build of the program to all hosts"});
}

class RankWorld final : public World {
 public:
  RankWorld(const Launch& launch, const LivenessOptions& options)
      : thread_(std::make_unique<CommunicationThread>(make_launched_communicator)) {
    require_all_ranks(launch, thread_->size(), has_mpi);
    hosts_ = gather(host_name());
    if (size() > 1) meet(options);
  }

  ~RankWorld() override {
    thread_.reset();  // waits for the other ranks, over whom somebody must watch
    if (liveness_) liveness_->goodbye();
  }

  CommunicationThread& thread() const override { return *thread_; }
  int local_size() const override { return static_cast<int>(std::count(hosts_.begin(), hosts_.end(), host())); }
  int local_rank() const override {
    return static_cast<int>(std::count(hosts_.begin(), hosts_.begin() + rank(), host()));
  }
  const std::vector<std::string>& hosts() const override { return hosts_; }

  void at(int64_t step, const char* phase) override {
    if (liveness_) liveness_->at(step, phase);
  }

  void run(const std::function<void()>& body) override {
    try {
      body();
    } catch (...) {
      if (!liveness_) throw;
      thread_->abandon();
      const Error error = caught_error();
      liveness_->fail(error.exit_code(), error.what());
    }
  }

 private:
  const std::string& host() const { return hosts_[static_cast<size_t>(rank())]; }

  /// Every rank's text.
  std::vector<std::string> gather(const std::string& mine) {
    std::vector<std::string> all;
    thread_->run([&](Communicator& communicator) { all = gather_all(communicator, mine); });
    return all;
  }

  /// From here on the ranks watch each other.
  void meet(const LivenessOptions& options) {
    std::string trouble, mine;
    const auto attempt = [&](const auto& action) {
      try {
        action();
      } catch (const Error& error) {
        trouble = error.detail().what + ": " + error.detail().where;
      }
    };
    std::optional<Rendezvous> rendezvous;
    std::vector<MessageConnection> connections;
    attempt([&] {
      mine = executable();
      if (is_first()) rendezvous.emplace();
    });
    const std::string invitation = gather(rendezvous ? rendezvous->invitation() : "").front();
    if (trouble.empty())
      attempt([&] {
        if (is_first()) connections = rendezvous->accept(size(), meeting_time);
        else connections.push_back(join(invitation, rank(), meeting_time));
      });
    for (const std::string& text : gather(trouble))
      if (!text.empty())
        throw Error({.kind = ErrorKind::communication,
                     .what = text,
                     .next = "ranks watch each other over TCP, on any free port beside MPI: let the hosts reach each "
                             "other"});
    liveness_ = std::make_unique<Liveness>(rank(), hosts_, std::move(connections), options);
    if (const std::optional<Error> odd = odd_executables(gather(mine), hosts_))
      liveness_->fail(odd->exit_code(), odd->what());
  }

  std::unique_ptr<CommunicationThread> thread_;
  std::vector<std::string> hosts_;
  std::unique_ptr<Liveness> liveness_;
};

}  // namespace

std::unique_ptr<World> make_world(const WorldOptions& options) {
  const Launch launch = find_launch(options.environment ? options.environment : Environment(::getenv));
  if (launch.mpi && has_mpi) return std::make_unique<RankWorld>(launch, options.liveness);
  require_all_ranks(launch, 1, has_mpi);
  return make_local_world();
}

void run_in_world(const std::function<void(World&)>& body, const WorldOptions& options) {
  const std::unique_ptr<World> world = make_world(options);
  world->run([&] { body(*world); });
}

}  // namespace nibble
