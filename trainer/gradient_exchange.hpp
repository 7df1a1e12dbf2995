// Which exchange a run has, from its settings.
//
// Not for: what an exchange does (comm/bucket_sums.hpp), reading settings from YAML (structured_settings.hpp).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/bucket_exchange.hpp"
#include "comm/exchange_cost.hpp"
#include "trainer/settings.hpp"
#include "trainer/train_step.hpp"

namespace nibble {

/// What else decides how gradients travel.
struct ExchangeFacts {
  int64_t steps = 0;        ///< of the whole run
  std::vector<int> host{};  ///< by rank
  LinkCost link{};          ///< as all ranks agreed on; zeros: unknown, and bytes decide
};

/// The exchange that the settings name. Throws Error{configuration} for what cannot be combined.
MakeExchange exchange_maker(const Settings& settings, const ExchangeFacts& facts);

/// The sum of a bucket that the settings name.
MakeBucketSum bucket_sum_maker(const Settings& settings, const ExchangeFacts& facts);

/// Throws Error{configuration} for settings that no number of ranks can follow; `where` begins with the key.
void check_exchange(const Settings& settings);

/// Whether gradients travel other than as they are, here or there.
bool compresses(const GradientSettings& settings);
/// Whether the ways of sums are chosen by what the links are like.
bool measures_links(const GradientSettings& settings);
/// What is summed, without a way, where a run's gradients are selected bucket by bucket: of that it can be measured
/// what each way takes.
std::optional<SparseSumOptions> chosen_sum(const GradientSettings& settings);

/// The groups of buckets (the embedding, the blocks, the head) that a word of an override means: first and end, of
/// `layers` blocks. Throws ValueError (units.hpp) for another word.
std::pair<int64_t, int64_t> group_span(std::string_view text, int64_t layers);

}  // namespace nibble
