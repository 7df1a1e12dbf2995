#include "trainer/law_minimum.hpp"

#include <ceres/cost_function.h>
#include <ceres/loss_function.h>
#include <ceres/problem.h>
#include <ceres/solver.h>

#include <Eigen/SVD>
#include <algorithm>
#include <cmath>

#include "tensor/random.hpp"

namespace nibble {
namespace {

std::vector<size_t> free_places(const LawProblem& problem) {
  std::vector<size_t> places;
  for (size_t i = 0; i < problem.fixed.size(); ++i)
    if (!problem.fixed[i]) places.push_back(i);
  return places;
}

/// (ln L(values) - ln L) / delta of one point, by the free values alone.
class Residual : public ceres::CostFunction {
 public:
  Residual(const LawProblem& problem, const LawPoint& point, const std::vector<size_t>& free)
      : problem_(problem), point_(point), free_(free) {
    set_num_residuals(1);
    mutable_parameter_block_sizes()->push_back(static_cast<int>(free.size()));
  }

  bool Evaluate(const double* const* parameters, double* residuals, double** jacobians) const override {
    std::vector<double> values(problem_.fixed.size()), gradient(values.size());
    for (size_t i = 0; i < values.size(); ++i) values[i] = problem_.fixed[i].value_or(0);
    for (size_t i = 0; i < free_.size(); ++i) values[free_[i]] = parameters[0][i];
    const double log_loss = law_log_loss(*problem_.law, point_, values, gradient);
    residuals[0] = (log_loss - point_.log_loss) / problem_.huber;
    if (jacobians && jacobians[0])
      for (size_t i = 0; i < free_.size(); ++i) {
        const double derivative = gradient[free_[i]] / problem_.huber;
        jacobians[0][i] = std::isfinite(derivative) ? derivative : 0;  // of a term that has vanished
      }
    return std::isfinite(residuals[0]);  // a step to where the law overflows is taken back
  }

 private:
  const LawProblem& problem_;
  const LawPoint& point_;
  const std::vector<size_t>& free_;
};

double cost_of(const LawProblem& problem, const std::vector<double>& values) {
  double cost = 0;
  for (size_t i = 0; i < problem.points.size(); ++i) {
    const double r = std::abs(law_log_loss(*problem.law, problem.points[i], values) - problem.points[i].log_loss);
    const double rho = r <= problem.huber ? r * r : 2 * problem.huber * r - problem.huber * problem.huber;
    cost += (problem.weights.empty() ? 1 : problem.weights[i]) * rho / 2;
  }
  return cost;
}

}  // namespace

size_t LawProblem::free_values() const {
  return static_cast<size_t>(std::ranges::count(fixed, std::optional<double>()));
}

[[gnu::noinline]] LawMinimum minimize_from(const LawProblem& problem, std::vector<double> start) {
  const std::vector<size_t> free = free_places(problem);
  std::vector<double> variables;
  for (size_t i = 0; i < start.size(); ++i) start[i] = problem.fixed[i].value_or(start[i]);
  for (const size_t place : free) variables.push_back(start[place]);
  LawMinimum minimum{.values = std::move(start), .cost = HUGE_VAL};
  const double at_start = cost_of(problem, minimum.values);
  if (!std::isfinite(at_start)) return minimum;
  minimum.cost = at_start;
  if (free.empty()) return minimum;
  ceres::Problem solved;
  for (size_t i = 0; i < problem.points.size(); ++i) {
    const int weight = problem.weights.empty() ? 1 : problem.weights[i];
    if (weight == 0) continue;
    auto* huber = new ceres::HuberLoss(1);
    ceres::LossFunction* loss = weight == 1 ? static_cast<ceres::LossFunction*>(huber)
                                            : new ceres::ScaledLoss(huber, weight, ceres::TAKE_OWNERSHIP);
    solved.AddResidualBlock(new Residual(problem, problem.points[i], free), loss, variables.data());
  }
  ceres::Solver::Options options;
  options.linear_solver_type = ceres::DENSE_QR;
  options.logging_type = ceres::SILENT;
  options.num_threads = 1;
  // Beyond delta a step is one of reweighted squares, which come near only by degrees.
  options.max_num_iterations = 3000;
  options.function_tolerance = 1e-14;
  options.gradient_tolerance = 1e-12;
  options.parameter_tolerance = 1e-13;
  options.max_num_consecutive_invalid_steps = 50;
  ceres::Solver::Summary summary;
  ceres::Solve(options, &solved, &summary);

  if (!summary.IsSolutionUsable()) return minimum;
  for (size_t i = 0; i < free.size(); ++i) minimum.values[free[i]] = variables[i];
  minimum.cost = cost_of(problem, minimum.values);
  return minimum;
}

std::vector<double> start_uniforms(uint64_t seed, int number, size_t count) {
  const RandomStream random(seed, Purpose::sampling, static_cast<uint32_t>(number));
  std::vector<double> uniforms;
  for (size_t i = 0; i < count; ++i) uniforms.push_back(random.uniform(i));
  return uniforms;
}

LawMinimum minimize(Stream& stream, const LawProblem& problem, int starts, uint64_t seed,
                    const std::function<void(int64_t)>& done) {
  std::vector<LawMinimum> minima(static_cast<size_t>(starts));
  const int64_t turn = 4 * stream.threads();
  for (int64_t first = 0; first < starts; first += turn) {
    const int64_t count = std::min<int64_t>(turn, starts - first);
    parallel_tasks(stream, count, [&](int64_t task, int64_t) {
      const auto number = static_cast<int>(first + task);
      const std::vector<double> uniforms = start_uniforms(seed, number, problem.fixed.size());
      minima[static_cast<size_t>(number)] =
          minimize_from(problem, law_start(*problem.law, problem.points, uniforms, problem.fixed));
    });
    if (done) done(count);
  }
  LawMinimum best = *std::ranges::min_element(minima, {}, &LawMinimum::cost);
  best.starts = starts;
  const double delta = problem.huber * 1e-3, nothing = static_cast<double>(problem.points.size()) * delta * delta / 2;
  for (const LawMinimum& minimum : minima) best.reached += minimum.cost - best.cost <= 1e-6 * (best.cost + nothing);
  return best;
}

std::vector<size_t> undetermined(const LawProblem& problem, std::span<const double> values) {
  const std::vector<size_t> free = free_places(problem);
  if (free.empty()) return {};
  Eigen::MatrixXd jacobian(problem.points.size(), free.size());
  std::vector<double> gradient(values.size());
  for (size_t row = 0; row < problem.points.size(); ++row) {
    law_log_loss(*problem.law, problem.points[row], values, gradient);
    for (size_t i = 0; i < free.size(); ++i)
      jacobian(static_cast<Eigen::Index>(row), static_cast<Eigen::Index>(i)) = gradient[free[i]];
  }
  std::vector<size_t> places;
  Eigen::VectorXd norms = jacobian.colwise().norm();
  for (Eigen::Index i = 0; i < norms.size(); ++i) {
    if (norms(i) == 0) places.push_back(free[static_cast<size_t>(i)]);
    else jacobian.col(i) /= norms(i);
  }
  constexpr double resolved = 1e-7, takes_part = 0.1;
  const Eigen::JacobiSVD<Eigen::MatrixXd> svd(jacobian, Eigen::ComputeThinU | Eigen::ComputeFullV);
  for (Eigen::Index k = 0; k < norms.size(); ++k) {
    if (k < svd.singularValues().size() && svd.singularValues()(k) > resolved * svd.singularValues()(0)) continue;
    for (Eigen::Index i = 0; i < norms.size(); ++i)
      if (std::abs(svd.matrixV()(i, k)) > takes_part) places.push_back(free[static_cast<size_t>(i)]);
  }
  std::ranges::sort(places);
  places.erase(std::ranges::unique(places).begin(), places.end());
  return places;
}

}  // namespace nibble
