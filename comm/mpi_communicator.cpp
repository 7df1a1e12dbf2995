#include "comm/mpi_communicator.hpp"

// The C interface alone.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "comm/message_error.hpp"

namespace nibble {
namespace {

using std::chrono::microseconds;

/// How the thread waits for messages: MPI's own waiting takes a whole core, which others could compute on.
class PassiveWaiting {
 public:
  /// Looks for a short time without pause, since what is small comes soon; then sleeps, longer each time.
  void pause() {
    if (std::chrono::steady_clock::now() < sleeps_from_) return;
    std::this_thread::sleep_for(sleep_);
    sleep_ = std::min(2 * sleep_, longest_sleep);
  }
  void progressed() {
    sleeps_from_ = std::chrono::steady_clock::now() + spin;
    sleep_ = shortest_sleep;
  }

 private:
  static constexpr microseconds spin{30}, shortest_sleep{10}, longest_sleep{80};
  std::chrono::steady_clock::time_point sleeps_from_ = std::chrono::steady_clock::now() + spin;
  microseconds sleep_ = shortest_sleep;
};

std::string text_of(int code) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) return "MPI error " + std::to_string(code);
  return {text, static_cast<size_t>(length)};
}

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(size_t largest_message) : largest_message_(largest_message) {
    int initialized = 0, provided = MPI_THREAD_SINGLE;
    MPI_Initialized(&initialized);
    assert(!initialized);
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI does not start");
    check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI does not start");
    check(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI does not start");
    check(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI does not start");
    // Linux prolongs every sleep by up to 50 us unless told otherwise; those here are as short as that.
    prctl(PR_SET_TIMERSLACK, 1000UL);
  }
  ~MpiCommunicator() override {
    if (!abandoned_) MPI_Finalize();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void abandon() override { abandoned_ = true; }

 private:
  void do_transfer(std::span<const Send> sends, std::span<const Receive> receives) override {
    requests_.clear();
    awaited_.clear();
    for (const Receive& receive : receives)
      for_each_message(receive.bytes, [&](std::span<std::byte> message) {
        awaited_.push_back({receive.from, message});
      });
    for (const Send& send : sends)
      for_each_message(send.bytes, [&](std::span<const std::byte> message) {
        check(MPI_Isend(message.data(), static_cast<int>(message.size()), MPI_BYTE, send.to, tag, MPI_COMM_WORLD,
                        &requests_.emplace_back()));
      });
    PassiveWaiting waiting;
    for (size_t left = requests_.size(); left > 0 || !awaited_.empty();) {
      if (abandoned_) throw rank_is_gone(rank_, "this rank was abandoned");
      const size_t started = start_receives(), completed = complete_some();
      left = left + started - completed;
      if (started + completed > 0) waiting.progressed();
      else waiting.pause();
    }
  }

  template <class Byte, class Body>
  void for_each_message(std::span<Byte> bytes, Body&& body) const {
    for (; !bytes.empty(); bytes = bytes.subspan(std::min(largest_message_, bytes.size())))
      body(bytes.first(std::min(largest_message_, bytes.size())));
  }

  /// Receives those messages that have come, and returns how many. Their size is looked at first: a receive that was
  /// posted blindly is overrun by a longer message in shared memory (Open MPI 4.1.4).
  size_t start_receives() {
    const size_t before = awaited_.size();
    silent_.clear();
    std::erase_if(awaited_, [&](const Receive& awaited) {
      // Behind a message that has not come nothing else comes from its rank.
      if (std::find(silent_.begin(), silent_.end(), awaited.from) != silent_.end()) return false;
      int has_come = 0, bytes = 0;
      MPI_Message message = MPI_MESSAGE_NULL;
      MPI_Status status;
      check(MPI_Improbe(awaited.from, tag, MPI_COMM_WORLD, &has_come, &message, &status));
      if (!has_come) {
        silent_.push_back(awaited.from);
        return false;
      }
      check(MPI_Get_count(&status, MPI_BYTE, &bytes));
      if (static_cast<size_t>(bytes) != awaited.bytes.size()) {
        abandon();
        throw wrong_message_size(rank_, awaited.from, static_cast<size_t>(bytes), awaited.bytes.size());
      }
      check(MPI_Imrecv(awaited.bytes.data(), bytes, MPI_BYTE, &message, &requests_.emplace_back()));
      return true;
    });
    return before - awaited_.size();
  }

  size_t complete_some() {
    int completed = 0;
    indices_.resize(requests_.size());
    const int code = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &completed, indices_.data(),
                                  MPI_STATUSES_IGNORE);
    check(code);
    return completed == MPI_UNDEFINED ? 0 : static_cast<size_t>(completed);
  }

  /// What MPI reports leaves messages on their way, so the communicator is of no use any more.
  void check(int code, const char* what = "a transfer between ranks failed") {
    if (code == MPI_SUCCESS) return;
    abandon();
    throw Error({.kind = ErrorKind::communication,
                 .what = what,
                 .where = fmt::format("rank {} of {}", rank_, size_),
                 .seen = text_of(code),
                 .next = "look for the first error of the other ranks, and whether their hosts answer"});
  }

  static constexpr int tag = 0;

  size_t largest_message_;
  int rank_ = 0, size_ = 1;
  std::atomic<bool> abandoned_ = false;
  std::vector<MPI_Request> requests_;
  std::vector<Receive> awaited_;  ///< messages that have not come
  std::vector<int> silent_, indices_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(size_t largest_message) {
  return std::make_unique<MpiCommunicator>(largest_message);
}

}  // namespace nibble
