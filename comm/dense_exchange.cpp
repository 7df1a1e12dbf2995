#include <algorithm>
#include <map>

#include "comm/exchange.hpp"

namespace nibble {
namespace {

class DenseExchange final : public GradientExchange {
 public:
  DenseExchange(CommunicationThread& thread, Wire wire, SumGoes goes) : thread_(thread), wire_(wire), goes_(goes) {}

  std::string description() const override { return wire_ == Wire::bf16 ? "dense, bf16" : "dense, f32"; }
  void start(int64_t) override {}

  void begin(int bucket, const Parts& gradient, const Consume& fold) override {
    if (thread_.size() == 1 && !fold) return;  // the gradient is the sum
    tickets_[bucket] = thread_.submit([=, this](Communicator& ranks) {
      if (fold) scatter_to_owners(ranks, gradient, wire_, fold);
      else reduce_scatter(ranks, gradient, wire_);
      if (!fold && goes_ == SumGoes::to_all) all_gather(ranks, gradient, wire_);
    });
  }

  void wait(int bucket) override {
    if (const auto begun = tickets_.find(bucket); begun != tickets_.end()) thread_.wait(begun->second);
  }

  void finish() override {
    for (const auto& [bucket, ticket] : tickets_) thread_.wait(ticket);
    tickets_.clear();
  }

  void commit() override {}
  void discard() override {}
  void state(StateList&) override {}

 private:
  CommunicationThread& thread_;
  Wire wire_;
  SumGoes goes_;
  std::map<int, CommunicationThread::Ticket> tickets_;
};

}  // namespace

std::unique_ptr<GradientExchange> make_dense_exchange(CommunicationThread& thread, Wire wire, SumGoes goes) {
  return std::make_unique<DenseExchange>(thread, wire, goes);
}

}  // namespace nibble
