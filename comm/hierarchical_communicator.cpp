#include <algorithm>
#include <deque>
#include <vector>

#include "comm/device_communicator.hpp"
#include "comm/group_communicator.hpp"

namespace nibble {
namespace {

class HierarchicalCommunicator final : public DeviceCommunicator {
 public:
  HierarchicalCommunicator(std::shared_ptr<Communicator> host, std::shared_ptr<Stream> stream,
                           const std::vector<int>& host_of, const NcclOptions& options)
      : DeviceCommunicator(std::move(host), std::move(stream)), rank_in_host_(host_of.size(), elsewhere) {
    std::vector<int> members;
    for (size_t other = 0; other < host_of.size(); ++other) {
      if (host_of[other] != host_of[static_cast<size_t>(rank())]) continue;
      rank_in_host_[other] = static_cast<int>(members.size());
      members.push_back(static_cast<int>(other));
    }
    between_ = make_staged_communicator(host_, stream_, [this](std::chrono::nanoseconds waited) { look(waited); });
    if (members.size() > 1)
      within_ = make_nccl_communicator(std::make_shared<GroupCommunicator>(*host_, members), stream_, options);
  }

  void look(std::chrono::nanoseconds waited) override {
    if (within_) within_->look(waited);
    DeviceCommunicator::look(waited);
  }
  uint64_t sent_beside_host() const override { return within_ ? within_->sent_beside_host() : 0; }
  void abandon() override {
    if (within_) within_->abandon();
    DeviceCommunicator::abandon();
  }

 private:
  static constexpr int elsewhere = -1;

  /// What a transfer started of either.
  struct Transfer {
    bool within, between;
  };

  void do_start(std::span<const Send> sends, std::span<const Receive> receives) override {
    std::vector<Send> sends_within, sends_between;
    std::vector<Receive> receives_within, receives_between;
    for (Send send : sends) {
      const int in_host = rank_in_host_[static_cast<size_t>(send.to)];
      if (in_host != elsewhere) send.to = in_host;
      (in_host == elsewhere ? sends_between : sends_within).push_back(send);
    }
    for (Receive receive : receives) {
      const int in_host = rank_in_host_[static_cast<size_t>(receive.from)];
      if (in_host != elsewhere) receive.from = in_host;
      (in_host == elsewhere ? receives_between : receives_within).push_back(receive);
    }
    const Transfer transfer{.within = !sends_within.empty() || !receives_within.empty(),
                            .between = !sends_between.empty() || !receives_between.empty()};
    // First what waits for the device, so that it does not wait for the others' messages.
    if (transfer.between) between_->start(sends_between, receives_between);
    if (transfer.within) within_->start(sends_within, receives_within);
    under_way_.push_back(transfer);
  }

  void do_finish() override {
    const Transfer transfer = under_way_.front();
    under_way_.pop_front();
    if (transfer.within) within_->finish();
    if (transfer.between) between_->finish();
  }

  std::vector<int> rank_in_host_;  ///< by rank; elsewhere: of another host
  std::deque<Transfer> under_way_;
  std::unique_ptr<DeviceCommunicator> between_, within_;  ///< in this order: what ends first may keep the stream busy
};

}  // namespace

std::unique_ptr<DeviceCommunicator> make_hierarchical_communicator(std::shared_ptr<Communicator> host,
                                                                   std::shared_ptr<Stream> stream,
                                                                   const std::vector<int>& host_of,
                                                                   const NcclOptions& options) {
  return std::make_unique<HierarchicalCommunicator>(std::move(host), std::move(stream), host_of, options);
}

}  // namespace nibble
