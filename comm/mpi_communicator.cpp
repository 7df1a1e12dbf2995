#include "comm/mpi_communicator.hpp"

// The C interface alone.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "comm/message_error.hpp"
#include "comm/passive_waiting.hpp"

namespace nibble {
namespace {

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
    // Tags are sizes.
    int *largest_tag = nullptr, known = 0;
    check(MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &largest_tag, &known), "MPI does not start");
    if (known) largest_message_ = std::min(largest_message_, static_cast<size_t>(*largest_tag));
    PassiveWaiting::prepare_thread();
  }
  ~MpiCommunicator() override {
    if (!abandoned_ && under_way_.empty()) MPI_Finalize();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void abandon() override { abandoned_ = true; }

 private:
  /// A message that is received.
  struct Awaited {
    int from;
    size_t bytes;
    std::optional<size_t> other_size{};  ///< of a message that is there instead
  };

  struct Transfer {
    std::vector<MPI_Request> requests;  ///< those of `awaited` come first
    std::vector<Awaited> awaited{};
  };

  void do_start(std::span<const Send> sends, std::span<const Receive> receives) override {
    Transfer& transfer = under_way_.emplace_back();
    for (const Receive& receive : receives)
      for_each_message(receive.bytes, [&](std::span<std::byte> message) {
        check(MPI_Irecv(message.data(), count_of(message), MPI_BYTE, receive.from, tag_of(message), MPI_COMM_WORLD,
                        &transfer.requests.emplace_back()));
        transfer.awaited.push_back({receive.from, message.size()});
      });
    for (const Send& send : sends)
      for_each_message(send.bytes, [&](std::span<const std::byte> message) {
        check(MPI_Isend(message.data(), count_of(message), MPI_BYTE, send.to, tag_of(message), MPI_COMM_WORLD,
                        &transfer.requests.emplace_back()));
      });
  }

  template <class Byte, class Body>
  void for_each_message(std::span<Byte> bytes, Body&& body) const {
    for (; !bytes.empty(); bytes = bytes.subspan(std::min(largest_message_, bytes.size())))
      body(bytes.first(std::min(largest_message_, bytes.size())));
  }

  static int count_of(std::span<const std::byte> message) { return static_cast<int>(message.size()); }

  /// A message's tag is its size: one of another size than expected then meets no receive. Open MPI 4.1.4 would write
  /// the whole of a longer one over the end of the receiver's memory, if it came through shared memory.
  static int tag_of(std::span<const std::byte> message) { return count_of(message); }

  void do_finish() override {
    Transfer& transfer = under_way_.front();
    PassiveWaiting waiting;
    statuses_.resize(transfer.requests.size());
    indices_.resize(transfer.requests.size());
    for (size_t left = transfer.requests.size(); left > 0;) {
      if (abandoned_) throw rank_is_gone(rank_, "this rank was abandoned");
      int completed = 0;
      check(MPI_Testsome(static_cast<int>(transfer.requests.size()), transfer.requests.data(), &completed,
                         indices_.data(), statuses_.data()));
      for (size_t i = 0; i < static_cast<size_t>(completed); ++i)
        check_not_cancelled(transfer, static_cast<size_t>(indices_[i]), statuses_[i]);
      left -= static_cast<size_t>(completed);
      if (completed > 0) {
        waiting.progressed();
      } else {
        look_for_wrong_sizes(transfer);
        waiting.pause();
      }
    }
    under_way_.pop_front();
  }

  /// While a receive waits for its message, nothing later can be there from the same rank, since messages arrive in
  /// order. If something is, the receive is cancelled, which succeeds only if no message has met it.
  void look_for_wrong_sizes(Transfer& transfer) {
    for (size_t i = 0; i < transfer.awaited.size(); ++i) {
      Awaited& awaited = transfer.awaited[i];
      if (transfer.requests[i] == MPI_REQUEST_NULL || awaited.other_size) continue;
      int is_there = 0, bytes = 0;
      MPI_Status status;
      check(MPI_Iprobe(awaited.from, MPI_ANY_TAG, MPI_COMM_WORLD, &is_there, &status));
      if (!is_there) continue;
      check(MPI_Get_count(&status, MPI_BYTE, &bytes));
      awaited.other_size = static_cast<size_t>(bytes);
      check(MPI_Cancel(&transfer.requests[i]));
    }
  }

  void check_not_cancelled(const Transfer& transfer, size_t request, const MPI_Status& status) {
    if (request >= transfer.awaited.size() || !transfer.awaited[request].other_size) return;
    int cancelled = 0;
    check(MPI_Test_cancelled(&status, &cancelled));
    if (!cancelled) return;
    abandon();
    const Awaited& awaited = transfer.awaited[request];
    throw wrong_message_size(rank_, awaited.from, *awaited.other_size, awaited.bytes);
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

  size_t largest_message_;
  int rank_ = 0, size_ = 1;
  std::atomic<bool> abandoned_ = false;
  std::deque<Transfer> under_way_;
  std::vector<MPI_Status> statuses_;
  std::vector<int> indices_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(size_t largest_message) {
  return std::make_unique<MpiCommunicator>(largest_message);
}

}  // namespace nibble
