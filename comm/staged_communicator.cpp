#include <algorithm>
#include <deque>
#include <functional>
#include <vector>

#include "comm/device_communicator.hpp"
#include "comm/pinned_memory.hpp"

namespace nibble {
namespace {

class StagedCommunicator final : public DeviceCommunicator {
 public:
  StagedCommunicator(std::shared_ptr<Communicator> host, std::shared_ptr<Stream> stream, Look beside)
      : DeviceCommunicator(std::move(host), std::move(stream)), beside_(std::move(beside)) {}
  ~StagedCommunicator() override {
    if (!under_way_.empty()) abandon();  // the host's communicator still has messages in memory that ends here
    try {
      stream_->wait();
    } catch (const Error&) {  // copies that nobody waited for
    }
  }

  void look(std::chrono::nanoseconds waited) override {
    if (beside_) beside_(waited);
    DeviceCommunicator::look(waited);
  }
  uint64_t sent_beside_host() const override { return 0; }

 private:
  struct Transfer {
    PinnedMemory memory;
    std::vector<Receive> receives;  ///< in the device's memory
    std::vector<std::span<std::byte>> arriving;
  };

  void do_start(std::span<const Send> sends, std::span<const Receive> receives) override {
    look({});
    size_t bytes = 0;
    for (const Send& send : sends) bytes += send.bytes.size();
    for (const Receive& receive : receives) bytes += receive.bytes.size();
    Transfer transfer{.memory = take(bytes), .receives = {receives.begin(), receives.end()}, .arriving = {}};
    std::span<std::byte> free = transfer.memory.first(bytes);
    const auto next = [&free](size_t count) {
      const std::span<std::byte> taken = free.first(count);
      free = free.subspan(count);
      return taken;
    };
    std::vector<Send> from_host;
    std::vector<Receive> to_host;
    for (const Send& send : sends) {
      from_host.push_back({send.to, next(send.bytes.size())});
      stream_->queue().copy(const_cast<std::byte*>(from_host.back().bytes.data()), send.bytes.data(),
                            send.bytes.size());
    }
    for (const Receive& receive : receives) {
      transfer.arriving.push_back(next(receive.bytes.size()));
      to_host.push_back({receive.from, transfer.arriving.back()});
    }
    if (!sends.empty() || !leaving_.empty()) wait();
    under_way_.push_back(std::move(transfer));
    host_->start(from_host, to_host);
  }

  void do_finish() override {
    host_->finish();
    Transfer transfer = std::move(under_way_.front());
    under_way_.pop_front();
    for (size_t i = 0; i < transfer.receives.size(); ++i)
      stream_->queue().copy(transfer.receives[i].bytes.data(), transfer.arriving[i].data(),
                            transfer.arriving[i].size());
    leaving_.push_back(std::move(transfer.memory));
  }

  void wait() override {
    DeviceCommunicator::wait();
    std::ranges::move(leaving_, std::back_inserter(free_));
    leaving_.clear();
  }

  /// The smallest free memory that has room, or else new one in place of the largest.
  PinnedMemory take(size_t bytes) {
    std::ranges::sort(free_, {}, &PinnedMemory::bytes);
    auto found = std::ranges::lower_bound(free_, bytes, {}, &PinnedMemory::bytes);
    if (found == free_.end()) {
      if (!free_.empty()) free_.pop_back();
      return PinnedMemory(bytes);
    }
    PinnedMemory taken = std::move(*found);
    free_.erase(found);
    return taken;
  }

  Look beside_;
  std::deque<Transfer> under_way_;
  std::vector<PinnedMemory> leaving_;  ///< copies from it are queued
  std::vector<PinnedMemory> free_;
};

}  // namespace

std::unique_ptr<DeviceCommunicator> make_staged_communicator(std::shared_ptr<Communicator> host,
                                                             std::shared_ptr<Stream> stream, Look beside) {
  return std::make_unique<StagedCommunicator>(std::move(host), std::move(stream), std::move(beside));
}

}  // namespace nibble
