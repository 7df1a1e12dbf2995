// One of cuBLASLt's algorithms with its configuration, as a text that a run keeps.
//
// The numbers are those of cublasLtMatmulAlgoConfigAttributes_t; another version of the library may mean something else
// by them. Not for: choosing one (cublaslt.hpp).
#pragma once

#include <cstdint>
#include <string>

namespace nibble::cuda {

struct LibraryAlgorithm {
  uint32_t id = 0, tile = 0, stages = 0, split_k = 0, reduction = 0, swizzle = 0, option = 0, inner_shape = 0,
           cluster_shape = 0;

  bool operator==(const LibraryAlgorithm&) const = default;
};

/// Calls use(name, number) for each of its numbers, in the order of the text.
template <class Algorithm, class Use>
void for_each_number(Algorithm& algorithm, Use&& use) {
  use("algorithm", algorithm.id);
  use("tile", algorithm.tile);
  use("stages", algorithm.stages);
  use("split-K", algorithm.split_k);
  use("reduction", algorithm.reduction);
  use("swizzle", algorithm.swizzle);
  use("option", algorithm.option);
  use("inner shape", algorithm.inner_shape);
  use("cluster shape", algorithm.cluster_shape);
}

/// In place of the text, of a product that a run asked the library for in vain and makes otherwise.
inline constexpr const char* no_algorithm = "none";

/// "algorithm 66, tile 31, stages 36, ..."
std::string text_of(const LibraryAlgorithm& algorithm);
/// Throws Error{checkpoint} for another text; `product` is what it stands beside.
LibraryAlgorithm algorithm_in(const std::string& text, const std::string& product);

}  // namespace nibble::cuda
