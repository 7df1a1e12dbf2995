// Parameters for the optimizer tests: packed masters and gradients, working copies with padded rows.
#pragma once

#include <bit>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "optim/optimizer.hpp"

namespace nibble::testing {

struct Shape {
  int64_t rows, cols;
  bool decay = false;
};

class Parameters {
 public:
  Parameters(const std::vector<Shape>& shapes, DType working) {
    for (size_t i = 0; i < shapes.size(); ++i)
      infos_.push_back({.name = "parameter" + std::to_string(i), .rows = shapes[i].rows, .cols = shapes[i].cols});
    memory_ = Arena("test", [&](Arena& arena) {
      list.clear();
      for (size_t i = 0; i < shapes.size(); ++i) {
        const auto [rows, cols, decay] = shapes[i];
        const Tensor master(DType::f32, arena.take(DType::f32, 1, rows * cols).data, rows, cols);
        const Tensor gradient(DType::f32, arena.take(DType::f32, 1, rows * cols).data, rows, cols);
        list.push_back({&infos_[i], master, gradient, arena.take(working, rows, cols), decay});
      }
    });
  }

  float* master(size_t i) const { return list[i].master.as<float>(); }
  float* gradient(size_t i) const { return list[i].gradient.as<float>(); }

  std::vector<OptimizedParameter> list;

 private:
  std::deque<ParameterInfo> infos_;  // the list points into it
  Arena memory_;
};

/// The 64-bit linear congruential generator of the fixtures: values in [-0.5, 0.5) with 24 bits.
class Draws {
 public:
  explicit Draws(uint64_t seed) : state_(seed) {}
  float operator()() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(static_cast<double>(state_ >> 40) * 0x1p-24 - 0.5);
  }

 private:
  uint64_t state_;
};

inline void fill(const Tensor& x, Draws& draw) {
  for (int64_t i = 0; i < x.size(); ++i) x.as<float>()[i] = draw();
}

/// Of all of an optimizer's state and of the masters.
inline std::vector<uint32_t> bits_of(Optimizer& optimizer, const Parameters& parameters) {
  StateList list;
  optimizer.state(list);
  for (const OptimizedParameter& parameter : parameters.list)
    list.add("master/" + parameter.info->name, parameter.master);
  std::vector<uint32_t> bits;
  for (const StateList::Entry& entry : list.entries())
    for (int64_t i = 0; i < entry.tensor.size(); ++i)
      bits.push_back(std::bit_cast<uint32_t>(entry.tensor.as<float>()[i]));
  return bits;
}

/// What a state of an optimizer, "optimizer/NAME", is now.
inline Tensor state_of(Optimizer& optimizer, const std::string& name) {
  StateList list;
  optimizer.state(list);
  for (const StateList::Entry& entry : list.entries())
    if (entry.name == "optimizer/" + name) return {DType::f32, entry.tensor.data, entry.rows, entry.cols};
  return {};
}

}  // namespace nibble::testing
