#include "optim/decompositions.hpp"

#include <Eigen/Dense>
#include <cassert>

#include "tensor/error.hpp"

namespace nibble {
namespace {

/// A packed matrix seen in columns: Eigen's column k is row k.
auto columns_of(const Tensor& packed) {
  assert(packed.contiguous());
  return Eigen::Map<Eigen::MatrixXf>(packed.as<float>(), packed.cols, packed.rows);
}

/// Those of no processor in particular: Eigen cuts its sums by them.
void fix_cache_sizes() {
  static const bool fixed = [] {
    Eigen::setCpuCacheSizes(32 << 10, 256 << 10, 2 << 20);
    return true;
  }();
  static_cast<void>(fixed);
}

[[noreturn]] void refuse(const std::string& what, const char* seen) {
  throw Error({.kind = ErrorKind::numerics,
               .what = "a matrix of gradients has no eigenvectors",
               .where = what,
               .seen = seen,
               .allowed = "finite sums of gradients' squares, which float32 holds",
               .next = "lower the learning rate, or clip gradients (optimizer.clip)"});
}

}  // namespace

std::vector<double> eigen_decomposition(const Tensor& symmetric, const Tensor& vectors, const std::string& what) {
  fix_cache_sizes();
  const auto from = columns_of(symmetric);
  if (!from.allFinite()) refuse(what, "an element that is not finite");
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(from.cast<double>());
  if (solver.info() != Eigen::Success) refuse(what, "an iteration that does not end");
  if (!solver.eigenvalues().allFinite() || !solver.eigenvectors().allFinite())
    refuse(what, "an eigenvalue or eigenvector that is not finite");
  columns_of(vectors) = solver.eigenvectors().rowwise().reverse().cast<float>();
  const Eigen::VectorXd descending = solver.eigenvalues().reverse();
  return {descending.begin(), descending.end()};
}

void orthonormalize_rows(const Tensor& rows, const Tensor& scratch, const std::string& what) {
  fix_cache_sizes();
  auto from = columns_of(rows), to = columns_of(scratch);
  if (!from.allFinite()) refuse(what, "an element that is not finite");
  const Eigen::HouseholderQR<Eigen::Ref<Eigen::MatrixXf>> in_place(from);
  to = in_place.householderQ();
  from = to;
}

size_t decomposition_scratch_bytes(int64_t longest) { return bytes_of(DType::f64, longest, longest); }

}  // namespace nibble
