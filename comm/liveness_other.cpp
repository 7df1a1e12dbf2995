// The side of the watch of all ranks but rank 0: it tells rank 0 what happens here and ends when that says so.
#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <thread>

#include "comm/liveness_side.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

using std::chrono::milliseconds;

/// Longer than rank 0 takes to decide.
constexpr milliseconds decision_time(5000);
/// A launcher ends everybody when the first process has ended: the one that speaks must be heard before.
constexpr milliseconds speaking_time(1000);

constexpr int communication_code = static_cast<int>(ErrorKind::communication);

class OtherSide final : public LivenessSide {
 public:
  OtherSide(int rank, const std::vector<std::string>& hosts, std::vector<LivenessPeer> peers,
            const LivenessOptions& options)
      : LivenessSide(rank, hosts, std::move(peers), options) {}

  void fail(const LivenessFailure& failure) override {
    failure_ = failure;
    decided_ = LivenessClock::now() + decision_time;
    first().connection.send(fmt::format("failed {} {}", failure.exit_code, failure.message));
  }

  void leave() override {
    if (!leaving_) first().connection.send("goodbye");
    leaving_ = true;
  }

  void silent(LivenessPeer& peer) override { without_first(obituary(peer, silence()), true); }

  void look(LivenessClock::time_point now) override {
    if (failure_ && now > decided_) speak_for_itself();
  }

 protected:
  void hear(LivenessPeer&, std::string_view word, std::string_view rest) override {
    if (word == "goodbye") over_ = true;
    if (word != "end") return;
    int exit_code = communication_code;
    std::from_chars(rest.data(), rest.data() + rest.size(), exit_code);
    end(exit_code);
  }

  void lost(LivenessPeer& peer) override {
    if (failure_ && failure_->exit_code != communication_code) speak_for_itself();
    else without_first(obituary(peer, "died"), false);
  }

 private:
  LivenessPeer& first() { return peers_.front(); }

  void speak_for_itself() {
    options_.say(name(rank_) + ": " + failure_->message);
    end(failure_->exit_code);
  }

  void without_first(const std::string& message, bool is_silent) {
    if (speaker_without_first(hosts_, is_silent) == rank_) options_.say(message);
    else std::this_thread::sleep_for(speaking_time);
    end(communication_code);
  }

  std::optional<LivenessFailure> failure_;
  LivenessClock::time_point decided_;
  bool leaving_ = false;
};

}  // namespace

std::unique_ptr<LivenessSide> make_other_side(int rank, const std::vector<std::string>& hosts,
                                              std::vector<LivenessPeer> peers, const LivenessOptions& options) {
  return std::make_unique<OtherSide>(rank, hosts, std::move(peers), options);
}

}  // namespace nibble
