#include "optim/descend.hpp"

namespace nibble {

// With what came back as the gradient it is a step of plain descent.
void descend(Stream& stream, OptimizedParameter parameter, const Tensor& direction, double scale, double weight_decay,
             double learning_rate) {
  parameter.gradient = direction;
  sgd_update(stream, {&parameter, 1}, {}, master_blocks({&parameter, 1}),
             {.gradient_scale = 1,
              .decay = static_cast<float>(1 - learning_rate * weight_decay),
              .momentum = 0,
              .learning_rate = static_cast<float>(learning_rate * scale),
              .step = 0});
}

}  // namespace nibble
