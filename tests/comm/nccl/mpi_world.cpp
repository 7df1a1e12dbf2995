#include "tests/comm/nccl/mpi_world.hpp"

// The C interface alone.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <list>

namespace nibble::nccl_double {
namespace {

class MpiWorld final : public World {
 public:
  explicit MpiWorld(const std::vector<int>& members) : World(static_cast<int>(members.size())), members_(members) {}
  ~MpiWorld() override {
    int finalized = 0;
    MPI_Finalized(&finalized);  // the double may outlive MPI
    if (world_ != MPI_COMM_NULL && sent_.empty() && !finalized) MPI_Comm_free(&world_);
  }

  /// Waits for the others.
  bool join(int, int) override {
    MPI_Group all, group;
    MPI_Comm_group(MPI_COMM_WORLD, &all);
    MPI_Group_incl(all, ranks(), members_.data(), &group);
    MPI_Comm_create_group(MPI_COMM_WORLD, group, 0, &world_);
    MPI_Group_free(&group);
    MPI_Group_free(&all);
    return true;
  }
  bool all_have_joined() override { return world_ != MPI_COMM_NULL; }

  void end(int) override {
    if (ended_ == MPI_REQUEST_NULL) MPI_Ibarrier(world_, &ended_);
  }
  bool all_have_ended() override {
    int all = 0;
    MPI_Test(&ended_, &all, MPI_STATUS_IGNORE);
    return all != 0;
  }
  void leave(int) override {
    for (Sent& sent : sent_) sent.taken = nullptr;
  }

  void post(int, int to, std::span<const std::byte> bytes, bool* taken) override {
    Sent& sent = sent_.emplace_back(Sent{{bytes.begin(), bytes.end()}, taken, MPI_REQUEST_NULL});
    MPI_Issend(sent.bytes.data(), static_cast<int>(sent.bytes.size()), MPI_BYTE, to, 0, world_, &sent.request);
  }
  std::optional<size_t> size_of_next(int from, int) override {
    int is_there = 0, bytes = 0;
    MPI_Status status;
    MPI_Iprobe(from, 0, world_, &is_there, &status);
    if (!is_there) return std::nullopt;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    return static_cast<size_t>(bytes);
  }
  void take(int from, int, std::span<std::byte> bytes) override {
    MPI_Recv(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, from, 0, world_, MPI_STATUS_IGNORE);
  }
  void look() override {
    std::erase_if(sent_, [](Sent& sent) {
      int taken = 0;
      MPI_Test(&sent.request, &taken, MPI_STATUS_IGNORE);
      if (taken && sent.taken) *sent.taken = true;
      return taken != 0;
    });
  }

 private:
  /// MPI reads a copy, since it does so at times when the device's memory cannot be read.
  struct Sent {
    std::vector<std::byte> bytes;
    bool* taken;
    MPI_Request request;
  };

  std::vector<int> members_;
  MPI_Comm world_ = MPI_COMM_NULL;
  MPI_Request ended_ = MPI_REQUEST_NULL;
  std::list<Sent> sent_;
};

}  // namespace

std::shared_ptr<World> make_mpi_world(const std::vector<int>& members) { return std::make_shared<MpiWorld>(members); }

}  // namespace nibble::nccl_double
