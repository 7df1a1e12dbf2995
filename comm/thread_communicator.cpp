#include "comm/thread_communicator.hpp"

#include <cassert>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include "comm/message_error.hpp"

namespace nibble {
namespace {

/// A message lies in its sender's memory until the receiver has copied it.
struct Message {
  std::span<const std::byte> bytes;
  bool taken = false;
};

/// What the ranks of one world share.
class Mailboxes {
 public:
  explicit Mailboxes(int ranks)
      : ranks_(ranks), gone_(static_cast<size_t>(ranks)), boxes_(static_cast<size_t>(ranks * ranks)) {}

  int ranks() const { return ranks_; }

  void post(int from, int to, Message& message) {
    const std::lock_guard lock(mutex_);
    box(from, to).push_back(&message);
    changed_.notify_all();
  }

  void take(int from, int to, std::span<std::byte> bytes) {
    std::unique_lock lock(mutex_);
    wait(lock, to, from, [&] { return !box(from, to).empty(); });
    Message& message = *box(from, to).front();
    if (message.bytes.size() != bytes.size()) {
      fail_locked(fmt::format("rank {} stopped at a message of a wrong size", to));
      throw wrong_message_size(to, from, message.bytes.size(), bytes.size());
    }
    std::memcpy(bytes.data(), message.bytes.data(), bytes.size());
    box(from, to).pop_front();
    message.taken = true;
    changed_.notify_all();
  }

  void wait_until_taken(int from, int to, const Message& message) {
    std::unique_lock lock(mutex_);
    wait(lock, from, to, [&] { return message.taken; });
  }

  /// All transfers throw from now on.
  void fail(const std::string& reason) {
    const std::lock_guard lock(mutex_);
    fail_locked(reason);
  }

  /// Transfers with this rank throw from now on.
  void leave(int rank) {
    const std::lock_guard lock(mutex_);
    gone_[static_cast<size_t>(rank)] = true;
    changed_.notify_all();
  }

 private:
  std::deque<Message*>& box(int from, int to) { return boxes_[static_cast<size_t>(from * ranks_ + to)]; }

  template <class Condition>
  void wait(std::unique_lock<std::mutex>& lock, int rank, int peer, Condition condition) {
    const auto peer_is_gone = [&] { return gone_[static_cast<size_t>(peer)]; };
    changed_.wait(lock, [&] { return !failure_.empty() || condition() || peer_is_gone(); });
    if (!failure_.empty()) throw rank_is_gone(rank, failure_);
    if (!condition()) {
      // Messages of this transfer may still lie in boxes, and their memory ends with it: nobody may look any more.
      fail_locked(fmt::format("rank {} has ended", peer));
      throw rank_is_gone(rank, failure_);
    }
  }

  void fail_locked(const std::string& reason) {
    if (failure_.empty()) failure_ = reason;
    changed_.notify_all();
  }

  int ranks_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string failure_;
  std::vector<bool> gone_;
  std::vector<std::deque<Message*>> boxes_;  ///< of the pair (from, to) at from * ranks + to
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(int rank, std::shared_ptr<Mailboxes> mailboxes, const RandomDelays& delays)
      : rank_(rank),
        mailboxes_(std::move(mailboxes)),
        random_(delays.seed + static_cast<uint64_t>(rank)),
        longest_delay_(delays.longest) {}
  ~ThreadCommunicator() override {
    if (!under_way_.empty()) abandon();  // the boxes still hold its messages, whose memory ends here
    mailboxes_->leave(rank_);
  }

  int rank() const override { return rank_; }
  int size() const override { return mailboxes_->ranks(); }
  void abandon() override { mailboxes_->fail(fmt::format("rank {} was abandoned", rank_)); }

 private:
  struct Transfer {
    std::vector<Send> sends;
    std::vector<Receive> receives;
    std::vector<Message> messages;  ///< of the sends
  };

  void do_start(std::span<const Send> sends, std::span<const Receive> receives) override {
    if (longest_delay_.count() > 0) {
      std::uniform_int_distribution<int64_t> delay(0, longest_delay_.count());
      std::this_thread::sleep_for(std::chrono::microseconds(delay(random_)));
    }
    Transfer& transfer = under_way_.emplace_back();
    for (const Send& send : sends)
      if (!send.bytes.empty()) transfer.sends.push_back(send);
    for (const Receive& receive : receives)
      if (!receive.bytes.empty()) transfer.receives.push_back(receive);
    transfer.messages.resize(transfer.sends.size());
    for (size_t i = 0; i < transfer.sends.size(); ++i) {
      assert(transfer.sends[i].to != rank_);
      transfer.messages[i].bytes = transfer.sends[i].bytes;
      mailboxes_->post(rank_, transfer.sends[i].to, transfer.messages[i]);
    }
  }

  void do_finish() override {
    Transfer& transfer = under_way_.front();
    for (const Receive& receive : transfer.receives) mailboxes_->take(receive.from, rank_, receive.bytes);
    for (size_t i = 0; i < transfer.sends.size(); ++i)
      mailboxes_->wait_until_taken(rank_, transfer.sends[i].to, transfer.messages[i]);
    under_way_.pop_front();
  }

  int rank_;
  std::shared_ptr<Mailboxes> mailboxes_;
  std::mt19937_64 random_;
  std::chrono::microseconds longest_delay_;
  std::deque<Transfer> under_way_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> make_thread_communicators(int ranks, const RandomDelays& delays) {
  const auto mailboxes = std::make_shared<Mailboxes>(ranks);
  std::vector<std::unique_ptr<Communicator>> communicators;
  for (int rank = 0; rank < ranks; ++rank)
    communicators.push_back(std::make_unique<ThreadCommunicator>(rank, mailboxes, delays));
  return communicators;
}

void run_on_threads(std::span<const std::unique_ptr<Communicator>> ranks,
                    const std::function<void(Communicator&)>& body) {
  std::vector<std::exception_ptr> failures(ranks.size());
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < ranks.size(); ++rank)
    threads.emplace_back([&, rank] {
      try {
        body(*ranks[rank]);
      } catch (...) {
        failures[rank] = std::current_exception();
        ranks[rank]->abandon();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace nibble
