// The only file that uses NCCL's functions. Part of programs that find it when they run (nccl_library.cpp), and of
// tests, which are linked with a double of it.
//
// NCCL is told not to block: whatever it does may still be in progress when it returns, and one asks until it is not.
#include <fmt/format.h>
#include <nccl.h>

#include <exception>
#include <vector>

#include "comm/collectives.hpp"
#include "comm/device_communicator.hpp"
#include "comm/host_name.hpp"
#include "comm/passive_waiting.hpp"
#include "comm/pinned_memory.hpp"
#include "tensor/tensor.hpp"

namespace nibble {
namespace {

/// What rank 0 tells the others before they start.
struct Beginning {
  ncclResult_t result;
  ncclUniqueId id;
};

class NcclCommunicator final : public DeviceCommunicator {
 public:
  NcclCommunicator(std::shared_ptr<Communicator> host, std::shared_ptr<Stream> stream, const NcclOptions& options)
      : DeviceCommunicator(std::move(host), std::move(stream)),
        options_(options),
        queue_(static_cast<cudaStream_t>(cuda::handle(stream_->queue()))),
        messages_with_(static_cast<size_t>(size())) {
    if (const std::string missing = why_no_nccl(); !missing.empty()) fail(starting, missing);
    Beginning beginning{};
    if (rank() == 0) beginning.result = ncclGetUniqueId(&beginning.id);
    broadcast(*host_, 0, std::as_writable_bytes(std::span(&beginning, 1)));
    require(beginning.result, starting);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    require(ncclCommInitRankConfig(&communicator_, size(), beginning.id, rank(), &config), starting);
    settle(starting, options_.start_deadline);
  }

  ~NcclCommunicator() override {
    try {
      if (std::uncaught_exceptions() > exceptions_at_start_) abort("this rank has failed");
      if (!communicator_) return;
      wait();
      require(ncclCommFinalize(communicator_), "NCCL does not end");
      settle("NCCL does not end", options_.stall_deadline);
      ncclCommDestroy(communicator_);
    } catch (const Error&) {
      abort("it ended");  // for what the device reported; NCCL's own errors have done so
    }
  }

  void look(std::chrono::nanoseconds waited) override {
    if (!communicator_) throw rank_is_gone(rank(), failure_);
    if (abandoned_) {
      abort("this rank was abandoned");
      throw rank_is_gone(rank(), failure_);
    }
    ncclResult_t state = ncclSuccess;
    require(ncclCommGetAsyncError(communicator_, &state), working);
    require(state, working);
    if (waited > options_.stall_deadline) stalled(working, options_.stall_deadline);
  }

 private:
  static constexpr const char *starting = "NCCL does not start", *working = "NCCL failed";

  void do_start(std::span<const Send> sends, std::span<const Receive> receives) override {
    look({});
    compare_sizes(sends, receives);
    in_group([&](Calls& calls) {
      for (const Send& send : sends) calls.send(send.bytes, send.to);
      for (const Receive& receive : receives) calls.receive(receive.bytes, receive.from);
    });
  }

  bool reduces() const override { return true; }
  void do_all_reduce(Reduction how, std::span<std::byte> values) override {
    look({});
    in_group([&](Calls& calls) { calls.all_reduce(how, values); });
  }

  /// The stream's order completes it.
  void do_finish() override { look({}); }

  /// NCCL's calls in a group; behind one that fails there are no others.
  class Calls {
   public:
    explicit Calls(const NcclCommunicator& owner) : owner_(owner) {}

    void send(std::span<const std::byte> bytes, int to) {
      if (ok() && !bytes.empty())
        result_ = ncclSend(bytes.data(), bytes.size(), ncclUint8, to, owner_.communicator_, owner_.queue_);
    }
    void receive(std::span<std::byte> bytes, int from) {
      if (ok() && !bytes.empty())
        result_ = ncclRecv(bytes.data(), bytes.size(), ncclUint8, from, owner_.communicator_, owner_.queue_);
    }
    void all_reduce(Reduction how, std::span<std::byte> values) {
      const bool of_bytes = how == Reduction::sum_of_bytes, of_floats = how == Reduction::largest_float;
      if (ok() && !values.empty())
        result_ = ncclAllReduce(values.data(), values.data(), of_bytes ? values.size() : values.size() / 4,
                                of_bytes    ? ncclUint8
                                : of_floats ? ncclFloat32
                                            : ncclInt32,
                                of_floats ? ncclMax : ncclSum, owner_.communicator_, owner_.queue_);
    }
    bool ok() const { return result_ == ncclSuccess || result_ == ncclInProgress; }
    ncclResult_t result() const { return result_; }

   private:
    const NcclCommunicator& owner_;
    ncclResult_t result_ = ncclSuccess;
  };

  template <class Body>
  void in_group(Body&& body) {
    require(ncclGroupStart(), working);
    Calls calls(*this);
    body(calls);
    const ncclResult_t ended = ncclGroupEnd();
    require(calls.result(), working);
    require(ended, working);
    settle(working, options_.stall_deadline);
  }

  /// Throws, on both sides, where a message's receiver expects another size.
  void compare_sizes(std::span<const Send> sends, std::span<const Receive> receives) {
    struct Compared {
      int peer;
      uint64_t own;
      bool sent;
    };
    std::vector<Compared> compared;
    const auto compare = [&](int peer, size_t bytes, bool sent) {
      if (bytes == 0 || messages_with_[static_cast<size_t>(peer)] >= options_.compared_messages) return;
      compared.push_back({peer, bytes, sent});
    };
    for (const Send& send : sends) compare(send.to, send.bytes.size(), true);
    for (const Receive& receive : receives) compare(receive.from, receive.bytes.size(), false);
    for (const Compared& one : compared) ++messages_with_[static_cast<size_t>(one.peer)];
    if (compared.empty()) return;

    // First all sizes go as messages will, then back: so both sides have the same order.
    const size_t bytes = compared.size() * sizeof(uint64_t);
    if (sizes_.bytes() < 2 * bytes) {
      wait();  // freeing memory would
      sizes_ = Buffer(2 * bytes, "communication", Place::device);
      sizes_on_host_ = PinnedMemory(2 * bytes);
    }
    auto* const on_host = reinterpret_cast<uint64_t*>(sizes_on_host_.first(2 * bytes).data());
    auto* const there = static_cast<std::byte*>(sizes_.data());
    for (size_t i = 0; i < compared.size(); ++i) on_host[i] = compared[i].own;
    stream_->queue().copy(there, on_host, bytes);
    in_group([&](Calls& calls) {
      for (const bool forth : {true, false})
        for (size_t i = 0; i < compared.size(); ++i) {
          std::byte* const own = there + i * sizeof(uint64_t);
          if (compared[i].sent == forth) calls.send({own, sizeof(uint64_t)}, compared[i].peer);
          else calls.receive({own + bytes, sizeof(uint64_t)}, compared[i].peer);
        }
    });
    stream_->queue().copy(on_host + compared.size(), there + bytes, bytes);
    wait();
    for (size_t i = 0; i < compared.size(); ++i) {
      const uint64_t own = on_host[i], theirs = on_host[compared.size() + i];
      if (own == theirs) continue;
      abort("a message had a wrong size");
      if (compared[i].sent) throw wrong_message_size(compared[i].peer, rank(), own, theirs);
      throw wrong_message_size(rank(), compared[i].peer, theirs, own);
    }
  }

  /// Until NCCL is done with what it was told last.
  void settle(const char* what, std::chrono::milliseconds deadline) {
    PassiveWaiting waiting;
    for (ncclResult_t state = ncclInProgress;; waiting.pause()) {
      require(ncclCommGetAsyncError(communicator_, &state), what);
      require(state, what);
      if (state == ncclSuccess) return;
      if (abandoned_) look({});
      if (waiting.time() > deadline) stalled(what, deadline);
    }
  }

  void require(ncclResult_t result, const char* what) {
    if (result == ncclSuccess || result == ncclInProgress) return;
    std::string seen = ncclGetErrorString(result);
    const char* const last = ncclGetLastError(communicator_);
    if (last && *last) seen += fmt::format(": {}", last);
    fail(what, seen);
  }

  [[noreturn]] void stalled(const char* what, std::chrono::milliseconds deadline) {
    fail(what, fmt::format("nothing happened for {:.3g} s", std::chrono::duration<double>(deadline).count()));
  }

  [[noreturn]] void fail(const char* what, const std::string& seen) {
    abort(seen);
    throw Error({.kind = ErrorKind::communication,
                 .what = what,
                 .where = fmt::format("rank {} of {} on {}", rank(), size(), host_name()),
                 .seen = seen,
                 .next = "look for the first error of the other ranks; NCCL_DEBUG=INFO in the environment says what "
                         "NCCL does, NCCL_SOCKET_IFNAME which network it takes"});
  }

  /// What the device still does for NCCL ends. The first reason stays.
  void abort(const std::string& reason) {
    if (failure_.empty()) failure_ = reason;
    if (communicator_) ncclCommAbort(communicator_);
    communicator_ = nullptr;
  }

  NcclOptions options_;
  int exceptions_at_start_ = std::uncaught_exceptions();
  cudaStream_t queue_;
  ncclComm_t communicator_ = nullptr;   ///< null: aborted, or never there
  std::string failure_;                 ///< why it was aborted
  std::vector<int64_t> messages_with_;  ///< by rank, of those that are compared
  Buffer sizes_;                        ///< own, and the others'
  PinnedMemory sizes_on_host_;
};

}  // namespace

std::unique_ptr<DeviceCommunicator> make_nccl_communicator(std::shared_ptr<Communicator> host,
                                                           std::shared_ptr<Stream> stream, const NcclOptions& options) {
  return std::make_unique<NcclCommunicator>(std::move(host), std::move(stream), options);
}

}  // namespace nibble
