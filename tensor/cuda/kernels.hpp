// This folder's kernels on devices: same names, same contracts, device memory.
#pragma once

#include "tensor/coded_gemm.hpp"
#include "tensor/convert.hpp"
#include "tensor/fill.hpp"
#include "tensor/gemm.hpp"
#include "tensor/scalar.hpp"

namespace nibble::cuda {

[[gnu::weak]] decltype(nibble::convert) convert;
[[gnu::weak]] decltype(nibble::add) add;
[[gnu::weak]] decltype(nibble::middle) middle;
[[gnu::weak]] decltype(nibble::fill) fill;
[[gnu::weak]] decltype(nibble::gemm) gemm;
[[gnu::weak]] decltype(nibble::gemm_library) gemm_library;
[[gnu::weak]] decltype(nibble::choose_gemms) choose_gemms;
[[gnu::weak]] decltype(nibble::chosen_gemms) chosen_gemms;
[[gnu::weak]] decltype(nibble::coded_gemm) coded_gemm;
[[gnu::weak]] decltype(nibble::lay_out_codes) lay_out_codes;
[[gnu::weak]] decltype(nibble::tile_scales) tile_scales;
[[gnu::weak]] decltype(nibble::product_of) product_of;

}  // namespace nibble::cuda
