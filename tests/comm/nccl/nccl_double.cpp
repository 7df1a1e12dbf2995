#include "tests/comm/nccl/nccl_double.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <utility>

#include "comm/device_communicator.hpp"
#include "tensor/cuda/emulation/control.hpp"

namespace nibble::nccl_double {
namespace {

using Clock = std::chrono::steady_clock;
namespace emulation = cuda::emulation;

/// How often a communicator is asked before what it was told is no longer in progress.
constexpr int answers_in_progress = 2;

}  // namespace
}  // namespace nibble::nccl_double

struct ncclComm {
  enum class State { starting, ready, ending, ended, destroyed, aborted };

  std::shared_ptr<nibble::nccl_double::World> world;
  int rank, device;
  State state = State::starting;
  ncclResult_t error = ncclSuccess;
  int in_progress = nibble::nccl_double::answers_in_progress;
  int64_t groups = 0, unfinished = 0;
  std::vector<std::function<void()>> launches{};  ///< that happen when nothing is in progress any more
  std::mt19937_64 random{};

  bool is_gone() const { return state == State::destroyed || state == State::aborted; }
};

namespace nibble::nccl_double {
namespace {

struct Operation {
  bool sends;
  void* memory;
  size_t bytes;
  int peer;
  bool done = false;
};

struct Reduction {
  void* memory;
  size_t bytes;
  ncclDataType_t type;
  ncclRedOp_t how;
  std::vector<std::byte> sent{};                   ///< what it is, and this rank's values
  std::vector<std::vector<std::byte>> received{};  ///< by rank
};

/// What the threads share. Whoever has it locked may not lock the devices, whose queues lock it.
struct Shared {
  std::mutex mutex;
  Faults faults;
  MakeWorld make_world = make_thread_world;
  std::map<std::string, std::shared_ptr<World>> worlds;  ///< by id
  std::vector<std::unique_ptr<ncclComm>> communicators;  ///< also those that are gone
  std::vector<std::string> violations;
  uint64_t ids = 0;
};

Shared& shared() {
  static Shared one;
  return one;
}

/// The calls of one group, of one communicator on one stream, as work of its queue.
class Group {
 public:
  Group(ncclComm& communicator, cuda::Queue& queue) : communicator_(communicator), queue_(queue) {}

  bool is_of(const ncclComm& communicator, const cuda::Queue& queue) const {
    return &communicator_ == &communicator && &queue_ == &queue;
  }
  ncclComm& communicator() const { return communicator_; }
  cuda::Queue& queue() const { return queue_; }
  void add(const Operation& operation) { operations_.push_back(operation); }
  /// What all ranks have of it goes to all, and each combines it in the order of the ranks.
  void add(Reduction reduction) {
    reduction.sent.assign(1, std::byte(reduction.type));
    reduction.sent.push_back(std::byte(reduction.how));
    reduction.received.assign(static_cast<size_t>(world().ranks()), std::vector<std::byte>(2 + reduction.bytes));
    reductions_.push_back(std::make_unique<Reduction>(std::move(reduction)));
    Reduction& kept = *reductions_.back();
    kept.sent.resize(2 + kept.bytes);
    for (int peer = 0; peer < world().ranks(); ++peer) {
      if (peer == communicator_.rank) continue;
      operations_.push_back({true, kept.sent.data(), kept.sent.size(), peer});
      operations_.push_back({false, kept.received[static_cast<size_t>(peer)].data(), kept.sent.size(), peer});
    }
  }

  /// False: not all messages have met.
  bool attempt() {
    const std::lock_guard lock(shared().mutex);
    if (communicator_.state == ncclComm::State::aborted) return leave();
    if (communicator_.error != ncclSuccess || broken_) return false;
    world().look();
    if (!posted_) begin();
    if (Clock::now() < begins_) return false;
    if (!posted_) {
      for (const auto& reduction : reductions_)
        std::memcpy(reduction->sent.data() + 2, reduction->memory, reduction->bytes);
      post();
    }
    std::set<int> waited_for;  // messages of a peer come in order
    for (Operation& operation : operations_)
      if (!operation.sends && !operation.done && !waited_for.contains(operation.peer) && !receive(operation))
        waited_for.insert(operation.peer);
    for (const Operation& operation : operations_)
      if (!operation.done) return false;
    for (const auto& reduction : reductions_) reduce(*reduction);
    --communicator_.unfinished;
    return true;
  }

 private:
  void begin() {
    if (begins_ != Clock::time_point()) return;
    std::uniform_int_distribution<int64_t> delay(0, shared().faults.longest_delay.count());
    begins_ = Clock::now() + std::chrono::microseconds(delay(communicator_.random));
  }

  void post() {
    posted_ = true;
    for (Operation& operation : operations_)
      if (operation.sends)
        world().post(communicator_.rank, operation.peer, {static_cast<std::byte*>(operation.memory), operation.bytes},
                     &operation.done);
  }

  bool receive(Operation& operation) {
    const std::optional<size_t> size = world().size_of_next(operation.peer, communicator_.rank);
    if (!size) return false;
    if (*size != operation.bytes) {
      broken_ = true;
      shared().violations.push_back(fmt::format("rank {} receives {} bytes where rank {} sends {}", communicator_.rank,
                                                operation.bytes, operation.peer, *size));
      return false;
    }
    world().take(operation.peer, communicator_.rank, {static_cast<std::byte*>(operation.memory), operation.bytes});
    operation.done = true;
    return true;
  }

  void reduce(Reduction& reduction) const {
    reduction.received[static_cast<size_t>(communicator_.rank)] = reduction.sent;
    for (const std::vector<std::byte>& theirs : reduction.received)
      if (!std::equal(theirs.begin(), theirs.begin() + 2, reduction.sent.begin()))
        shared().violations.push_back(
            fmt::format("rank {} reduces another type, or otherwise, than others", communicator_.rank));
    if (reduction.type == ncclUint8) combine<uint8_t>(reduction);
    else if (reduction.type == ncclInt32) combine<int32_t>(reduction);
    else combine<float>(reduction);
  }

  template <class T>
  static void combine(const Reduction& reduction) {
    for (size_t i = 0; i < reduction.bytes; i += sizeof(T)) {
      T all{};
      for (size_t rank = 0; rank < reduction.received.size(); ++rank) {
        T value;
        std::memcpy(&value, reduction.received[rank].data() + 2 + i, sizeof value);
        if (rank == 0) all = value;
        else all = reduction.how == ncclMax ? std::max(all, value) : static_cast<T>(all + value);
      }
      std::memcpy(static_cast<std::byte*>(reduction.memory) + i, &all, sizeof all);
    }
  }

  bool leave() {
    world().leave(communicator_.rank);
    --communicator_.unfinished;
    return true;
  }

  World& world() const { return *communicator_.world; }

  ncclComm& communicator_;
  cuda::Queue& queue_;
  std::vector<Operation> operations_;
  std::vector<std::unique_ptr<Reduction>> reductions_;
  Clock::time_point begins_{};
  bool posted_ = false, broken_ = false;
};

/// Of the calling thread.
thread_local int group_depth = 0;
thread_local std::vector<std::shared_ptr<Group>> open_groups;

ncclResult_t violate(const std::string& what, ncclResult_t result = ncclInvalidUsage) {
  shared().violations.push_back(what);
  return result;
}

/// Whether it may be told anything; `what` it is told.
ncclResult_t refuse_unless_ready(ncclComm* communicator, const char* what) {
  if (!communicator) return violate(fmt::format("{} without a communicator", what), ncclInvalidArgument);
  const auto of_rank = [&](const char* why) { return fmt::format("{} on rank {}, {}", what, communicator->rank, why); };
  if (communicator->is_gone()) return violate(of_rank("whose communicator is gone"), ncclInvalidArgument);
  if (communicator->error != ncclSuccess) return communicator->error;
  if (communicator->in_progress > 0) return violate(of_rank("where something is in progress"));
  if (communicator->state != ncclComm::State::ready) return violate(of_rank("which is ending"));
  return ncclSuccess;
}

void launch_groups() {
  for (const std::shared_ptr<Group>& group : std::exchange(open_groups, {})) {
    ncclComm& communicator = group->communicator();
    const std::lock_guard lock(shared().mutex);
    const Faults& faults = shared().faults;
    if (communicator.rank == faults.failing && communicator.groups == faults.groups_before) {
      communicator.error = ncclSystemError;
      for (const auto& other : shared().communicators)
        if (faults.all_learn && other->world == communicator.world && other.get() != &communicator)
          other->error = ncclRemoteError;
    }
    ++communicator.groups;
    ++communicator.unfinished;
    communicator.in_progress = answers_in_progress;
    communicator.launches.push_back(
        [group] { emulation::queue_attempts(group->queue(), [group] { return group->attempt(); }); });
  }
}

/// Refuses what a call on this memory and stream may not be; else puts it into the open group. `why_not` says what else
/// is wrong, if anything is.
template <class Call, class WhyNot>
ncclResult_t take_call(const char* what, ncclComm* communicator, cudaStream_t stream, const Call& call, size_t bytes,
                       WhyNot&& why_not) {
  auto& queue = *static_cast<cuda::Queue*>(static_cast<void*>(stream));
  const int memory = emulation::device_of(call.memory, bytes), streams = emulation::device_of(queue);
  {
    const std::lock_guard lock(shared().mutex);
    if (const ncclResult_t refused = refuse_unless_ready(communicator, what); refused != ncclSuccess) return refused;
    const auto of_rank = [&](const std::string& why) {
      return violate(fmt::format("{} on rank {}: {}", what, communicator->rank, why), ncclInvalidArgument);
    };
    if (const std::string why = why_not(); !why.empty()) return of_rank(why);
    if (memory != communicator->device)
      return of_rank(fmt::format("memory of device {} on device {}", memory, communicator->device));
    if (streams != communicator->device)
      return of_rank(fmt::format("a stream of device {} on device {}", streams, communicator->device));
  }
  if (open_groups.empty() || !open_groups.back()->is_of(*communicator, queue))
    open_groups.push_back(std::make_shared<Group>(*communicator, queue));
  open_groups.back()->add(call);
  if (group_depth == 0) launch_groups();
  return ncclSuccess;
}

ncclResult_t take_message(ncclComm* communicator, cudaStream_t stream, const Operation& operation,
                          ncclDataType_t type) {
  return take_call(operation.sends ? "ncclSend" : "ncclRecv", communicator, stream, operation, operation.bytes,
                   [&]() -> std::string {
                     if (type != ncclUint8) return "not bytes";
                     if (operation.peer < 0 || operation.peer >= communicator->world->ranks()) return "no such peer";
                     return operation.peer == communicator->rank ? "to itself" : "";
                   });
}

/// The state of a communicator that somebody asks for; `launches` happen now.
ncclResult_t progress(ncclComm& communicator, std::vector<std::function<void()>>& launches) {
  using State = ncclComm::State;
  World& world = *communicator.world;
  if (communicator.error != ncclSuccess) return communicator.error;
  if (communicator.in_progress > 0 && --communicator.in_progress > 0) return ncclInProgress;
  if (communicator.state == State::starting) {
    if (!world.all_have_joined()) return ncclInProgress;
    communicator.state = State::ready;
  }
  if (communicator.state == State::ending) {
    if (communicator.unfinished == 0) world.end(communicator.rank);
    if (communicator.unfinished > 0 || !world.all_have_ended()) return ncclInProgress;
    communicator.state = State::ended;
  }
  launches = std::exchange(communicator.launches, {});
  return ncclSuccess;
}

}  // namespace

void use(const MakeWorld& make_world) {
  const std::lock_guard lock(shared().mutex);
  shared().make_world = make_world;
}

void reset(const Faults& faults) {
  Shared& all = shared();
  const std::lock_guard lock(all.mutex);
  all.faults = faults;
  all.worlds.clear();
  all.communicators.clear();
  all.violations.clear();
}

std::vector<std::string> violations() {
  const std::lock_guard lock(shared().mutex);
  std::vector<std::string> list = shared().violations;
  for (const auto& communicator : shared().communicators)
    if (!communicator->is_gone()) list.push_back(fmt::format("rank {} left its communicator", communicator->rank));
  return list;
}

}  // namespace nibble::nccl_double

using namespace nibble::nccl_double;

std::string nibble::why_no_nccl() {
  const std::lock_guard lock(shared().mutex);
  return shared().faults.missing;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const std::lock_guard lock(shared().mutex);
  *id = {};
  const std::string text = fmt::format("world {}", shared().ids++);
  std::memcpy(id->internal, text.data(), text.size());
  return shared().faults.unique_id;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* communicator, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  const int device = emulation::selected_device();
  const std::lock_guard lock(shared().mutex);
  const ncclConfig_t expected = NCCL_CONFIG_INITIALIZER;
  if (config->size != expected.size || config->magic != expected.magic) return violate("a config without a beginning");
  if (config->blocking != 0) return violate("a communicator that blocks");
  if (rank < 0 || rank >= ranks) return violate("a rank that is none", ncclInvalidArgument);
  const Faults& faults = shared().faults;
  std::shared_ptr<World>& world = shared().worlds[std::string(id.internal, sizeof id.internal)];
  if (!world) world = shared().make_world(ranks);
  if (world->ranks() != ranks) return violate("ranks of one id that count themselves differently");
  shared().communicators.push_back(
      std::unique_ptr<ncclComm>(new ncclComm{.world = world, .rank = rank, .device = device}));
  *communicator = shared().communicators.back().get();
  (*communicator)->random.seed(faults.seed + static_cast<uint64_t>(rank));
  if (rank == faults.unable) (*communicator)->error = ncclSystemError;
  else if (rank != faults.absent && !world->join(rank, device)) (*communicator)->error = ncclInvalidUsage;
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t* error) {
  std::vector<std::function<void()>> launches;
  {
    const std::lock_guard lock(shared().mutex);
    if (!communicator || communicator->is_gone())
      return violate("ncclCommGetAsyncError of a communicator that is gone", ncclInvalidArgument);
    *error = progress(*communicator, launches);
  }
  for (const auto& launch : launches) launch();
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t communicator) {
  const std::lock_guard lock(shared().mutex);
  const ncclResult_t refused = refuse_unless_ready(communicator, "ncclCommFinalize");
  if (refused != ncclSuccess) return refused;
  communicator->state = ncclComm::State::ending;
  communicator->in_progress = answers_in_progress;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t communicator) {
  const std::lock_guard lock(shared().mutex);
  if (!communicator || communicator->is_gone()) return violate("ncclCommDestroy of what is gone", ncclInvalidArgument);
  const bool ended = communicator->state == ncclComm::State::ended;
  communicator->state = ncclComm::State::destroyed;
  return ended ? ncclSuccess : violate(fmt::format("rank {} destroyed before it was finalized", communicator->rank));
}

ncclResult_t ncclCommAbort(ncclComm_t communicator) {
  const std::lock_guard lock(shared().mutex);
  if (!communicator || communicator->is_gone()) return violate("ncclCommAbort of what is gone", ncclInvalidArgument);
  communicator->state = ncclComm::State::aborted;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclRemoteError:
      return "remote process exited";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclInProgress:
      return "in progress";
    default:
      return "another error";
  }
}

const char* ncclGetLastError(ncclComm_t) { return "as the double was told"; }

ncclResult_t ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (group_depth == 0) {
    const std::lock_guard lock(shared().mutex);
    return violate("ncclGroupEnd without ncclGroupStart");
  }
  if (--group_depth > 0 || open_groups.empty()) return ncclSuccess;
  launch_groups();
  return ncclInProgress;
}

ncclResult_t ncclSend(const void* memory, size_t count, ncclDataType_t type, int peer, ncclComm_t communicator,
                      cudaStream_t stream) {
  return take_message(communicator, stream, {true, const_cast<void*>(memory), count, peer}, type);
}

ncclResult_t ncclRecv(void* memory, size_t count, ncclDataType_t type, int peer, ncclComm_t communicator,
                      cudaStream_t stream) {
  return take_message(communicator, stream, {false, memory, count, peer}, type);
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t how,
                           ncclComm_t communicator, cudaStream_t stream) {
  const size_t bytes = count * (type == ncclUint8 ? 1 : sizeof(float));
  return take_call("ncclAllReduce", communicator, stream,
                   Reduction{.memory = to, .bytes = bytes, .type = type, .how = how}, bytes, [&]() -> std::string {
                     if (type != ncclUint8 && type != ncclInt32 && type != ncclFloat32) return "of another type";
                     // Sums of floats would depend on an order that is not NCCL's.
                     if (how != (type == ncclFloat32 ? ncclMax : ncclSum)) return "neither counts nor magnitudes";
                     return from == to ? "" : "not in place";
                   });
}
