#include "comm/exchange.hpp"

namespace nibble {
namespace {

class SelfExchange final : public GradientExchange {
 public:
  int evaluations(int64_t) const override { return 1; }
  void start(int64_t) override {}
  void begin(int, const Tensor&) override {}
  void finish() override {}
  double sum(double value) override { return value; }
  bool all(bool mine) override { return mine; }
  void commit() override {}
  void discard() override {}
  void state(StateList&) override {}
};

}  // namespace

std::unique_ptr<GradientExchange> make_self_exchange() { return std::make_unique<SelfExchange>(); }

}  // namespace nibble
