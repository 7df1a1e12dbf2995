#include "trainer/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace nibble {
namespace {

constexpr int default_width = 80;

/// 12345678 -> "12.3M".
std::string short_number(double value) {
  constexpr double thousand = 1000;
  for (const char* unit : {"", "k", "M", "B"}) {
    // What would round to 1000 belongs to the next unit.
    if (value < 999.5) return fmt::format("{:.{}f}{}", value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0, unit);
    value /= thousand;
  }
  return fmt::format("{:.0f}T", value);
}

int terminal_width() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return default_width;
  return size.ws_col;
}

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// A piece of the line; pieces with the highest `rank` go first where room is short.
struct Piece {
  std::string text;
  int rank;
};

constexpr const char* separator = "  ";

std::string join(const std::vector<Piece>& pieces) {
  std::string line;
  for (const Piece& piece : pieces) line += (line.empty() ? "" : separator) + piece.text;
  return line;
}

Progress::Options stderr_options(double interval) {
  constexpr double live_interval = 0.1;  // faster than the eye reads, slow enough for a remote terminal
  const char* kind = std::getenv("TERM");
  const bool terminal = ::isatty(STDERR_FILENO) != 0 && kind && std::strcmp(kind, "dumb") != 0;
  return {.terminal = terminal,
          .interval = terminal ? live_interval : interval,
          .width = terminal_width,
          .clock = steady_seconds};
}

Progress::Options completed(Progress::Options options) {
  if (!options.width) options.width = [] { return default_width; };
  if (!options.clock) options.clock = steady_seconds;
  return options;
}

/// The columns a line may fill; 0: no limit. One stays free: a full line would wrap on some terminals.
int usable_width(const Progress::Options& options) { return options.terminal ? std::max(1, options.width() - 1) : 0; }

/// Rewrites the terminal's line or appends one to the log. Returns whether the line is left open.
bool show_line(const Progress::Options& options, const std::string& line) {
  if (options.terminal) fmt::print(options.out, "\r{}\x1b[K", line);  // ESC [K clears what a longer line left
  else fmt::print(options.out, "{}\n", line);
  std::fflush(options.out);
  return options.terminal;
}

void close_line(const Progress::Options& options, bool& open) {
  if (!open) return;
  open = false;
  std::fputs("\n", options.out);
  std::fflush(options.out);
}

}  // namespace

void RateEstimator::add(double seconds, int64_t tokens) {
  const double keep = std::exp(-seconds / memory_);
  seconds_ = keep * seconds_ + seconds;
  tokens_ = keep * tokens_ + static_cast<double>(tokens);
  steps_ = keep * steps_ + 1;
}

double RateEstimator::tokens_per_second() const { return seconds_ > 0 ? tokens_ / seconds_ : 0; }

std::optional<double> RateEstimator::seconds_for(int64_t steps) const {
  if (steps_ == 0) return std::nullopt;
  return static_cast<double>(steps) * seconds_ / steps_;
}

std::string format_duration(double seconds) {
  constexpr int64_t minute = 60, hour = 3600, day = 86400;
  const int64_t whole = std::llround(std::clamp(seconds, 0.0, 1e12));
  if (whole >= day) return fmt::format("{}d {:02}:{:02}", whole / day, whole % day / hour, whole % hour / minute);
  if (whole >= hour) return fmt::format("{}:{:02}:{:02}", whole / hour, whole % hour / minute, whole % minute);
  return fmt::format("{}:{:02}", whole / minute, whole % minute);
}

std::string progress_line(const ProgressState& state, int width) {
  std::vector<Piece> pieces;
  pieces.push_back({fmt::format("step {}/{}", state.step, state.total_steps), 0});
  pieces.push_back({fmt::format("loss {:.4f}", state.loss), 1});
  if (state.validation_loss) pieces.push_back({fmt::format("validation {:.4f}", *state.validation_loss), 5});
  if (state.validation_gap) pieces.push_back({fmt::format("gap {:.4f}", *state.validation_gap), 3});
  pieces.push_back({fmt::format("lr {:.2e}", state.learning_rate), 8});
  pieces.push_back({fmt::format("grad norm {:.3g}", state.gradient_norm), 7});
  pieces.push_back({fmt::format("{} tokens/s", short_number(state.tokens_per_second)), 4});
  if (state.peak_share) pieces.push_back({fmt::format("{:.0f}% of peak", 100 * *state.peak_share), 6});
  if (state.seconds_left) pieces.push_back({fmt::format("{} left", format_duration(*state.seconds_left)), 3});
  if (state.refused > 0) pieces.push_back({fmt::format("{} refused", state.refused), 2});
  std::string line = join(pieces);
  while (width > 0 && static_cast<int>(line.size()) > width && pieces.size() > 1) {
    pieces.erase(std::ranges::max_element(pieces, {}, &Piece::rank));
    line = join(pieces);
  }
  if (width > 0 && static_cast<int>(line.size()) > width) line.resize(static_cast<size_t>(width));
  return line;
}

Progress::Progress(Options options) : options_(completed(std::move(options))) {}

Progress Progress::to_stderr(double interval) { return Progress(stderr_options(interval)); }

Progress::~Progress() { finish(); }

Progress Progress::silent() { return Progress({.out = nullptr}); }

void Progress::update(const ProgressState& state) {
  if (!options_.out) return;
  const double now = options_.clock();
  const bool due = !last_shown_ || now - *last_shown_ >= options_.interval || state.step >= state.total_steps;
  if (!due) return;
  last_shown_ = now;
  line_open_ = show_line(options_, progress_line(state, usable_width(options_)));
}

void Progress::message(const std::string& text) {
  if (!options_.out) return;
  if (line_open_) fmt::print(options_.out, "\r\x1b[K");
  line_open_ = false;
  fmt::print(options_.out, "{}\n", text);
  std::fflush(options_.out);
  // The line that was cleared comes back with the next step.
  if (options_.terminal) last_shown_.reset();
}

void Progress::finish() { close_line(options_, line_open_); }

WorkProgress::WorkProgress(std::string verb, std::string unit, double scale)
    : WorkProgress(std::move(verb), std::move(unit), scale, stderr_options(10)) {}

WorkProgress::WorkProgress(std::string verb, std::string unit, double scale, Progress::Options options)
    : verb_(std::move(verb)),
      unit_(std::move(unit)),
      scale_(scale),
      options_(completed(std::move(options))),
      start_(options_.clock()),
      next_(start_ + 2) {}

WorkProgress::~WorkProgress() { close_line(options_, line_open_); }

void WorkProgress::update(int64_t done, int64_t total) {
  const double now = options_.clock();
  if (now < next_ || done <= 0) return;
  next_ = now + options_.interval;
  const double elapsed = now - start_, share = static_cast<double>(done) / static_cast<double>(std::max(total, done));
  std::string line =
      fmt::format("{}: {:.0f}% of {:.{}f} {}, {:.1f} {}/s, {} left", verb_, 100 * share,
                  static_cast<double>(total) / scale_, scale_ == 1 ? 0 : 1, unit_,
                  static_cast<double>(done) / scale_ / elapsed, unit_, format_duration(elapsed * (1 / share - 1)));
  const int width = usable_width(options_);
  if (width > 0 && static_cast<int>(line.size()) > width) line.resize(static_cast<size_t>(width));
  line_open_ = show_line(options_, line);
}

}  // namespace nibble
