#include "trainer/gradient_exchange.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "comm/bucket_exchange.hpp"
#include "comm/coded_blocks.hpp"
#include "comm/sparse_wire.hpp"
#include "tensor/error.hpp"
#include "trainer/precision.hpp"
#include "trainer/units.hpp"

namespace nibble {
namespace {

/// What gradients of one group of buckets follow.
struct Choice {
  std::string exchange, codec;
  double density = 0;
};

[[noreturn]] void refuse(const std::string& what, const std::string& where, const std::string& seen,
                         const std::string& allowed, const std::string& next = {}) {
  throw Error({.kind = ErrorKind::configuration,
               .what = what,
               .where = "gradients." + where,
               .seen = seen,
               .allowed = allowed,
               .next = next});
}

constexpr std::string_view top_k_name = "top-k", permutation_name = "permutation", random_name = "random";

bool is_codec(std::string_view name) {
  return name != top_k_name && name != permutation_name && name != random_name && !name.empty();
}

std::string default_codec(const std::string& exchange) {
  if (exchange == "quantized") return "maxmin-4";
  if (exchange == "marina") return "correlated-1";
  if (exchange == "ef21") return std::string(top_k_name);
  if (exchange == "lattice") return "lattice-4";
  return {};
}

Choice choice_of(const GradientSettings& settings, const GradientOverride* rule) {
  Choice choice{settings.exchange, settings.codec, settings.density};
  if (rule && !rule->exchange.empty()) {
    if (rule->exchange != settings.exchange) choice.codec.clear();
    choice.exchange = rule->exchange;
  }
  if (rule && !rule->codec.empty()) choice.codec = rule->codec;
  if (rule && rule->density > 0) choice.density = rule->density;
  if (choice.codec.empty()) choice.codec = default_codec(choice.exchange);
  return choice;
}

Codec codec_of(const GradientSettings& settings, const Choice& choice) {
  return codec_named(choice.codec, settings.bucket, "gradients.codec");
}

/// Nearest rounding in the values' own order errs the same way again and again.
bool is_biased(const Codec& codec) {
  return codec.rounding == Codec::Rounding::nearest && codec.scale != Codec::Scale::unbiased;
}

bool feeds_back(const GradientSettings& settings, const Choice& choice) {
  if (settings.error_feedback != "auto") return settings.error_feedback == "true";
  return choice.exchange == "sparcml" || (choice.exchange == "quantized" && is_biased(codec_of(settings, choice)));
}

void check_choice(const GradientSettings& settings, const Choice& choice) {
  const std::string& exchange = choice.exchange;
  const auto one_of = {"dense", "sparcml", "quantized", "marina", "ef21", "lattice"};
  if (std::ranges::find(one_of, exchange) == one_of.end())
    refuse("unknown exchange", "overrides", exchange, "dense, sparcml, quantized, marina, ef21, lattice");
  if (!(choice.density > 0 && choice.density <= 1))
    refuse("no density", "overrides", fmt::format("{}", choice.density), "above 0, at most 1");
  const std::string& name = choice.codec;
  if (name.empty()) return;
  const auto refuse_codec = [&](const std::string& allowed) {
    refuse(fmt::format("the {} exchange has no such codec", exchange), "codec", name, allowed);
  };
  if (exchange == "dense") refuse_codec("none: set gradients.wire, or another gradients.exchange");
  if (!is_codec(name)) {
    if (name == top_k_name && exchange != "ef21") refuse_codec("top-k is the sparcml exchange, and goes with ef21");
    if (name != top_k_name && exchange != "marina") refuse_codec("permutation and random go with marina");
    return;
  }
  const Codec codec = codec_of(settings, choice);
  const bool lattice = codec.rounding == Codec::Rounding::dithered,
             correlated = codec.rounding == Codec::Rounding::correlated;
  if (lattice != (exchange == "lattice"))
    refuse_codec(lattice ? "lattice codecs go with gradients.exchange=lattice" : "lattice-2, lattice-4, ...");
  if (correlated && feeds_back(settings, choice))
    refuse("correlated codes do not tell a rank's own", "error_feedback", "true", "auto or false");
  if (exchange == "marina" && is_biased(codec)) refuse_codec("an unbiased one");
  if (exchange == "ef21" && correlated) refuse_codec("top-k, or a codec that tells a rank's own codes");
  if (exchange == "sparcml" && (correlated || codec.rotation == Codec::Rotation::of_rank))
    refuse_codec("one without ranks of its own: maxmin-4, qsgd-8, fp8 ...");
  if (exchange == "sparcml" && settings.algorithm != "dense_split" && settings.algorithm != "auto")
    refuse("codes are for dense sums", "codec", name, "with gradients.algorithm=dense_split or auto");
}

void check_combination(const Settings& settings, const Choice& choice) {
  const GradientSettings& s = settings.gradients;
  const std::string& exchange = choice.exchange;
  if (exchange == "dense") return;
  if (settings.shard == "parameters")
    throw Error({.kind = ErrorKind::configuration,
                 .what = "a compressed exchange with sharded parameters",
                 .where = "shard",
                 .seen = fmt::format("shard: parameters, gradients.exchange: {}", exchange),
                 .allowed = "none, optimizer, gradients",
                 .next = "set shard=gradients, or gradients.exchange=dense"});
  if (s.hierarchical && (exchange == "ef21" || exchange == "lattice"))
    refuse("this exchange is not made of sums within hosts", "hierarchical", exchange,
           "dense, sparcml, quantized, marina");
  if (exchange == "marina" && !s.allow_noisy_difference)
    for (const Recipe& recipe : recipes_of(settings.precision))
      if (recipe.quantizes())
        refuse("rounding in the forward pass may be larger than the differences that marina sends",
               "allow_noisy_difference", fmt::format("false, with recipe {}", recipe.name), "true, or bf16 or fp32",
               "nibble records exchange_signal_ratio, which should stay above 3");
}

Wire wire_of(const GradientSettings& settings) { return settings.wire == "bf16" ? Wire::bf16 : Wire::f32; }

Selection selection_of(const GradientSettings& settings, const Choice& choice, int64_t elements) {
  const bool all = settings.select == "all";
  const double of = all ? static_cast<double>(elements) : static_cast<double>(bucket_elements);
  return {.of = all ? Selection::Of::all : Selection::Of::buckets,
          .k = std::max<int64_t>(1, std::llround(choice.density * of))};
}

int64_t entries_of(const Selection& selection, int64_t elements) {
  return selection.of == Selection::Of::all ? std::min(selection.k, elements)
                                            : entries_of_buckets(elements, selection.k);
}

/// The way in which a sparse sum goes; none: dense.
std::optional<SparseAlgorithm> way_of(const GradientSettings& settings, const Choice& choice, int ranks,
                                      int64_t elements, const LinkCost& link) {
  if (settings.algorithm == "recursive_doubling") return SparseAlgorithm::recursive_doubling;
  if (settings.algorithm == "split") return SparseAlgorithm::split;
  if (settings.algorithm == "dense_split") return SparseAlgorithm::dense_split;
  const std::optional<Codec> codec = is_codec(choice.codec) ? std::optional(codec_of(settings, choice)) : std::nullopt;
  std::optional<CodedBlocks> blocks;
  if (codec) blocks.emplace(*codec, CodeSource{}, Isa::avx2);
  const SumChoice found = choose_sum({.ranks = ranks,
                                      .length = elements,
                                      .entries = entries_of(selection_of(settings, choice, elements), elements),
                                      .contributions = wire_of(settings),
                                      .sums = wire_of(settings),
                                      .dense = wire_of(settings),
                                      .codec = blocks ? &*blocks : nullptr},
                                     link);
  if (found.way == SumWay::dense) return std::nullopt;
  return algorithm_of(found.way);
}

/// Makes the sums of a run's buckets.
class SumMaker {
 public:
  SumMaker(const Settings& settings, const ExchangeFacts& facts) : settings_(settings), facts_(facts) {}

  BucketSumPointer operator()(const BucketPlace& place) const {
    const GradientSettings& s = settings_.gradients;
    const Choice choice = choice_in(place);
    BucketSumPointer dense = make_dense_sum(place, wire_of(s));
    if (choice.exchange == "dense") return dense;
    const bool estimates = choice.exchange == "marina" || choice.exchange == "ef21";
    BucketSumPointer sum = estimates ? of_differences(place, choice) : compressed(place, choice);
    const int64_t warmup = s.warmup.of(facts_.steps);
    return warmup > 0 ? make_warm_up_sum(warmup, std::move(dense), std::move(sum)) : std::move(sum);
  }

  Choice choice_in(const BucketPlace& place) const {
    const GradientOverride* last = nullptr;
    for (const GradientOverride& rule : settings_.gradients.overrides)
      if (covers(rule, place)) last = &rule;
    return choice_of(settings_.gradients, last);
  }

 private:
  static bool covers(const GradientOverride& rule, const BucketPlace& place) {
    return rule.layers.empty() || std::ranges::any_of(rule.layers, [&](const std::string& word) {
             const auto [first, end] = group_span(word, place.groups - 2);
             return place.group >= first && place.group < end;
           });
  }

  /// Of a difference's bytes in those of a gradient.
  static double share_of_bytes(const BucketPlace& place, const Choice& choice) {
    if (choice.codec == permutation_name) return 1.0 / place.ranks();
    if (choice.codec == random_name) return choice.density;
    return codec_named(choice.codec, 1024, "gradients.codec").bits / 32.0;
  }

  /// A leaf that has no kernels for devices.
  static BucketSumPointer on_host(const BucketPlace& place,
                                  const std::function<BucketSumPointer(const BucketPlace&)>& make) {
    return place.memory == Place::host ? make(place) : make_sum_on_host(place, make);
  }

  BucketSumPointer of_differences(const BucketPlace& place, const Choice& choice) const {
    const GradientSettings& s = settings_.gradients;
    if (choice.exchange == "ef21") return make_ef21_sum(place, compressed(place, choice));
    const double probability = s.full_probability > 0 ? s.full_probability : share_of_bytes(place, choice);
    return make_marina_sum(place, {.full_probability = probability, .full_batches = s.full_batches},
                           make_dense_sum(place, wire_of(s)), compressed(place, choice));
  }

  BucketSumPointer compressed(const BucketPlace& place, const Choice& choice) const {
    if (!settings_.gradients.hierarchical) return between_ranks(place, choice);
    return make_hierarchical_sum(place, facts_.host, [maker = *this, choice](const BucketPlace& between) {
      return maker.between_ranks(between, choice);
    });
  }

  BucketSumPointer between_ranks(const BucketPlace& place, const Choice& choice) const {
    const GradientSettings& s = settings_.gradients;
    if (choice.exchange == "sparcml" && !way_of(s, choice, place.ranks(), place.elements(), facts_.link))
      return make_dense_sum(place, wire_of(s));
    if (choice.exchange == "sparcml" || choice.codec == top_k_name) return sparse(place, choice);
    if (choice.codec == permutation_name) return make_coordinate_sum(place, 0);
    if (choice.codec == random_name) return make_coordinate_sum(place, choice.density);
    const Codec codec = codec_of(s, choice);
    if (choice.exchange == "lattice")
      return on_host(place, [&](const BucketPlace& here) { return make_lattice_sum(here, codec); });
    BucketSumPointer sum = quantized(place, codec);
    return choice.exchange == "quantized" && feeds_back(s, choice) ? make_feedback_sum(place, std::move(sum))
                                                                   : std::move(sum);
  }

  BucketSumPointer quantized(const BucketPlace& place, const Codec& codec) const {
    const auto of_codes = [&](const BucketPlace& here) { return make_quantized_sum(here, codec); };
    BucketSumPointer sum = codes_on_device(codec) ? of_codes(place) : on_host(place, of_codes);
    // Links add among all ranks, not between hosts.
    const bool counts = place.memory == Place::device && counts_on_device(codec) && !settings_.gradients.hierarchical;
    return counts ? make_count_sum(place, codec, std::move(sum)) : std::move(sum);
  }

  BucketSumPointer sparse(const BucketPlace& place, const Choice& choice) const {
    const GradientSettings& s = settings_.gradients;
    const int64_t elements = place.elements();
    const bool feedback = choice.exchange == "sparcml" && feeds_back(s, choice);
    const std::optional<SparseAlgorithm> way = way_of(s, choice, place.ranks(), elements, facts_.link);
    const bool coded = way == SparseAlgorithm::dense_split && is_codec(choice.codec);
    return make_sparse_sum(place, {.selection = selection_of(s, choice, std::max<int64_t>(elements, 1)),
                                   .error_feedback = feedback,
                                   .wire = wire_of(s),
                                   .algorithm = way.value_or(SparseAlgorithm::split),
                                   .codec = coded ? std::optional(codec_of(s, choice)) : std::nullopt});
  }

  Settings settings_;
  ExchangeFacts facts_;
};

}  // namespace

std::pair<int64_t, int64_t> group_span(std::string_view text, int64_t layers) {
  if (text == "embedding") return {0, 1};
  if (text == "head") return {layers + 1, layers + 2};
  const auto [first, end] = layer_span(text, layers);
  return {first + 1, end + 1};
}

bool compresses(const GradientSettings& settings) {
  return settings.exchange != "dense" || std::ranges::any_of(settings.overrides, [&](const GradientOverride& rule) {
           return choice_of(settings, &rule).exchange != "dense";
         });
}

std::optional<SparseSumOptions> chosen_sum(const GradientSettings& settings) {
  const Choice choice = choice_of(settings, nullptr);
  if (choice.exchange != "sparcml" || settings.select == "all") return std::nullopt;
  return SparseSumOptions{.selection = selection_of(settings, choice, bucket_elements),
                          .error_feedback = feeds_back(settings, choice),
                          .wire = wire_of(settings),
                          .codec = is_codec(choice.codec) ? std::optional(codec_of(settings, choice)) : std::nullopt};
}

bool measures_links(const GradientSettings& settings) {
  const auto sparse = [&](const GradientOverride* rule) {
    const Choice choice = choice_of(settings, rule);
    return choice.exchange == "sparcml" || choice.codec == top_k_name;
  };
  return settings.algorithm == "auto" && settings.virtual_ranks == 0 &&
         (sparse(nullptr) || std::ranges::any_of(settings.overrides, [&](const auto& rule) { return sparse(&rule); }));
}

void check_exchange(const Settings& settings) {
  const GradientSettings& s = settings.gradients;
  const auto check = [&](const GradientOverride* rule) {
    const Choice choice = choice_of(s, rule);
    check_choice(s, choice);
    check_combination(settings, choice);
  };
  check(nullptr);
  for (const GradientOverride& rule : s.overrides) check(&rule);
  if (s.virtual_ranks == 0) return;
  const int64_t micro_batches = settings.batch.tokens / (settings.data.sequence * settings.batch.micro);
  if (micro_batches % s.virtual_ranks != 0)
    refuse("the virtual ranks do not divide the micro-batches of a step", "virtual_ranks",
           fmt::format("{} for {} micro-batches", s.virtual_ranks, micro_batches), "a divisor");
  if (settings.shard != "none")
    refuse("virtual ranks are played by one process, which has everything", "virtual_ranks",
           fmt::format("shard: {}", settings.shard), "shard: none");
  if (s.hierarchical) refuse("virtual ranks have no hosts", "hierarchical", "true", "false");
}

MakeBucketSum bucket_sum_maker(const Settings& settings, const ExchangeFacts& facts) {
  return SumMaker(settings, facts);
}

MakeExchange exchange_maker(const Settings& settings, const ExchangeFacts& facts) {
  return [maker = SumMaker(settings, facts), settings](CommunicationThread& thread,
                                                       const ExchangePlan& plan) -> std::unique_ptr<GradientExchange> {
    const GradientSettings& s = settings.gradients;
    const auto seed = static_cast<uint64_t>(settings.run.seed);
    if (s.virtual_ranks > 0) {
      if (thread.size() > 1)
        refuse("virtual ranks beside real ones", "virtual_ranks",
               fmt::format("{} with {} ranks", s.virtual_ranks, thread.size()), "one real rank");
      return make_virtual_exchange(thread, plan, static_cast<int>(s.virtual_ranks), seed, maker);
    }
    if (!compresses(s)) return make_dense_exchange(thread, wire_of(s), plan.goes);
    return make_bucket_exchange(thread, plan, seed, maker);
  };
}

}  // namespace nibble
