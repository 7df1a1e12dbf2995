// Rank 0's side of the watch: it hears of every failure, chooses the one to tell, and ends all ranks.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "comm/liveness_side.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

using std::chrono::milliseconds;

/// After the first failure others may follow that are its reason, or the same on another rank: a death shows itself
/// within milliseconds. Well below the two seconds that mpirun leaves before it kills.
constexpr milliseconds settling_time(500);
/// For the others to take notice of the end.
constexpr milliseconds lingering_time(1000);

constexpr int communication_code = static_cast<int>(ErrorKind::communication);

class FirstSide final : public LivenessSide {
 public:
  FirstSide(const std::vector<std::string>& hosts, std::vector<LivenessPeer> peers, const LivenessOptions& options)
      : LivenessSide(0, hosts, std::move(peers), options) {}

  void fail(const LivenessFailure& failure) override { note(0, failure); }

  void leave() override {
    if (!failures_.empty()) return;
    const auto leaves = [](const LivenessPeer& peer) { return peer.leaving; };
    if (!std::all_of(peers_.begin(), peers_.end(), leaves)) return;
    for (LivenessPeer& peer : peers_) peer.connection.send("goodbye");
    linger(lingering_time);
    over_ = true;
  }

  void silent(LivenessPeer& peer) override { end_all(communication_code, obituary(peer, silence())); }

  void look(LivenessClock::time_point now) override {
    if (failures_.empty() || (now < settled_ && failures_.size() < hosts_.size())) return;
    // The first that does not follow from another one; the same words on rank 0 are everybody's.
    auto chosen = std::find_if(failures_.begin(), failures_.end(),
                               [](const Noted& noted) { return noted.failure.exit_code != communication_code; });
    if (chosen == failures_.end()) chosen = failures_.begin();
    const LivenessFailure failure = chosen->failure;
    const bool everybodys = std::any_of(failures_.begin(), failures_.end(), [&](const Noted& noted) {
      return noted.rank == 0 && noted.failure.message == failure.message;
    });
    end_all(failure.exit_code, everybodys ? failure.message : name(chosen->rank) + ": " + failure.message);
  }

 protected:
  void hear(LivenessPeer& peer, std::string_view word, std::string_view rest) override {
    if (word == "goodbye") peer.leaving = true;
    if (word != "failed") return;
    LivenessFailure failure{.exit_code = static_cast<int>(ErrorKind::internal), .message = ""};
    const char* const stop = std::from_chars(rest.data(), rest.data() + rest.size(), failure.exit_code).ptr;
    failure.message = rest.substr(std::min(rest.size(), static_cast<size_t>(stop - rest.data()) + 1));
    note(peer.rank, failure);
  }

  void lost(LivenessPeer& peer) override {
    if (!peer.leaving && !has_failed(peer.rank)) end_all(communication_code, obituary(peer, "died"));
  }

 private:
  struct Noted {
    int rank;
    LivenessFailure failure;
  };

  bool has_failed(int rank) const {
    return std::any_of(failures_.begin(), failures_.end(), [&](const Noted& noted) { return noted.rank == rank; });
  }

  void note(int rank, const LivenessFailure& failure) {
    if (failures_.empty()) settled_ = LivenessClock::now() + settling_time;
    failures_.push_back({rank, failure});
  }

  void end_all(int exit_code, const std::string& message) {
    options_.say(message);
    for (LivenessPeer& peer : peers_) peer.connection.send(fmt::format("end {}", exit_code));
    linger(lingering_time);
    end(exit_code);
  }

  std::vector<Noted> failures_;
  LivenessClock::time_point settled_;
};

}  // namespace

std::unique_ptr<LivenessSide> make_first_side(const std::vector<std::string>& hosts, std::vector<LivenessPeer> peers,
                                              const LivenessOptions& options) {
  return std::make_unique<FirstSide>(hosts, std::move(peers), options);
}

}  // namespace nibble
