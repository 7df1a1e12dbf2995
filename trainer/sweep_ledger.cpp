#include "trainer/sweep_ledger.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <limits>
#include <system_error>
#include <utility>

#include "data/json.hpp"
#include "data/json_fields.hpp"
#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/exclusive_file.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Kind = LedgerEntry::Kind;

constexpr std::array<std::string_view, 5> kind_names = {"claimed", "renewed", "released", "failed", "finished"};
constexpr size_t most_bytes = 1 << 16;
constexpr size_t longest_message = 4000;
constexpr size_t beat_bytes = 256;
constexpr double between_beats = 1;  // seconds between two writings of progress
constexpr int64_t attempts = 2;      // of a task that fails
constexpr std::string_view prepared_prefix = ".prepared.";

std::string name_of(int64_t number) { return fmt::format("{:08}", number); }

/// The highest number among the names of entries; 0: none.
int64_t highest_in(const std::vector<fs::path>& entries) {
  int64_t highest = 0;
  for (const fs::path& entry : entries) {
    const std::string name = entry.filename().string();
    int64_t number = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (error == std::errc() && end == name.data() + name.size() && number > 0 && name_of(number) == name)
      highest = std::max(highest, number);
  }
  return highest;
}

[[noreturn]] void fail_to_write(const fs::path& path, int error) {
  const bool no_links = error == EPERM || error == EOPNOTSUPP || error == ENOSYS;
  throw Error({.kind = ErrorKind::resource,
               .what = no_links ? "the file system gives files no second names, by which processes share a sweep"
                                : "cannot write into the sweep's ledger",
               .where = path.string(),
               .seen = std::generic_category().message(error),
               .next = no_links ? "put the sweep's directory on another file system"
                                : "check free space and permissions there; what has finished stays finished"});
}

std::string to_text(const LedgerEntry& entry) {
  json object = {{"kind", kind_names[static_cast<size_t>(entry.kind)]},
                 {"claim", entry.claim},
                 {"failures", entry.failures},
                 {"holder", json::parse(to_text(entry.holder))}};
  if (entry.kind == Kind::failed) {
    object["message"] = entry.message.substr(0, longest_message);
    object["exit_code"] = entry.exit_code;
  }
  if (entry.loss) object["loss"] = std::isfinite(*entry.loss) ? json(*entry.loss) : json(nullptr);
  return object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

LedgerEntry parse_entry(const fs::path& path, int64_t number, const std::string& text) {
  constexpr int64_t any = std::numeric_limits<int64_t>::max();
  const json object = parse_json(text, path.string(), ErrorKind::resource);
  const JsonFields fields(object, path.string(), ErrorKind::resource);
  LedgerEntry entry{.number = number,
                    .kind = {},
                    .holder = {},
                    .claim = fields.integer("claim", 1, any),
                    .failures = fields.integer("failures", 0, any)};
  const auto kind = std::ranges::find(kind_names, std::string_view(fields.text("kind")));
  const std::optional<RunLockHolder> holder = parse_run_lock_holder(fields.object("holder").dump());
  if (kind == kind_names.end()) fields.refuse("kind", "unknown kind of entry", "one that this Nibble writes");
  if (!holder) fields.refuse("holder", "it does not say who wrote it", "an entry as Nibble writes it");
  entry.kind = static_cast<Kind>(kind - kind_names.begin());
  entry.holder = *holder;
  if (entry.kind == Kind::failed) {
    entry.message = fields.text("message");
    entry.exit_code = fields.integer("exit_code", 1, 255);
  }
  if (object.contains("loss"))
    entry.loss = object["loss"].is_number() ? object["loss"].get<double>() : std::numeric_limits<double>::quiet_NaN();
  return entry;
}

struct Beat {
  LedgerProgress progress;
  double patience = 0;
};

/// None for a text that is torn: it is written over in place.
std::optional<Beat> parse_beat(const std::string& text) {
  const json object = json::parse(text, nullptr, false);
  const auto number = [&](const char* key) -> std::optional<double> {
    const auto found = object.find(key);
    return found != object.end() && found->is_number() ? std::optional(found->get<double>()) : std::nullopt;
  };
  if (!object.is_object() || !number("patience")) return std::nullopt;
  return Beat{.progress = {.step = std::llround(number("step").value_or(0)),
                           .loss = number("loss"),
                           .seconds_left = number("seconds_left")},
              .patience = *number("patience")};
}

}  // namespace

LedgerSystem machine_of_ledger() {
  return {
      .now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); },
      .list = [](const fs::path& directory) { return list_directory(directory, ErrorKind::resource); },
      .read = [](const fs::path& path) { return read_beginning(path, most_bytes); }};
}

// The ledger ----------------------------------------------------------------------------------------------------------

SweepLedger::SweepLedger(fs::path directory, LedgerOptions options)
    : directory_(std::move(directory)), options_(std::move(options)), self_(this_run_lock_holder()) {}

fs::path SweepLedger::beat_path(const std::string& task, int64_t claim) const {
  return folder(task) / (name_of(claim) + ".progress");
}

bool SweepLedger::link_text(const fs::path& path, const std::string& text) {
  const fs::path prepared = [&] {
    const std::lock_guard lock(mutex_);
    return path.parent_path() / fmt::format("{}{}.{}", prepared_prefix, hex(self_.nonce), ++prepared_);
  }();
  create_folder_of(path);
  if (const int error = write_through(prepared, O_CREAT | O_EXCL, text); error != 0) {
    ::unlink(prepared.c_str());
    fail_to_write(prepared, error);
  }
  const int error = link_exclusively(prepared, path);
  ::unlink(prepared.c_str());
  if (error == EEXIST || error == ENOENT) return false;  // another was first, or has cleared away what was prepared
  if (error != 0) fail_to_write(path, error);
  return true;
}

std::string SweepLedger::agree_on(const std::string& text) {
  const fs::path path = directory_ / "sweep.json";
  constexpr int most_tries = 100;
  for (int i = 0; i < most_tries; ++i) {
    if (std::optional<std::string> found = agreed()) return *found;
    if (link_text(path, text)) return text;
    ::usleep(100'000);  // it is there, and not seen yet
  }
  fail_to_write(path, ESTALE);
}

std::optional<std::string> SweepLedger::agreed() const {
  constexpr size_t most_of_a_sweep = size_t{1} << 28;
  return options_.system.read(directory_ / "sweep.json") ? read_beginning(directory_ / "sweep.json", most_of_a_sweep)
                                                         : std::nullopt;
}

std::optional<LedgerEntry> SweepLedger::look(const std::string& task) {
  const auto read = [&](int64_t number) -> std::optional<LedgerEntry> {
    const fs::path path = folder(task) / name_of(number);
    const std::optional<std::string> text = options_.system.read(path);
    if (!text) return std::nullopt;
    return parse_entry(path, number, *text);
  };
  auto seen = seen_.find(task);
  if (seen == seen_.end()) {
    // Where to begin: what is listed is there, and what is not may be there too.
    std::optional<LedgerEntry> first;
    if (const int64_t listed = highest_in(options_.system.list(folder(task))); listed > 0) first = read(listed);
    if (!first) first = read(1);
    if (!first) return std::nullopt;
    seen = seen_.emplace(task, *first).first;
  }
  if (seen->second.kind == Kind::finished) return seen->second;
  while (std::optional<LedgerEntry> next = read(seen->second.number + 1)) seen->second = *next;
  return seen->second;
}

bool SweepLedger::has_ended(const LedgerEntry& entry) const {
  return entry.kind == Kind::finished || (entry.kind == Kind::failed && entry.failures >= attempts);
}

std::optional<LedgerProgress> SweepLedger::progress_of(const std::string& task, const LedgerEntry& entry) const {
  const std::optional<std::string> text = options_.system.read(beat_path(task, entry.claim));
  const std::optional<Beat> beat = text ? parse_beat(*text) : std::nullopt;
  return beat ? std::optional(beat->progress) : std::nullopt;
}

bool SweepLedger::is_orphaned(const LedgerEntry& entry) const { return life_of(entry.holder, self_) == Life::gone; }

bool SweepLedger::has_lapsed(const std::string& task, const LedgerEntry& entry) {
  if (is_orphaned(entry)) return true;
  const std::string beat = options_.system.read(beat_path(task, entry.claim)).value_or("");
  const double now = options_.system.now();
  const auto [watch, is_new] = watched_.try_emplace(task);
  if (is_new || watch->second.number != entry.number || watch->second.beat != beat) {
    watch->second = {.number = entry.number, .beat = beat, .since = now};
    return false;
  }
  const std::optional<Beat> known = parse_beat(beat);
  return now - watch->second.since >= (known ? known->patience : options_.start);
}

bool SweepLedger::append(const std::string& task, const LedgerEntry& entry) {
  return link_text(folder(task) / name_of(entry.number), to_text(entry));
}

std::unique_ptr<SweepClaim> SweepLedger::claim(const std::string& task) {
  const std::optional<LedgerEntry> last = look(task);
  if (last && has_ended(*last)) return nullptr;
  const bool held = last && (last->kind == Kind::claimed || last->kind == Kind::renewed);
  if (held && !has_lapsed(task, *last)) return nullptr;
  const int64_t number = last ? last->number + 1 : 1, failures = last ? last->failures : 0;
  const LedgerEntry entry{
      .number = number, .kind = Kind::claimed, .holder = self_, .claim = number, .failures = failures};
  if (!append(task, entry)) return nullptr;
  return std::unique_ptr<SweepClaim>(new SweepClaim(*this, task, number, failures));
}

// A claim -------------------------------------------------------------------------------------------------------------

SweepClaim::SweepClaim(SweepLedger& ledger, std::string task, int64_t number, int64_t failures)
    : ledger_(ledger),
      task_(std::move(task)),
      claim_(number),
      failures_(failures),
      last_beat_(ledger.options_.system.now()),
      last_written_(last_beat_),
      number_(number) {
  write_progress({}, ledger_.options_.start, O_CREAT);
}

SweepClaim::~SweepClaim() {
  if (ended_ || lost_) return;
  try {
    release();
  } catch (const Error&) {
    // It ends with the process.
  }
}

void SweepClaim::append(Kind kind, const Error* failure, std::optional<double> loss) {
  const std::lock_guard lock(mutex_);
  if (!lost_) {
    const LedgerEntry entry{.number = number_ + 1,
                            .kind = kind,
                            .holder = ledger_.self_,
                            .claim = claim_,
                            .failures = failures_ + (kind == Kind::failed ? 1 : 0),
                            .message = failure ? failure->what() : "",
                            .exit_code = failure ? failure->exit_code() : 0,
                            .loss = loss};
    if (ledger_.append(task_, entry)) {
      ++number_;
      ended_ = kind != Kind::renewed;
      return;
    }
  }
  lost_ = true;
  const std::optional<std::string> text = ledger_.options_.system.read(ledger_.folder(task_) / name_of(number_ + 1));
  throw Error({.kind = ErrorKind::configuration,
               .what = "another process has taken over the run",
               .where = (ledger_.folder(task_) / name_of(claim_)).string(),
               .seen = text ? describe(parse_entry(task_, number_ + 1, *text).holder) : "an entry behind this one's",
               .allowed = describe(ledger_.self_),
               .next = "let the other go on. This one had made no progress for some time (stopped, or cut off from the "
                       "disk); it has saved nothing since, and may be started again"});
}

void SweepClaim::renew() { append(Kind::renewed); }

void SweepClaim::finish(std::optional<double> loss) {
  append(Kind::finished, nullptr, loss);
  std::error_code ignored;  // what processes that were killed have left
  for (const fs::path& path : ledger_.options_.system.list(ledger_.folder(task_)))
    if (path.filename().string().starts_with(prepared_prefix)) fs::remove(path, ignored);
}

void SweepClaim::fail(const Error& error) { append(Kind::failed, &error); }

void SweepClaim::release() {
  append(Kind::released);
  if (last_) write_progress(*last_, patience(), 0);  // for people
}

bool SweepClaim::lost() const {
  const std::lock_guard lock(mutex_);
  return lost_;
}

void SweepClaim::progress(const LedgerProgress& progress) {
  const double now = ledger_.options_.system.now();
  last_ = progress;
  const double since = now - std::exchange(last_beat_, now);
  if (beats_ > 0) longest_ = std::max(longest_, since);  // before the first beat the run was starting
  if (beats_ > 0 && now - last_written_ < between_beats) return;
  last_written_ = now;
  ++beats_;
  write_progress(progress, patience(), 0);
}

double SweepClaim::patience() const {
  constexpr double longest_steps = 10;
  return std::max(ledger_.options_.lease, longest_steps * longest_);
}

void SweepClaim::write_progress(const LedgerProgress& progress, double patience, int flags) {
  json object = {{"progress", beats_}, {"patience", patience}, {"step", progress.step}};
  if (progress.loss && std::isfinite(*progress.loss)) object["loss"] = *progress.loss;
  if (progress.seconds_left) object["seconds_left"] = *progress.seconds_left;
  std::string text = object.dump();
  text.resize(std::max(text.size(), beat_bytes - 1), ' ');
  // One that is not written is followed by others; the disk that is full fails the next entry or checkpoint.
  write_through(ledger_.beat_path(task_, claim_), flags, text + "\n");
}

}  // namespace nibble
