// Some ranks of a world as a world of their own, which talk through the same links.
//
// It holds nothing but who they are, so it is made where it is used; what one group sends must be received before the
// same ranks talk in another group, or in the world.
#pragma once

#include <vector>

#include "comm/communicator.hpp"

namespace nibble {

class GroupCommunicator final : public Communicator {
 public:
  /// `members`: ranks of `world`, this one among them, in the order of their ranks in the group.
  GroupCommunicator(Communicator& world, std::vector<int> members);

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }
  void abandon() override { world_.abandon(); }
  Stream* stream() override { return world_.stream(); }
  void wait() override { world_.wait(); }
  Communicator& host() override { return host_ ? *host_ : *this; }
  /// The world's, which outlives a group that is made for one sum.
  std::span<std::byte> staging(size_t bytes, Staging use) override { return world_.staging(bytes, use); }

 private:
  void do_start(std::span<const Send> sends, std::span<const Receive> receives) override;
  void do_finish() override { world_.finish(); }

  Communicator& world_;
  std::vector<int> members_;
  int rank_ = 0;
  std::unique_ptr<Communicator> host_;  ///< where the world has one of its own
};

}  // namespace nibble
