#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <utility>

#include "tests/comm/nccl/double_world.hpp"

namespace nibble::nccl_double {
namespace {

class ThreadWorld final : public World {
 public:
  using World::World;

  bool join(int rank, int device) override { return devices_.insert(device).second && joined_.insert(rank).second; }
  bool all_have_joined() override { return std::cmp_equal(joined_.size(), ranks()); }
  void end(int rank) override { ended_.insert(rank); }
  bool all_have_ended() override { return std::cmp_equal(ended_.size(), ranks()); }
  void leave(int rank) override {
    for (auto& [pair, messages] : boxes_)
      if (pair.first == rank) messages.clear();
  }

  void post(int from, int to, std::span<const std::byte> bytes, bool* taken) override {
    boxes_[{from, to}].push_back({bytes, taken});
  }
  std::optional<size_t> size_of_next(int from, int to) override {
    const std::deque<Message>& messages = boxes_[{from, to}];
    return messages.empty() ? std::nullopt : std::optional(messages.front().bytes.size());
  }
  void take(int from, int to, std::span<std::byte> bytes) override {
    std::deque<Message>& messages = boxes_[{from, to}];
    std::memcpy(bytes.data(), messages.front().bytes.data(), bytes.size());
    *messages.front().taken = true;
    messages.pop_front();
  }

 private:
  struct Message {
    std::span<const std::byte> bytes;
    bool* taken;
  };
  std::set<int> joined_, ended_, devices_;
  std::map<std::pair<int, int>, std::deque<Message>> boxes_;  ///< by sender and receiver
};

}  // namespace

std::shared_ptr<World> make_thread_world(int ranks) { return std::make_shared<ThreadWorld>(ranks); }

}  // namespace nibble::nccl_double
