#include "data/synthetic_language.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>

#include "tensor/error.hpp"

namespace nibble {
namespace {

void require(bool allowed, const char* key, const std::string& seen, const std::string& range) {
  if (allowed) return;
  throw Error({.kind = ErrorKind::configuration,
               .what = "no such synthetic language",
               .where = fmt::format("data.synthetic.{}", key),
               .seen = seen,
               .allowed = range});
}

/// Uniform in [0, 1) with 53 bits.
double uniform(uint32_t high, uint32_t low) {
  return static_cast<double>((uint64_t{high} << 32 | low) >> 11) * 0x1p-53;
}

/// 0 for 0, as the limit is.
double entropy_term(double probability) { return probability > 0 ? -probability * std::log(probability) : 0; }

}  // namespace

SyntheticLanguage::SyntheticLanguage(const SyntheticOptions& options) : options_(options) {
  const auto& [vocabulary, order, zipf, noise, seed] = options_;
  require(vocabulary >= 2 && vocabulary <= SyntheticOptions::most_tokens, "vocabulary", fmt::to_string(vocabulary),
          fmt::format("2 to {}", SyntheticOptions::most_tokens));
  require(order >= 1 && order <= SyntheticOptions::longest_context, "order", fmt::to_string(order),
          fmt::format("1 to {}", SyntheticOptions::longest_context));
  require(zipf >= 0 && zipf <= SyntheticOptions::steepest, "zipf", fmt::to_string(zipf),
          fmt::format("0 to {}", SyntheticOptions::steepest));
  require(noise >= 0 && noise <= 1, "noise", fmt::to_string(noise), "0 to 1");
  weight_ = (1 - noise) / static_cast<double>(order);

  double mass = 0;
  for (int64_t first = 1; first <= vocabulary; first *= 2) {
    Octave octave{.first = static_cast<int32_t>(first - 1),
                  .size = static_cast<int32_t>(std::min(first, vocabulary - first + 1))};
    for (int64_t rank = first; rank < first + octave.size; ++rank)
      octave.probability += std::pow(static_cast<double>(rank), -zipf);
    mass += octave.probability;
    octave.speakers = octave.size == 1 ? 0 : std::min(static_cast<int32_t>(order), octave.size);
    // Not 1 - speakers * weight, which could round to less than zero.
    octave.noise = octave.speakers == order ? noise : 1 - octave.speakers * weight_;
    octaves_.push_back(octave);
  }
  for (Octave& octave : octaves_) {
    octave.probability /= mass;
    const double any = octave.noise / octave.size;
    const double places =
        octave.speakers * entropy_term(weight_ + any) + (octave.size - octave.speakers) * entropy_term(any);
    entropy_ += entropy_term(octave.probability) + octave.probability * places;
    frequency_entropy_ += octave.size * entropy_term(octave.probability / octave.size);
  }
}

size_t SyntheticLanguage::octave_of(int32_t token) const {
  assert(token >= 0 && token < options_.vocabulary);
  return static_cast<size_t>(std::bit_width(static_cast<uint32_t>(token) + 1) - 1);
}

std::string SyntheticLanguage::describe() const {
  return fmt::format("vocabulary {}, order {}, zipf {}, noise {}, seed {}", options_.vocabulary, options_.order,
                     options_.zipf, options_.noise, options_.seed);
}

int32_t SyntheticLanguage::place(std::span<const int32_t> before, size_t octave, int32_t back) const {
  const auto [first, size, speakers, probability, noise] = octaves_[octave];
  const auto distance = static_cast<size_t>(back);
  const uint64_t token = distance > before.size() ? 0 : static_cast<uint64_t>(before[before.size() - distance]) + 1;
  // Step 0 is that of models' weights.
  const RandomStream facts(options_.seed, Purpose::initialization, static_cast<uint32_t>(back),
                           static_cast<uint32_t>(octave));
  const auto own_places = static_cast<uint64_t>((size - back) / speakers + 1);
  return back - 1 + speakers * static_cast<int32_t>(facts.block(token)[0] * own_places >> 32);
}

double SyntheticLanguage::log_probability(std::span<const int32_t> before, int32_t token) const {
  const size_t which = octave_of(token);
  const Octave& octave = octaves_[which];
  double probability = octave.noise / octave.size;
  if (octave.speakers > 0) {
    const int32_t its_place = token - octave.first;
    if (place(before, which, its_place % octave.speakers + 1) == its_place) probability += weight_;
  }
  return std::log(octave.probability * probability);
}

int32_t SyntheticLanguage::next(std::span<const int32_t> before, const PhiloxBlock& draw) const {
  double rest = uniform(draw[0], draw[1]);
  size_t which = 0;
  for (; which + 1 < octaves_.size() && rest >= octaves_[which].probability; ++which)
    rest -= octaves_[which].probability;
  const Octave& octave = octaves_[which];
  rest = uniform(draw[2], draw[3]);
  for (int32_t back = 1; back <= octave.speakers; ++back) {
    if (rest < weight_) return octave.first + place(before, which, back);
    rest -= weight_;
  }
  if (octave.noise <= 0) return octave.first + place(before, which, octave.speakers);
  return octave.first + std::min(static_cast<int32_t>(rest / octave.noise * octave.size), octave.size - 1);
}

}  // namespace nibble
