#include "comm/local_world.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

class ImaginedCommunicator final : public Communicator {
 public:
  ImaginedCommunicator(int rank, int ranks) : rank_(rank), ranks_(ranks) {}

  int rank() const override { return rank_; }
  int size() const override { return ranks_; }
  void abandon() override {}

 private:
  void do_start(std::span<const Send>, std::span<const Receive>) override {
    throw Error({.kind = ErrorKind::internal, .what = "a rank that is only imagined was to send or receive"});
  }
  void do_finish() override {}

  int rank_, ranks_;
};

}  // namespace

std::unique_ptr<Communicator> make_imagined_communicator(int rank, int ranks) {
  return std::make_unique<ImaginedCommunicator>(rank, ranks);
}

}  // namespace nibble
