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
    expected_.clear();
    for (const Receive& receive : receives)
      for_each_message(receive.bytes, [&](std::span<std::byte> message) {
        check(MPI_Irecv(message.data(), static_cast<int>(message.size()), MPI_BYTE, receive.from, tag, MPI_COMM_WORLD,
                        &requests_.emplace_back()),
              "a receive cannot start");
        expected_.push_back({receive.from, message.size()});
      });
    for (const Send& send : sends)
      for_each_message(send.bytes, [&](std::span<const std::byte> message) {
        check(MPI_Isend(message.data(), static_cast<int>(message.size()), MPI_BYTE, send.to, tag, MPI_COMM_WORLD,
                        &requests_.emplace_back()),
              "a send cannot start");
      });
    complete();
  }

  template <class Byte, class Body>
  void for_each_message(std::span<Byte> bytes, Body&& body) const {
    for (; !bytes.empty(); bytes = bytes.subspan(std::min(largest_message_, bytes.size())))
      body(bytes.first(std::min(largest_message_, bytes.size())));
  }

  /// Returns when all of requests_ are complete; those of receives come first, as in expected_.
  void complete() {
    const int count = static_cast<int>(requests_.size());
    indices_.resize(requests_.size());
    statuses_.resize(requests_.size());
    PassiveWaiting waiting;
    for (int left = count; left > 0;) {
      if (abandoned_) throw rank_is_gone(rank_, "this rank was abandoned");
      int completed = 0;
      const int code = MPI_Testsome(count, requests_.data(), &completed, indices_.data(), statuses_.data());
      left -= completed;
      try {
        if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) check(code, "a transfer between ranks failed");
        for (int i = 0; i < completed; ++i)
          check_completed(static_cast<size_t>(indices_[static_cast<size_t>(i)]), statuses_[static_cast<size_t>(i)],
                          code == MPI_ERR_IN_STATUS);
      } catch (const Error&) {
        if (left > 0) abandon();  // the memory of the other messages is the caller's, who will not wait for them
        throw;
      }
      if (completed > 0) waiting.progressed();
      else waiting.pause();
    }
  }

  void check_completed(size_t request, const MPI_Status& status, bool has_error) const {
    const bool is_receive = request < expected_.size();
    if (has_error && status.MPI_ERROR != MPI_SUCCESS) {
      int error_class = MPI_SUCCESS;
      MPI_Error_class(status.MPI_ERROR, &error_class);
      if (is_receive && error_class == MPI_ERR_TRUNCATE)
        throw wrong_message_size(rank_, expected_[request].from, "a longer message", expected_[request].bytes);
      check(status.MPI_ERROR, "a transfer between ranks failed");
    }
    if (!is_receive) return;
    int bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    if (static_cast<size_t>(bytes) != expected_[request].bytes)
      throw wrong_message_size(rank_, expected_[request].from, fmt::format("{} bytes", bytes),
                               expected_[request].bytes);
  }

  void check(int code, const char* what) const {
    if (code == MPI_SUCCESS) return;
    throw Error({.kind = ErrorKind::communication,
                 .what = what,
                 .where = fmt::format("rank {} of {}", rank_, size_),
                 .seen = text_of(code),
                 .next = "look for the first error of the other ranks, and whether their hosts answer"});
  }

  static constexpr int tag = 0;
  struct Expected {
    int from;
    size_t bytes;
  };

  size_t largest_message_;
  int rank_ = 0, size_ = 1;
  std::atomic<bool> abandoned_ = false;
  std::vector<MPI_Request> requests_;
  std::vector<Expected> expected_;
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(size_t largest_message) {
  return std::make_unique<MpiCommunicator>(largest_message);
}

}  // namespace nibble
