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

Progress::Progress(Options options) : options_(std::move(options)) {
  if (!options_.width) options_.width = [] { return default_width; };
  if (!options_.clock) options_.clock = steady_seconds;
}

Progress Progress::to_stderr(double interval) {
  constexpr double live_interval = 0.1;  // faster than the eye reads, slow enough for a remote terminal
  const char* kind = std::getenv("TERM");
  const bool terminal = ::isatty(STDERR_FILENO) != 0 && kind && std::strcmp(kind, "dumb") != 0;
  return Progress({.terminal = terminal,
                   .interval = terminal ? live_interval : interval,
                   .width = terminal_width,
                   .clock = steady_seconds});
}

Progress::~Progress() { finish(); }

void Progress::update(const ProgressState& state) {
  const double now = options_.clock();
  const bool due = !last_shown_ || now - *last_shown_ >= options_.interval || state.step >= state.total_steps;
  if (!due) return;
  last_shown_ = now;
  if (options_.terminal) {
    // One column stays free: a full line would wrap on some terminals. ESC [K clears what a longer line left.
    fmt::print(options_.out, "\r{}\x1b[K", progress_line(state, std::max(1, options_.width() - 1)));
    line_open_ = true;
  } else {
    fmt::print(options_.out, "{}\n", progress_line(state));
  }
  std::fflush(options_.out);
}

void Progress::message(const std::string& text) {
  if (line_open_) fmt::print(options_.out, "\r\x1b[K");
  line_open_ = false;
  fmt::print(options_.out, "{}\n", text);
  std::fflush(options_.out);
  // The line that was cleared comes back with the next step.
  if (options_.terminal) last_shown_.reset();
}

void Progress::finish() {
  if (!line_open_) return;
  line_open_ = false;
  std::fputs("\n", options_.out);
  std::fflush(options_.out);
}

}  // namespace nibble
