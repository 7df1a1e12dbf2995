// The synthetic language against slow ones: rows rebuilt from its description, entropies by enumeration of whole
// windows and by the mean of many; and that its windows are functions of their numbers alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <thread>

#include "data/synthetic_windows.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

using Ids = std::vector<int32_t>;

constexpr SyntheticOptions small{.vocabulary = 6, .order = 2, .zipf = 1, .noise = 0.3, .seed = 11};
constexpr SyntheticOptions large{.vocabulary = 256, .order = 3, .zipf = 1, .noise = 0.1, .seed = 1};

/// The probabilities of the next token as the header describes them, with lists in place of arithmetic.
std::vector<double> slow_row(const SyntheticOptions& language, const Ids& before) {
  std::vector<double> row(static_cast<size_t>(language.vocabulary));
  double mass = 0;
  for (size_t i = 0; i < row.size(); ++i) mass += std::pow(static_cast<double>(i + 1), -language.zipf);
  for (size_t octave = 0, first = 0; first < row.size(); ++octave, first = 2 * first + 1) {
    const size_t end = std::min(2 * first + 1, row.size()), size = end - first;
    double probability = 0, noise = 1;
    for (size_t i = first; i < end; ++i) probability += std::pow(static_cast<double>(i + 1), -language.zipf) / mass;
    // Places are dealt out like cards: to 1 back, 2 back ... and 1 back again.
    std::vector<Ids> hands(std::min(static_cast<size_t>(language.order), size));
    for (size_t i = 0; i < size; ++i) hands[i % hands.size()].push_back(static_cast<int32_t>(first + i));
    for (size_t back = 1; back <= hands.size() && size > 1; ++back) {
      const Ids& hand = hands[back - 1];
      const auto token = before.size() >= back ? static_cast<uint64_t>(before[before.size() - back] + 1) : 0;
      const uint64_t word = RandomStream(language.seed, Purpose::initialization, static_cast<uint32_t>(back),
                                         static_cast<uint32_t>(octave))
                                .block(token)[0];
      const double weight = (1 - language.noise) / static_cast<double>(language.order);
      row[static_cast<size_t>(hand[(word * hand.size()) >> 32])] += probability * weight;
      noise -= weight;
    }
    for (size_t i = first; i < end; ++i) row[i] += probability * noise / static_cast<double>(size);
  }
  return row;
}

double entropy_of(const std::vector<double>& row) {
  double sum = 0;
  for (const double p : row) sum -= p > 0 ? p * std::log(p) : 0;
  return sum;
}

/// Calls `visit` with every sequence of `length` tokens.
void for_all_windows(int64_t vocabulary, size_t length, const std::function<void(const Ids&)>& visit) {
  Ids window(length, 0);
  while (true) {
    visit(window);
    size_t i = 0;
    while (i < length && ++window[i] == vocabulary) window[i++] = 0;
    if (i == length) return;
  }
}

TEST(SyntheticLanguage, RowsAreAsDescribed) {
  for (const SyntheticOptions& options :
       {small, large, SyntheticOptions{.vocabulary = 21, .order = 8, .zipf = 0.5, .noise = 0, .seed = 5},
        SyntheticOptions{.vocabulary = 4096, .order = 1, .zipf = 1.5, .noise = 1, .seed = uint64_t{1} << 40}}) {
    const SyntheticLanguage language(options);
    Ids before;
    for (int i = 0; i < 12; ++i) {
      const std::vector<double> row = slow_row(options, before);
      double sum = 0;
      for (size_t token = 0; token < row.size(); ++token) {
        const double probability = std::exp(language.log_probability(before, static_cast<int32_t>(token)));
        ASSERT_NEAR(probability, row[token], 1e-14) << language.describe() << " token " << token;
        sum += probability;
      }
      EXPECT_NEAR(sum, 1, 1e-12);
      EXPECT_NEAR(entropy_of(row), language.entropy(), 1e-12) << "after every context the same";
      before.push_back(static_cast<int32_t>((i * 7919 + 13) % options.vocabulary));
    }
  }
}

TEST(SyntheticLanguage, EntropyIsThatOfAllWindows) {
  constexpr size_t length = 6;
  for (const int64_t order : {1, 2, 3}) {
    SyntheticOptions options = small;
    options.order = order;
    const SyntheticLanguage language(options);
    double entropy = 0, mass = 0;
    for_all_windows(options.vocabulary, length, [&](const Ids& window) {
      double log_probability = 0;
      for (size_t i = 0; i < length; ++i)
        log_probability += language.log_probability(std::span(window).first(i), window[i]);
      mass += std::exp(log_probability);
      entropy -= log_probability * std::exp(log_probability);
    });
    EXPECT_NEAR(mass, 1, 1e-10);
    EXPECT_NEAR(entropy / length, language.entropy(), 1e-10) << order;
  }
}

// Of each first context, and of those behind it, counts against probabilities: a chi-square for each.
TEST(SyntheticLanguage, DrawsFollowTheProbabilities) {
  const SyntheticWindows source(small, 3, 2);
  std::map<Ids, std::vector<double>> counts;
  const Batch batch = source.batch(0, 100000);
  for (int64_t row = 0; row < batch.sequences; ++row) {
    const int32_t* window = &batch.inputs[static_cast<size_t>(row * 3)];
    for (size_t i = 0; i < 3; ++i) {
      const Ids before(window, window + i);
      std::vector<double>& count = counts[before];
      count.resize(static_cast<size_t>(small.vocabulary));
      ++count[static_cast<size_t>(window[i])];
    }
  }
  ASSERT_EQ(counts.size(), 1u + 6 + 36);
  double square = 0, degrees = 0;
  for (const auto& [before, count] : counts) {
    const std::vector<double> row = slow_row(small, before);
    double total = 0;
    for (const double c : count) total += c;
    for (size_t token = 0; token < row.size(); ++token)
      square += (count[token] - total * row[token]) * (count[token] - total * row[token]) / (total * row[token]);
    degrees += static_cast<double>(small.vocabulary) - 1;
  }
  EXPECT_NEAR(square, degrees, 5 * std::sqrt(2 * degrees));
}

TEST(SyntheticLanguage, TheMeanLossOfItsOwnTokensIsItsEntropy) {
  const SyntheticWindows source(large, 64, 1);
  const SyntheticLanguage& language = source.language();
  const Batch batch = source.evaluation_batch(0, 2000);
  double sum = 0, squares = 0;
  for (int64_t row = 0; row < batch.sequences; ++row) {
    Ids window(batch.inputs.begin() + row * 64, batch.inputs.begin() + (row + 1) * 64);
    window.push_back(batch.targets[static_cast<size_t>(row * 64 + 63)]);
    for (size_t i = 1; i < window.size(); ++i) {
      const double loss = -language.log_probability(std::span(window).first(i), window[i]);
      sum += loss;
      squares += loss * loss;
    }
  }
  EXPECT_NEAR(*batch.source_loss, sum, 1e-8 * sum);
  const double n = static_cast<double>(batch.loss_tokens), mean = sum / n;
  const double deviation = std::sqrt((squares / n - mean * mean) / n);
  EXPECT_LT(deviation, 0.006);
  EXPECT_NEAR(mean, language.entropy(), 4 * deviation);
  EXPECT_LT(language.entropy(), language.frequency_entropy() - 1);
}

/// What becomes of frequencies in a long window: of a mixture of transitions they are the fixed point of one matrix,
/// the mean of the rows that a token 1, 2 ... back makes where all others are drawn by the same frequencies.
std::vector<double> frequencies_of(const SyntheticOptions& options) {
  const SyntheticLanguage language(options);
  const auto size = static_cast<size_t>(options.vocabulary), order = static_cast<size_t>(options.order);
  // With all lags at one token, a row is the floor that noise makes and what each lag adds, each to places of its own.
  std::vector<std::vector<double>> rows;
  for (size_t token = 0; token < size; ++token)
    rows.push_back(slow_row(options, Ids(order, static_cast<int32_t>(token))));
  std::vector<double> now(size, 1 / static_cast<double>(size));
  for (int i = 0; i < 200; ++i) {
    std::vector<double> next(size, 0);
    for (size_t token = 0; token < size; ++token)
      for (size_t to = 0; to < size; ++to) next[to] += now[token] * rows[token][to];
    now = next;
  }
  return now;
}

TEST(SyntheticLanguage, FrequenciesAreZipfs) {
  const std::vector<double> exact = frequencies_of(large);
  const SyntheticWindows source(large, 128, 3);
  const Batch batch = source.batch(0, 10000);
  std::vector<double> counts(256);
  double n = 0;
  for (size_t i = 0; i < batch.targets.size(); ++i) {
    if (i % 128 < 28) continue;  // where a window begins, what it lacks speaks, and is heard for a while
    ++counts[static_cast<size_t>(batch.targets[i])];
    ++n;
  }
  double mass = 0;
  for (size_t rank = 1; rank <= 256; ++rank) mass += 1 / static_cast<double>(rank);
  std::vector<double> law(256);  // of the octave, divided among its tokens alike
  for (size_t first = 1; first <= 256; first *= 2) {
    const size_t end = std::min<size_t>(2 * first, 257);
    double count = 0, probability = 0;
    for (size_t rank = first; rank < end; ++rank) {
      count += counts[rank - 1];
      probability += 1 / (static_cast<double>(rank) * mass);
    }
    // Octaves are independent draws: their counts are binomial.
    EXPECT_NEAR(count, n * probability, 4 * std::sqrt(n * probability * (1 - probability))) << "from rank " << first;
    for (size_t rank = first; rank < end; ++rank) law[rank - 1] = probability / static_cast<double>(end - first);
  }
  for (size_t token = 0; token < 256; ++token) {
    EXPECT_GE(exact[token], large.noise * law[token] * (1 - 1e-9)) << token;
    EXPECT_NEAR(counts[token], n * exact[token], 6 * std::sqrt(n * exact[token])) << token;
  }
  std::vector<double> sorted = exact;
  std::ranges::sort(sorted, std::greater());
  double least = 1, most = 0;
  for (size_t rank = 1; rank <= 256; ++rank) {
    EXPECT_GE(sorted[rank - 1], large.noise * law[rank - 1] * (1 - 1e-9)) << rank;
    const double ratio = sorted[rank - 1] * mass * static_cast<double>(rank);
    least = std::min(least, ratio);
    most = std::max(most, ratio);
  }
  // Not bounds of all languages, but so it is of this one.
  EXPECT_NEAR(least, 0.139, 0.001);
  EXPECT_NEAR(most, 1.319, 0.001);
}

// Runs of other versions are compared by these numbers: they must not change.
TEST(SyntheticWindows, TokensAreForEver) {
  const SyntheticWindows source(large, 16, 7);
  EXPECT_NEAR(source.language().entropy(), 3.2323884686988804, 1e-12);
  EXPECT_EQ(source.batch(3, 1).inputs, Ids({235, 19, 29, 2, 3, 211, 0, 17, 38, 0, 11, 118, 86, 96, 23, 217}));
  EXPECT_EQ(source.evaluation_batch(3, 1).inputs, Ids({0, 21, 25, 171, 5, 158, 9, 75, 9, 10, 237, 57, 2, 10, 12, 5}));
}

bool same(const Batch& a, const Batch& b) {
  return a.inputs == b.inputs && a.targets == b.targets && a.document_starts == b.document_starts &&
         a.loss_tokens == b.loss_tokens && a.source_loss == b.source_loss;
}

Batch joined(const std::vector<Batch>& parts) {
  Batch whole;
  whole.length = parts[0].length;
  for (const Batch& part : parts) {
    whole.sequences += part.sequences;
    whole.loss_tokens += part.loss_tokens;
    whole.inputs.insert(whole.inputs.end(), part.inputs.begin(), part.inputs.end());
    whole.targets.insert(whole.targets.end(), part.targets.begin(), part.targets.end());
    whole.document_starts.insert(whole.document_starts.end(), part.document_starts.begin(), part.document_starts.end());
  }
  return whole;
}

TEST(SyntheticWindows, AreFunctionsOfTheirNumbers) {
  const SyntheticWindows source(large, 32, 5), again(large, 32, 5);
  const Batch whole = source.batch(100, 8);
  std::vector<Batch> parts(8);
  for (const int64_t i : {7, 2, 0, 1, 6, 3, 5, 4}) parts[static_cast<size_t>(i)] = again.batch(100 + i, 1);
  EXPECT_TRUE(same(whole, joined(parts)));
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < 8; ++i)
    threads.emplace_back([&, i] { parts[static_cast<size_t>(i)] = source.batch(100 + i, 1); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(same(whole, joined(parts)));
  EXPECT_EQ(whole.sequences, 8);
  EXPECT_EQ(whole.loss_tokens, 8 * 32);
  // Targets are the inputs that follow.
  for (size_t i = 0; i + 1 < whole.inputs.size(); ++i)
    if (i % 32 != 31) {
      ASSERT_EQ(whole.targets[i], whole.inputs[i + 1]);
    }
}

TEST(SyntheticWindows, NoWindowComesTwice) {
  std::set<Ids> seen;
  const auto expect_new = [&](const Batch& batch) {
    for (int64_t row = 0; row < batch.sequences; ++row)
      EXPECT_TRUE(
          seen.insert(Ids(batch.inputs.begin() + row * batch.length, batch.inputs.begin() + (row + 1) * batch.length))
              .second);
  };
  // The training seed is the language's own, too.
  const SyntheticWindows source(large, 48, large.seed), other_seed(large, 48, 2);
  for (const int64_t first : {int64_t{0}, int64_t{1} << 32, (int64_t{1} << 33) + 500}) {
    expect_new(source.batch(first, 500));
    expect_new(source.evaluation_batch(first, 500));
    expect_new(other_seed.batch(first, 500));
  }
  EXPECT_TRUE(same(source.evaluation_batch(4, 3), other_seed.evaluation_batch(4, 3)))
      << "all runs are judged by the same tokens";
  EXPECT_EQ(source.tokens_per_epoch(), 0);
  EXPECT_EQ(source.evaluation_windows(), (65536 + 47) / 48);
  EXPECT_EQ(source.evaluation_windows(49), 2);
}

TEST(SyntheticLanguage, RefusesWhatIsNone) {
  const auto refused = [](auto change) {
    SyntheticOptions options = small;
    change(options);
    try {
      SyntheticLanguage language(options);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::configuration);
      return error.detail().where;
    }
    return std::string();
  };
  EXPECT_EQ(refused([](SyntheticOptions&) {}), "");
  EXPECT_EQ(refused([](SyntheticOptions& o) { o.vocabulary = 1; }), "data.synthetic.vocabulary");
  EXPECT_EQ(refused([](SyntheticOptions& o) { o.vocabulary = 65537; }), "data.synthetic.vocabulary");
  EXPECT_EQ(refused([](SyntheticOptions& o) { o.order = 0; }), "data.synthetic.order");
  EXPECT_EQ(refused([](SyntheticOptions& o) { o.order = 9; }), "data.synthetic.order");
  EXPECT_EQ(refused([](SyntheticOptions& o) { o.zipf = -0.1; }), "data.synthetic.zipf");
  EXPECT_EQ(refused([](SyntheticOptions& o) { o.noise = 1.1; }), "data.synthetic.noise");
  EXPECT_EQ(refused([](SyntheticOptions& o) { o.noise = NAN; }), "data.synthetic.noise");
}

}  // namespace
}  // namespace nibble
