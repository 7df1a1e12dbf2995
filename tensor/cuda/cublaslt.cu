#include "tensor/cuda/cublaslt.hpp"

#include <cublasLt.h>

#include <algorithm>
#include <cassert>
#include <limits>
#include <optional>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tensor/cuda/library_algorithm.hpp"
#include "tensor/error.hpp"

#if defined(__CUDACC__)
#include "tensor/cuda/check.cuh"
#else
#include "tensor/cuda/emulation/cublaslt.hpp"
#endif

namespace nibble::cuda {
namespace {

/// The library's guesses that are timed.
constexpr int candidates_at_most = 8;
/// Each of them: a run that does not count, then so many times so many, so that a launch that the GPU waits for counts
/// little. The shortest time is its own.
constexpr int timings = 3, timed_runs = 4;

constexpr uint32_t allowed_reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

void check(cublasStatus_t status, const char* what, const LibraryProduct* product = nullptr) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error({.kind = status == CUBLAS_STATUS_INVALID_VALUE ? ErrorKind::internal : ErrorKind::resource,
               .what = std::string("cuBLASLt failed: ") + what,
               .where = product ? "product " + name(*product) : std::string(),
               .seen = cublasLtGetStatusName(status),
               .next = product && product->vector_scales
                           ? "set NIBBLE_GEMM=kernel-scales: then a kernel scales rows and columns; a run that goes on "
                             "with it needs --retune"
                       : product && product->coded()
                           ? "set NIBBLE_GEMM=emulated: then bf16 values of the codes are multiplied"
                           : "run `nibble doctor`; CUBLASLT_LOG_LEVEL=5 makes the library say more"});
}

template <class Opaque, cublasStatus_t (*destroy)(Opaque*)>
struct Destroy {
  void operator()(Opaque* what) const { destroy(what); }
};
template <class Opaque, cublasStatus_t (*destroy)(Opaque*)>
using Owned = std::unique_ptr<Opaque, Destroy<Opaque, destroy>>;

using Layout = Owned<cublasLtMatrixLayoutOpaque_t, cublasLtMatrixLayoutDestroy>;
using Operation = Owned<cublasLtMatmulDescOpaque_t, cublasLtMatmulDescDestroy>;
using Preference = Owned<cublasLtMatmulPreferenceOpaque_t, cublasLtMatmulPreferenceDestroy>;
using Handle = Owned<std::remove_pointer_t<cublasLtHandle_t>, cublasLtDestroy>;

struct Types {
  cudaDataType_t a, b, result, scale;
  cublasComputeType_t compute;
};

Types types_of(const LibraryProduct& product) {
  static constexpr cudaDataType_t types[] = {CUDA_R_32F,     CUDA_R_16BF,    CUDA_R_8I,
                                             CUDA_R_8F_E4M3, CUDA_R_8F_E5M2, CUDA_R_4F_E2M1};
  const cudaDataType_t a = types[static_cast<size_t>(product.type_a)], b = types[static_cast<size_t>(product.type_b)];
  if (product.type_a == LibraryType::i8) return {a, b, CUDA_R_32I, CUDA_R_32I, CUBLAS_COMPUTE_32I};
  // CUBLAS_COMPUTE_32F leaves f32 as it is: TF32 and sums of bf16 have compute types of their own.
  return {a, b, product.result == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F};
}

/// A factor of the device is alpha; of FP8 it is A's scale, as PyTorch and Transformer Engine give it to the library:
/// nobody was seen to multiply FP8 otherwise, but under scales that are A's already.
bool scales_a(const LibraryProduct& product) {
  return product.factor_on_device && product.coded() && product.block_scales == BlockScales::none &&
         !product.vector_scales;
}

#if CUBLAS_VERSION >= 120900
static_assert(outer_vector_mode == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
#endif

/// What scales of A and B are, beside a number for each.
std::optional<int32_t> scale_mode(const LibraryProduct& product) {
  if (product.vector_scales) return outer_vector_mode;
  switch (product.block_scales) {
    case BlockScales::e8m0:
      return CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0;
    case BlockScales::e4m3:
      return CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3;
    case BlockScales::none:
      break;
  }
  return std::nullopt;
}

Layout layout(cudaDataType_t type, bool transposed, int64_t rows, int64_t cols, int64_t stride,
              const LibraryProduct& product) {
  if (transposed) std::swap(rows, cols);
  cublasLtMatrixLayout_t made = nullptr;
  check(cublasLtMatrixLayoutCreate(&made, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), stride),
        "a matrix layout", &product);
  return Layout(made);
}

/// What the library is told of a product, and the algorithm that does it.
struct Plan {
  Operation operation;
  Layout a, b, c, d;
  cublasLtMatmulAlgo_t algorithm{};
  bool settled = false;  ///< it has multiplied, here or before the run went on
};

Plan plan_without_algorithm(const LibraryProduct& product) {
  const Types types = types_of(product);
  const int64_t m = product.m, n = product.n, k = product.k;
  cublasLtMatmulDesc_t made = nullptr;
  check(cublasLtMatmulDescCreate(&made, types.compute, types.scale), "a description", &product);
  Plan plan{.operation = Operation(made),
            .a = layout(types.a, product.transpose_a, m, k, product.stride_a, product),
            .b = layout(types.b, product.transpose_b, k, n, product.stride_b, product),
            .c = layout(types.result, false, m, n, product.stride_c, product),
            .d = layout(types.result, false, m, n, product.stride_d, product)};
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, int32_t value) {
    check(cublasLtMatmulDescSetAttribute(made, attribute, &value, sizeof value), "a description", &product);
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, product.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, product.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_POINTER_MODE,
      product.factor_on_device && !scales_a(product) ? CUBLASLT_POINTER_MODE_DEVICE : CUBLASLT_POINTER_MODE_HOST);
  // CUBLASLT_MATMUL_DESC_FAST_ACCUM stays off: sums of FP8 products are kept in f32.
  if (const std::optional<int32_t> mode = scale_mode(product)) {
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, *mode);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, *mode);
  }
  return plan;
}

/// Of the product that comes next.
void point_to_scales(const Plan& plan, const LibraryProduct& product, const Scalar& factor,
                     const CublasLt::Addresses& addresses) {
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const void* scales) {
    check(cublasLtMatmulDescSetAttribute(plan.operation.get(), attribute, &scales, sizeof scales), "a description",
          &product);
  };
  if (scales_a(product)) set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, factor.address());
  if (!scale_mode(product)) return;
  set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, addresses.a_scales);
  set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, addresses.b_scales);
}

Preference preference(const LibraryProduct& product) {
  cublasLtMatmulPreference_t made = nullptr;
  check(cublasLtMatmulPreferenceCreate(&made), "a preference", &product);
  Preference result(made);
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check(cublasLtMatmulPreferenceSetAttribute(made, attribute, &value, sizeof value), "a preference", &product);
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{library_workspace_bytes});
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, allowed_reductions);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, product.alignment_a);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, product.alignment_b);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, product.alignment_c);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, product.alignment_d);
  return result;
}

/// Calls use(attribute, number, value of the attribute's type).
template <class Algorithm, class Use>
void for_each_attribute(Algorithm& algorithm, Use&& use) {
  use(CUBLASLT_ALGO_CONFIG_TILE_ID, algorithm.tile, uint32_t{});
  use(CUBLASLT_ALGO_CONFIG_STAGES_ID, algorithm.stages, uint32_t{});
  use(CUBLASLT_ALGO_CONFIG_SPLITK_NUM, algorithm.split_k, uint32_t{});
  use(CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, algorithm.reduction, uint32_t{});
  use(CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, algorithm.swizzle, uint32_t{});
  use(CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, algorithm.option, uint32_t{});
  use(CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, algorithm.inner_shape, uint16_t{});
  use(CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, algorithm.cluster_shape, uint16_t{});
}

LibraryAlgorithm numbers_of(const cublasLtMatmulAlgo_t& algorithm, const LibraryProduct& product) {
  LibraryAlgorithm numbers;
  const auto read = [&](cublasLtMatmulAlgoConfigAttributes_t attribute, uint32_t& number, auto value) {
    size_t written = 0;
    check(cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof value, &written),
          "reading an algorithm", &product);
    number = value;
  };
  read(CUBLASLT_ALGO_CONFIG_ID, numbers.id, uint32_t{});
  for_each_attribute(numbers, read);
  return numbers;
}

}  // namespace

struct CublasLt::Plans {
  Queue& queue;
  const int architecture;
  Handle handle;
  Buffer workspace{library_workspace_bytes, "working memory of the GEMM library", Place::device};
  Buffer zero{sizeof(float), "working memory of the GEMM library", Place::device};
  /// Nothing where the library does not scale rows and columns.
  std::unordered_map<LibraryProduct, std::optional<Plan>, LibraryProductHash> plans;
  GemmRecord known;
  bool tune = false;

  Plans(Queue& own, int of_device) : queue(own), architecture(of_device) {
    cublasLtHandle_t made = nullptr;
    check(cublasLtCreate(&made), "its beginning");
    handle.reset(made);
  }

  cublasStatus_t run(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, const LibraryProduct& product,
                     const Scalar& factor, const Addresses& addresses) const {
    const auto multiplied = [&](const void* alpha, const void* beta) {
      return cublasLtMatmul(handle.get(), plan.operation.get(), alpha, addresses.a, plan.a.get(), addresses.b,
                            plan.b.get(), beta, addresses.c, plan.c.get(), addresses.d, plan.d.get(), &algorithm,
                            workspace.data(), workspace.bytes(), stream_of(queue));
    };
    const bool adds = product.addend != LibraryAddend::none;
    assert(!product.factor_on_device || !adds);  // library_finishes()
    point_to_scales(plan, product, factor, addresses);
    if (product.factor_on_device && !scales_a(product)) return multiplied(factor.address(), zero.data());
    if (product.type_a == LibraryType::i8) {
      const int32_t alpha = 1, beta = adds ? 1 : 0;
      return multiplied(&alpha, &beta);
    }
    const float alpha = scales_a(product) ? 1.0f : float{factor}, beta = adds ? 1.0f : 0.0f;
    return multiplied(&alpha, &beta);
  }

  /// The algorithm with these numbers, if the library does the product with it.
  std::optional<cublasLtMatmulAlgo_t> configured(const LibraryAlgorithm& numbers, const Plan& plan,
                                                 const LibraryProduct& product) const {
    const Types types = types_of(product);
    cublasLtMatmulAlgo_t algorithm{};
    bool good = (numbers.reduction & ~allowed_reductions) == 0 &&
                cublasLtMatmulAlgoInit(handle.get(), types.compute, types.scale, types.a, types.b, types.result,
                                       types.result, static_cast<int>(numbers.id), &algorithm) == CUBLAS_STATUS_SUCCESS;
    for_each_attribute(numbers, [&](cublasLtMatmulAlgoConfigAttributes_t attribute, uint32_t number, auto value) {
      value = static_cast<decltype(value)>(number);
      good = good && value == number &&
             cublasLtMatmulAlgoConfigSetAttribute(&algorithm, attribute, &value, sizeof value) == CUBLAS_STATUS_SUCCESS;
    });
    cublasLtMatmulHeuristicResult_t result{};
    good = good &&
           cublasLtMatmulAlgoCheck(handle.get(), plan.operation.get(), plan.a.get(), plan.b.get(), plan.c.get(),
                                   plan.d.get(), &algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= library_workspace_bytes;
    return good ? std::optional(algorithm) : std::nullopt;
  }

  /// What the library proposes, its best guess first; each as its numbers say it, so that a run which goes on with
  /// these has the same. Nothing, whatever it says, where it does not scale rows and columns: a kernel can.
  std::vector<std::pair<LibraryAlgorithm, cublasLtMatmulAlgo_t>> candidates(const Plan& plan,
                                                                            const LibraryProduct& product) const {
    cublasLtMatmulHeuristicResult_t proposed[candidates_at_most]{};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle.get(), plan.operation.get(), plan.a.get(), plan.b.get(), plan.c.get(),
                                       plan.d.get(), preference(product).get(), candidates_at_most, proposed, &count);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED && !product.vector_scales)
      check(status, "the choice of an algorithm", &product);
    std::vector<std::pair<LibraryAlgorithm, cublasLtMatmulAlgo_t>> list;
    for (int i = 0; i < count; ++i) {
      if (proposed[i].state != CUBLAS_STATUS_SUCCESS) continue;
      const LibraryAlgorithm numbers = numbers_of(proposed[i].algo, product);
      if (const auto algorithm = configured(numbers, plan, product)) list.emplace_back(numbers, *algorithm);
    }
    if (list.empty() && !product.vector_scales) check(CUBLAS_STATUS_NOT_SUPPORTED, "it knows no algorithm", &product);
    return list;
  }

  /// Milliseconds; nothing where the library refuses.
  std::optional<double> time_of(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, const LibraryProduct& product,
                                const Scalar& factor, const Addresses& addresses) const {
    if (run(plan, algorithm, product, factor, addresses) != CUBLAS_STATUS_SUCCESS) return std::nullopt;
    double shortest = std::numeric_limits<double>::infinity();
    for (int i = 0; i < timings; ++i)
      shortest = std::min(shortest, milliseconds(queue, [&] {
                            for (int j = 0; j < timed_runs; ++j)
                              check(run(plan, algorithm, product, factor, addresses), "a product", &product);
                          }));
    return shortest;
  }

  /// The fastest candidate's number; the list's length where the library refuses all that should scale rows and
  /// columns. What they write is written again, and what they add to is put back.
  size_t fastest(const std::vector<std::pair<LibraryAlgorithm, cublasLtMatmulAlgo_t>>& list, const Plan& plan,
                 const LibraryProduct& product, const Scalar& factor, const Addresses& addresses) const {
    const size_t element = size_of(product.result), bytes = static_cast<size_t>(product.m) * element,
                 stride = static_cast<size_t>(product.stride_d) * element, rows = static_cast<size_t>(product.n);
    Buffer kept;
    if (product.addend == LibraryAddend::destination) {
      kept = Buffer(bytes * rows, "GEMM result while algorithms are timed");
      queue.copy(kept.data(), bytes, addresses.d, stride, bytes, rows);
      queue.wait();
    }
    double shortest = std::numeric_limits<double>::infinity();
    size_t best = list.size();
    for (size_t i = 0; i < list.size(); ++i) {
      const std::optional<double> time = time_of(plan, list[i].second, product, factor, addresses);
      if (!time || *time >= shortest) continue;
      shortest = *time;
      best = i;
    }
    if (kept.data()) {
      queue.copy(addresses.d, stride, kept.data(), bytes, bytes, rows);
      queue.wait();
    }
    if (best == list.size() && !product.vector_scales)
      check(CUBLAS_STATUS_NOT_SUPPORTED, "every algorithm it proposed", &product);
    return best;
  }

  /// Older libraries do not know the mode, and take what they do not know for an error of ours.
  bool may_do(const LibraryProduct& product) const {
    return !product.vector_scales ||
           (architecture == outer_vector_architecture && cublasLtGetVersion() >= outer_vector_version);
  }

  std::optional<Plan> recorded_plan(const LibraryProduct& product, const std::string& called, const std::string& record,
                                    const Scalar& factor, const Addresses& addresses) const {
    if (product.vector_scales && record == no_algorithm) return std::nullopt;
    const LibraryAlgorithm numbers = algorithm_in(record, called);
    if (may_do(product)) {
      Plan plan = plan_without_algorithm(product);
      point_to_scales(plan, product, factor, addresses);
      if (const auto algorithm = configured(numbers, plan, product)) {
        plan.algorithm = *algorithm;
        plan.settled = true;
        return plan;
      }
    }
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = "this GPU or " + version() + " does not have the algorithm that the run multiplied with",
                 .where = "product " + called,
                 .seen = record,
                 .next = "resume where the run began, or choose algorithms anew with --retune"});
  }

  std::optional<Plan> make_plan(const LibraryProduct& product, const Scalar& factor, const Addresses& addresses) {
    const std::string called = name(product);
    if (const auto recorded = known.find(called); recorded != known.end())
      return recorded_plan(product, called, recorded->second, factor, addresses);
    if (may_do(product)) {
      Plan plan = plan_without_algorithm(product);
      point_to_scales(plan, product, factor, addresses);  // some kernels are for some scales only
      const auto list = candidates(plan, product);
      const size_t best = tune && list.size() > 1 ? fastest(list, plan, product, factor, addresses) : 0;
      if (best < list.size()) {
        plan.algorithm = list[best].second;
        known.emplace(called, text_of(list[best].first));
        return plan;
      }
    }
    known.emplace(called, no_algorithm);
    return std::nullopt;
  }

  std::optional<Plan>& plan_of(const LibraryProduct& product, const Scalar& factor, const Addresses& addresses) {
    const auto found = plans.find(product);
    if (found != plans.end()) return found->second;
    return plans.emplace(product, make_plan(product, factor, addresses)).first->second;
  }

  bool multiply(const LibraryProduct& product, const Scalar& factor, const Addresses& addresses) {
    std::optional<Plan>& plan = plan_of(product, factor, addresses);
    if (!plan) return false;
    const cublasStatus_t status = run(*plan, plan->algorithm, product, factor, addresses);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED && product.vector_scales && !plan->settled) {  // it proposed in vain
      known.insert_or_assign(name(product), no_algorithm);
      plan.reset();
      return false;
    }
    check(status, "a product", &product);
    plan->settled = true;
    return true;
  }
};

CublasLt::CublasLt(Queue& queue, int architecture) : plans_(std::make_unique<Plans>(queue, architecture)) {}
CublasLt::~CublasLt() = default;

bool CublasLt::multiply(const LibraryProduct& product, const Scalar& factor, const Addresses& addresses) {
  return plans_->multiply(product, factor, addresses);
}

void CublasLt::choose(GemmRecord known, bool tune) {
  for (const auto& [product, text] : known)
    if (text != no_algorithm || !names_vector_scales(product)) algorithm_in(text, product);
  plans_->known = std::move(known);
  plans_->plans.clear();
  plans_->tune = tune;
}

const GemmRecord& CublasLt::chosen() const { return plans_->known; }

std::string CublasLt::version() {
  // As CUBLAS_VERSION is made.
  const size_t number = cublasLtGetVersion(), major = number / 10000, minor = number / 100 % 100, patch = number % 100;
  return "cuBLASLt " + std::to_string(major) + '.' + std::to_string(minor) + '.' + std::to_string(patch);
}

}  // namespace nibble::cuda
