#include "comm/group_communicator.hpp"

#include <algorithm>
#include <cassert>

namespace nibble {

GroupCommunicator::GroupCommunicator(Communicator& world, std::vector<int> members)
    : world_(world), members_(std::move(members)) {
  const auto own = std::ranges::find(members_, world.rank());
  assert(own != members_.end());
  rank_ = static_cast<int>(own - members_.begin());
  if (&world.host() != &world) host_ = std::make_unique<GroupCommunicator>(world.host(), members_);
}

void GroupCommunicator::do_start(std::span<const Send> sends, std::span<const Receive> receives) {
  std::vector<Send> to(sends.begin(), sends.end());
  std::vector<Receive> from(receives.begin(), receives.end());
  for (Send& send : to) send.to = members_[static_cast<size_t>(send.to)];
  for (Receive& receive : from) receive.from = members_[static_cast<size_t>(receive.from)];
  world_.start(to, from);
}

}  // namespace nibble
