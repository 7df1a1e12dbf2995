// A double of cuBLASLt: those of its functions that cublaslt.cu calls, over the emulation's memory.
//
// Products are the host's, so that tests can ask for the host's bits; a few elements of each are held to the definition
// over column-major matrices. What the library's manual forbids is refused, its algorithms differ in what they ask for,
// in bits and in time. Not for: speed.
#include <cublasLt.h>

#include <array>
#include <cstring>
#include <functional>

#include "tensor/cuda/emulation/control.hpp"
#include "tensor/cuda/emulation/cublaslt.hpp"
#include "tensor/cuda/emulation/library_call.hpp"

struct cublasLtContext {};

namespace nibble::cuda::emulation {

LibraryUse& library_use() {
  static LibraryUse use;
  return use;
}

namespace {

struct Preferences {
  uint64_t workspace = 0;
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  std::array<uint32_t, 4> alignments{256, 256, 256, 256};
};

/// The attributes of an algorithm, by number.
using Configuration = std::array<uint32_t, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID + 1>;

struct Algorithm {
  Configuration configuration;
  Kind kind;
  uint32_t alignment;
  double milliseconds;

  uint32_t id() const { return configuration[CUBLASLT_ALGO_CONFIG_ID]; }
  uint32_t split_k() const { return configuration[CUBLASLT_ALGO_CONFIG_SPLITK_NUM]; }
  uint32_t reduction() const { return configuration[CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME]; }
};

/// The best guess first, which is not the fastest.
const Algorithm algorithms[] = {
    {{11, 20, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 0, 0, 5, 1, 0}, Kind::numbers, 1, 3},
    {{12, 21, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 1, 2, 6, 0, 3}, Kind::numbers, 16, 2},
    {{13, 22, 2, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 0, 0, 7, 0, 0}, Kind::numbers, 1, 1},
    {{14, 22, 2, CUBLASLT_REDUCTION_SCHEME_INPLACE, 0, 0, 7, 0, 0}, Kind::numbers, 1, 0.5},
    {{21, 23, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 0, 0, 5, 0, 0}, Kind::integers, 4, 2},
    {{22, 24, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 0, 0, 5, 0, 2}, Kind::integers, 16, 1},
    {{31, 25, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 0, 0, 5, 0, 1}, Kind::fp8, 16, 2},
    {{32, 26, 2, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 0, 0, 5, 0, 1}, Kind::fp8, 16, 1},
    {{37, 27, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 0, 0, 5, 0, 1}, Kind::fp8_under_vectors, 16, 2},
    {{38, 26, 2, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 0, 0, 5, 0, 1}, Kind::fp8_under_vectors, 16, 1},
    {{33, 25, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 0, 0, 5, 0, 1}, Kind::fp8_in_blocks, 16, 2},
    {{34, 26, 2, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 0, 0, 5, 0, 1}, Kind::fp8_in_blocks, 16, 1},
    {{35, 25, 1, CUBLASLT_REDUCTION_SCHEME_NONE, 0, 0, 5, 0, 1}, Kind::fp4, 16, 2},
    {{36, 26, 2, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 0, 0, 5, 0, 1}, Kind::fp4, 16, 1},
};

const Algorithm* find(uint32_t id) {
  for (const Algorithm& algorithm : algorithms)
    if (algorithm.id() == id) return &algorithm;
  return nullptr;
}

Configuration configuration_of(const cublasLtMatmulAlgo_t& algorithm) {
  Configuration configuration;
  std::memcpy(configuration.data(), algorithm.data, sizeof configuration);
  return configuration;
}
void put(const Configuration& configuration, cublasLtMatmulAlgo_t& algorithm) {
  static_assert(sizeof configuration <= sizeof algorithm.data);
  std::memcpy(algorithm.data, configuration.data(), sizeof configuration);
}

uint64_t workspace_of(const Algorithm& algorithm, const Call& call) {
  const auto elements = static_cast<uint64_t>(call.d.rows * call.d.cols);
  return algorithm.split_k() == 1 ? 0 : algorithm.split_k() * elements * sizeof(float);
}

/// Of matrices whose addresses are multiples of `alignments`.
bool can(const Algorithm& algorithm, const Call& call, const std::array<uint64_t, 4>& alignments) {
  const Matrix* const matrices[] = {&call.a, &call.b, &call.c, &call.d};
  for (size_t i = 0; i < 4; ++i)
    if (alignments[i] % algorithm.alignment != 0 ||
        matrices[i]->stride * bits_of(matrices[i]->type) / 8 % algorithm.alignment != 0)
      return false;
  return algorithm.kind == call.kind(architecture()) && call.k() >= algorithm.split_k() &&
         algorithm.id() != library_use().refused &&
         !(algorithm.kind == Kind::fp8_under_vectors && library_use().refuses_vectors);
}

const Matrix& matrix(cublasLtMatrixLayout_t layout) { return *reinterpret_cast<const Matrix*>(layout); }
Description& description(cublasLtMatmulDesc_t what) { return *reinterpret_cast<Description*>(what); }
Preferences& preferences(cublasLtMatmulPreference_t what) { return *reinterpret_cast<Preferences*>(what); }

template <class T>
cublasStatus_t set(T& value, const void* from, size_t bytes) {
  if (!from || bytes != sizeof value) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&value, from, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

/// Of scales: a version knows those that there were.
cublasStatus_t set_mode(int32_t& mode, const void* from, size_t bytes) {
  int32_t wished = 0;
  if (const cublasStatus_t status = set(wished, from, bytes); status != CUBLAS_STATUS_SUCCESS) return status;
  if (wished == outer_vector_mode && cublasLtGetVersion() < outer_vector_version) return CUBLAS_STATUS_INVALID_VALUE;
  mode = wished;
  return CUBLAS_STATUS_SUCCESS;
}

/// As the library says of itself where it is asked for 0 bytes.
size_t bytes_of_attribute(cublasLtMatmulAlgoConfigAttributes_t attribute) {
  return attribute == CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID || attribute == CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID ? 2 : 4;
}

}  // namespace
}  // namespace nibble::cuda::emulation

using namespace nibble::cuda::emulation;
using nibble::cuda::Queue;

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() { return library_use().version > 0 ? library_use().version : CUBLAS_VERSION; }

const char* cublasLtGetStatusName(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS         ? "CUBLAS_STATUS_SUCCESS"
         : status == CUBLAS_STATUS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE"
                                                 : "CUBLAS_STATUS_NOT_SUPPORTED";
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t stride) {
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(
      new Matrix{type, static_cast<int64_t>(rows), static_cast<int64_t>(cols), stride});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete &matrix(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* made, cublasComputeType_t compute, cudaDataType_t scale) {
  *made = reinterpret_cast<cublasLtMatmulDesc_t>(new Description{compute, scale});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t what) {
  delete &description(what);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t what, cublasLtMatmulDescAttributes_t attribute,
                                              const void* from, size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return set(description(what).transpose_a, from, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return set(description(what).transpose_b, from, bytes);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
      return set(description(what).pointers, from, bytes);
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
      return set_mode(description(what).a_scale_mode, from, bytes);
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE:
      return set_mode(description(what).b_scale_mode, from, bytes);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
      return set(description(what).a_scale, from, bytes);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
      return set(description(what).b_scale, from, bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* made) {
  *made = reinterpret_cast<cublasLtMatmulPreference_t>(new Preferences);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t what) {
  delete &preferences(what);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t what,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* from,
                                                    size_t bytes) {
  Preferences& given = preferences(what);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return set(given.workspace, from, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return set(given.reductions, from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return set(given.alignments[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], from, bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t how, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t wished, int at_most,
                                              cublasLtMatmulHeuristicResult_t results[], int* count) {
  ++library_use().choices;
  *count = 0;
  if (at_most < 1) return CUBLAS_STATUS_INVALID_VALUE;
  const Call call{description(how), matrix(a), matrix(b), matrix(c), matrix(d)};
  if (const cublasStatus_t status = call.status(architecture()); status != CUBLAS_STATUS_SUCCESS) return status;
  const Preferences& given = preferences(wished);
  const auto& [of_a, of_b, of_c, of_d] = given.alignments;
  for (const Algorithm& algorithm : algorithms) {
    const bool good = can(algorithm, call, {of_a, of_b, of_c, of_d}) &&
                      workspace_of(algorithm, call) <= given.workspace &&
                      (algorithm.reduction() & ~given.reductions) == 0;
    if (!good || *count == at_most) continue;
    cublasLtMatmulHeuristicResult_t& result = results[(*count)++];
    put(algorithm.configuration, result.algo);
    result.state = CUBLAS_STATUS_SUCCESS;
    result.workspaceSize = workspace_of(algorithm, call);
  }
  return *count > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoInit(cublasLtHandle_t, cublasComputeType_t compute, cudaDataType_t, cudaDataType_t a,
                                      cudaDataType_t, cudaDataType_t, cudaDataType_t, int id,
                                      cublasLtMatmulAlgo_t* made) {
  const Algorithm* const algorithm = find(static_cast<uint32_t>(id));
  if (!algorithm || (algorithm->kind == Kind::integers) != (compute == CUBLAS_COMPUTE_32I) ||
      (algorithm->kind == Kind::fp4) != (a == CUDA_R_4F_E2M1))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  put({algorithm->id(), 0, 1}, *made);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t how, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* what, cublasLtMatmulHeuristicResult_t* result) {
  const Call call{description(how), matrix(a), matrix(b), matrix(c), matrix(d)};
  const Configuration configuration = configuration_of(*what);
  const Algorithm* const algorithm = find(configuration[CUBLASLT_ALGO_CONFIG_ID]);
  if (!algorithm || algorithm->configuration != configuration) return CUBLAS_STATUS_INVALID_VALUE;
  constexpr std::array<uint64_t, 4> unknown{256, 256, 256, 256};
  if (call.status(architecture()) != CUBLAS_STATUS_SUCCESS || !can(*algorithm, call, unknown))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  result->workspaceSize = workspace_of(*algorithm, call);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigSetAttribute(cublasLtMatmulAlgo_t* algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute, const void* from,
                                                    size_t bytes) {
  if (attribute == CUBLASLT_ALGO_CONFIG_ID || bytes != bytes_of_attribute(attribute))
    return CUBLAS_STATUS_INVALID_VALUE;
  Configuration configuration = configuration_of(*algorithm);
  std::memcpy(&configuration[attribute], from, bytes);
  put(configuration, *algorithm);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute, void* to,
                                                    size_t bytes, size_t* written) {
  if (bytes != bytes_of_attribute(attribute)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(to, &configuration_of(*algorithm)[attribute], bytes);
  *written = bytes;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t how, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* what, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  if (!handle || !alpha || !a || !b || !beta || !c || !d || !what || !stream) return CUBLAS_STATUS_INVALID_VALUE;
  const Call call{description(how), matrix(a_layout), matrix(b_layout), matrix(c_layout), matrix(d_layout)};
  cublasLtMatmulHeuristicResult_t needed{};
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(handle, how, a_layout, b_layout, c_layout, d_layout, what, &needed);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const Algorithm& algorithm = *find(configuration_of(*what)[CUBLASLT_ALGO_CONFIG_ID]);
  const auto address = [](const void* data) { return uint64_t{reinterpret_cast<uintptr_t>(data)}; };
  if (!can(algorithm, call, {address(a), address(b), address(c), address(d)})) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (call.vectors() && library_use().proposes_in_vain) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (needed.workspaceSize > workspace_bytes || address(workspace) % 256 != 0) return CUBLAS_STATUS_INVALID_VALUE;
  library_use().algorithm = algorithm.id();
  if (algorithm.kind != Kind::numbers && algorithm.kind != Kind::integers) ++library_use().codes;
  if (call.vectors()) ++library_use().under_vectors;
  const auto number = [whole = call.integers()](const void* at) {
    return whole ? static_cast<float>(*static_cast<const int32_t*>(at)) : *static_cast<const float*>(at);
  };
  // Numbers of the host are read now, those of the device when the product has its turn.
  const bool there = call.how.pointers == CUBLASLT_POINTER_MODE_DEVICE;
  Arguments arguments{static_cast<const std::byte*>(a),
                      static_cast<const std::byte*>(b),
                      static_cast<const std::byte*>(c),
                      static_cast<std::byte*>(d),
                      0,
                      0};
  if (!there) arguments.alpha = number(alpha), arguments.beta = number(beta);
  Queue& on = *reinterpret_cast<Queue*>(stream);
  queue(on, [=, &on, time = algorithm.milliseconds, parts = algorithm.split_k()] {
    Arguments now = arguments;
    if (there) now.alpha = number(alpha), now.beta = number(beta);
    multiply(call, now, parts, static_cast<float*>(workspace));
    milliseconds_worked(on) += time;
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
