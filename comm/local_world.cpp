#include "comm/local_world.hpp"

#include <string>
#include <utility>
#include <vector>

#include "comm/host_name.hpp"

namespace nibble {
namespace {

class LocalWorld final : public World {
 public:
  explicit LocalWorld(std::unique_ptr<Communicator> communicator)
      : thread_([&] { return std::move(communicator); }), hosts_(static_cast<size_t>(thread_.size()), host_name()) {}

  CommunicationThread& thread() const override { return thread_; }
  int local_size() const override { return thread_.size(); }
  int local_rank() const override { return thread_.rank(); }
  const std::vector<std::string>& hosts() const override { return hosts_; }
  void at(int64_t, const char*) override {}

 private:
  mutable CommunicationThread thread_;
  std::vector<std::string> hosts_;
};

}  // namespace

std::unique_ptr<World> make_local_world(std::unique_ptr<Communicator> communicator) {
  return std::make_unique<LocalWorld>(std::move(communicator));
}

}  // namespace nibble
