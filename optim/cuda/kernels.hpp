// This folder's kernels on devices: same names, same contracts, device memory; spans are the host's.
#pragma once

#include "optim/kernels.hpp"

namespace nibble::cuda {

[[gnu::weak]] decltype(nibble::adamw_update) adamw_update;
[[gnu::weak]] decltype(nibble::adam_direction) adam_direction;
[[gnu::weak]] decltype(nibble::ademamix_update) ademamix_update;
[[gnu::weak]] decltype(nibble::sgd_update) sgd_update;
[[gnu::weak]] decltype(nibble::momentum_update) momentum_update;
[[gnu::weak]] decltype(nibble::extrapolate) extrapolate;
[[gnu::weak]] decltype(nibble::scale_rows) scale_rows;
[[gnu::weak]] decltype(nibble::reorder) reorder;
[[gnu::weak]] decltype(nibble::round_masters) round_masters;
[[gnu::weak]] void gradient_square_sums(Stream& stream, std::span<const Tensor> gradients,
                                        std::span<const TensorBlock> blocks, std::span<double> sums);
[[gnu::weak]] decltype(nibble::scale_into) scale_into;
[[gnu::weak]] decltype(nibble::normalize_into) normalize_into;
[[gnu::weak]] decltype(nibble::normalize_rows) normalize_rows;
[[gnu::weak]] decltype(nibble::add_to_diagonal) add_to_diagonal;
[[gnu::weak]] decltype(nibble::convert_and_scale) convert_and_scale;
[[gnu::weak]] decltype(nibble::add_scaled) add_scaled;

}  // namespace nibble::cuda
