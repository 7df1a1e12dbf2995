// This folder's kernels on devices: same names, same contracts, device memory.
#pragma once

#include "quant/learned_step.hpp"
#include "quant/quantize.hpp"

namespace nibble::cuda {

[[gnu::weak]] decltype(nibble::tensor_statistic) tensor_statistic;
[[gnu::weak]] decltype(nibble::quantize) quantize;
[[gnu::weak]] decltype(nibble::restore) restore;
[[gnu::weak]] decltype(nibble::unrotate) unrotate;
[[gnu::weak]] decltype(nibble::operand_error) operand_error;
[[gnu::weak]] decltype(nibble::subtract) subtract;
[[gnu::weak]] decltype(nibble::initial_log_step) initial_log_step;
[[gnu::weak]] decltype(nibble::step_of) step_of;
[[gnu::weak]] decltype(nibble::log_step_gradient) log_step_gradient;

}  // namespace nibble::cuda
