#include "quant/hadamard.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "tensor/error.hpp"

namespace nibble {
namespace {

/// Orders above would cost more additions for a value than the product that follows.
constexpr int64_t largest_core = 512;

struct PrimePower {
  int64_t prime = 0;
  int exponent = 0;
};

/// p^e = q, or nothing.
PrimePower as_prime_power(int64_t q) {
  if (q < 2) return {};
  int64_t prime = 2;
  while (prime * prime <= q && q % prime != 0) ++prime;
  if (q % prime != 0) prime = q;
  int exponent = 0;
  for (; q % prime == 0; q /= prime) ++exponent;
  return q == 1 ? PrimePower{prime, exponent} : PrimePower{};
}

/// The field of p^e elements. An element is the number whose digits to base p are the coefficients of its polynomial.
class Field {
 public:
  explicit Field(PrimePower power) : prime_(power.prime), degree_(power.exponent), size_(1) {
    for (int i = 0; i < degree_; ++i) size_ *= prime_;
    if (degree_ > 1) find_modulus();
  }
  int64_t size() const { return size_; }

  int64_t subtract(int64_t a, int64_t b) const {
    int64_t difference = 0;
    for (int64_t place = 1; place < size_; place *= prime_)
      difference += (a / place % prime_ - b / place % prime_ + prime_) % prime_ * place;
    return difference;
  }
  /// 1 for squares, -1 for others, 0 for zero.
  std::vector<int> quadratic_character() const {
    std::vector<int> character(static_cast<size_t>(size_), -1);
    character[0] = 0;
    for (int64_t a = 1; a < size_; ++a) character[static_cast<size_t>(multiply(a, a, modulus_))] = 1;
    return character;
  }

 private:
  /// Modulo x^degree + the polynomial `modulus`.
  int64_t multiply(int64_t a, int64_t b, int64_t modulus) const {
    if (degree_ == 1) return a * b % prime_;
    int64_t product = 0;
    for (int64_t place = size_ / prime_; place >= 1; place /= prime_) {  // Horner's rule over b's digits
      product = subtract(times_x(product, modulus), negated_multiple(a, b / place % prime_));
    }
    return product;
  }
  int64_t negated_multiple(int64_t a, int64_t digit) const {
    int64_t sum = 0;
    for (; digit > 0; --digit) sum = subtract(sum, a);
    return sum;
  }
  int64_t times_x(int64_t a, int64_t modulus) const {
    const int64_t top = a / (size_ / prime_);
    int64_t shifted = a % (size_ / prime_) * prime_;
    for (int64_t i = 0; i < top; ++i) shifted = subtract(shifted, modulus);
    return shifted;
  }
  void find_modulus() {
    do ++modulus_;
    while (!is_field());
  }
  /// Whether x^degree + modulus has no divisors: then no product of two nonzero elements is zero.
  bool is_field() const {
    for (int64_t a = 1; a < size_; ++a)
      for (int64_t b = a; b < size_; ++b)
        if (multiply(a, b, modulus_) == 0) return false;
    return true;
  }

  int64_t prime_;
  int degree_;
  int64_t size_;
  int64_t modulus_ = 0;
};

enum class Paley { none, first, second };

Paley construction_of(int64_t order) {
  if (as_prime_power(order - 1).prime != 0 && (order - 1) % 4 == 3) return Paley::first;
  if (order % 2 == 0 && as_prime_power(order / 2 - 1).prime != 0 && (order / 2 - 1) % 4 == 1) return Paley::second;
  return Paley::none;
}

/// The symmetric or skew matrix of order q + 1 with zero diagonal that both constructions start from.
std::vector<float> conference_matrix(const Field& field) {
  const int64_t n = field.size() + 1;
  const std::vector<int> character = field.quadratic_character();
  const float corner = field.size() % 4 == 3 ? -1.0f : 1.0f;
  std::vector<float> matrix(static_cast<size_t>(n * n), 0.0f);
  for (int64_t i = 1; i < n; ++i) {
    matrix[static_cast<size_t>(i)] = 1;
    matrix[static_cast<size_t>(i * n)] = corner;
    for (int64_t j = 1; j < n; ++j)
      matrix[static_cast<size_t>(i * n + j)] =
          static_cast<float>(character[static_cast<size_t>(field.subtract(i - 1, j - 1))]);
  }
  return matrix;
}

std::vector<float> paley_matrix(int64_t order) {
  const bool first = construction_of(order) == Paley::first;
  const int64_t n = first ? order : order / 2;
  std::vector<float> c = conference_matrix(Field(as_prime_power(n - 1)));
  if (first) {
    for (int64_t i = 0; i < n; ++i) c[static_cast<size_t>(i * n + i)] += 1;
    return c;
  }
  // 0 becomes [[1, -1], [-1, -1]], and +-1 becomes +-[[1, 1], [1, -1]].
  std::vector<float> h(static_cast<size_t>(order * order));
  for (int64_t i = 0; i < order; ++i)
    for (int64_t j = 0; j < order; ++j) {
      const float entry = c[static_cast<size_t>(i / 2 * n + j / 2)];
      const bool lower = i % 2 != 0, right = j % 2 != 0;
      h[static_cast<size_t>(i * order + j)] =
          entry != 0 ? entry * (lower && right ? -1.0f : 1.0f) : (lower || right ? -1.0f : 1.0f);
    }
  return h;
}

/// The smallest m with order = 2^k m and a known matrix of order m; 0: none.
int64_t core_of(int64_t order) {
  if (order < 1) return 0;
  int64_t core = order >> std::countr_zero(static_cast<uint64_t>(order));
  if (core == 1) return 1;
  for (core *= 4; core <= order && core <= largest_core; core *= 2)
    if (order % core == 0 && construction_of(core) != Paley::none) return core;
  return 0;
}

}  // namespace

bool Hadamard::exists(int64_t order) { return core_of(order) != 0; }

Hadamard Hadamard::of_order(int64_t order, const std::string& where) {
  const int64_t core = core_of(order);
  if (core == 0) {
    int64_t below = order, above = order;
    while (below > 1 && !exists(below)) --below;
    while (!exists(above)) ++above;
    throw Error({.kind = ErrorKind::configuration,
                 .what = "no Hadamard matrix of this order is known here",
                 .where = where,
                 .seen = std::to_string(order),
                 .allowed = "a power of two times 1, 12, 20, 28, 36, 44, 52, 60, ... (Paley's orders)",
                 .next = fmt::format("the nearest widths that would do: {} and {}", below, above)});
  }
  return {order, order / core, core, static_cast<float>(1 / std::sqrt(static_cast<double>(order))),
          core == 1 ? std::vector<float>() : paley_matrix(core)};
}

std::vector<float> rotation_signs(Signs signs, int64_t size, const RandomStream& random, uint64_t part) {
  // Transformer Engine's constant for blocks of 16, read there by the authors of arXiv 2601.22813.
  static constexpr float published[16] = {1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1};
  if (signs == Signs::none) return {};
  std::vector<float> diagonal(static_cast<size_t>(size));
  for (size_t i = 0; i < diagonal.size(); ++i)
    diagonal[i] = signs == Signs::fixed ? published[i % 16] : (random.word(part << 34 | i) & 1u) != 0 ? -1.0f : 1.0f;
  return diagonal;
}

}  // namespace nibble
