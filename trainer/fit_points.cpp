#include "trainer/fit_points.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "data/json.hpp"
#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/fit_runs.hpp"
#include "trainer/nearest.hpp"
#include "trainer/report.hpp"
#include "trainer/units.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

/// Names to texts; what is empty is not there.
using Row = std::map<std::string, std::string>;

const std::vector<std::string>& known_columns() {
  static const std::vector<std::string> names = {
      "parameters",  "tokens",     "loss",         "run",         "forward",       "backward",      "seed", "entropy",
      "weight_bits", "input_bits", "weight_error", "input_error", "exponent_bits", "mantissa_bits", "block"};
  return names;
}

std::string trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r"), last = text.find_last_not_of(" \t\r");
  return first == std::string_view::npos ? "" : std::string(text.substr(first, last - first + 1));
}

/// Fields between commas; one in quotes may hold commas, and a quote that stands twice.
std::vector<std::string> fields_of(std::string_view line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const bool quote = line[i] == '"';
    if (quote && quoted && i + 1 < line.size() && line[i + 1] == '"') fields.back() += line[++i];
    else if (quote) quoted = !quoted;
    else if (line[i] == ',' && !quoted) fields.emplace_back();
    else fields.back() += line[i];
  }
  for (std::string& field : fields) field = trimmed(field);
  return fields;
}

class TableReader {
 public:
  TableReader(const fs::path& file, FitPoints& into) : file_(file), into_(into) {}

  void read() {
    const std::string text = read_file(file_, ErrorKind::data);
    const bool json = file_.extension() == ".jsonl" || file_.extension() == ".json";
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      const std::string line = trimmed(std::string_view(text).substr(begin, end - begin));
      begin = end + 1;
      ++number_;
      if (line.empty() || line[0] == '#') continue;
      if (json) {
        if (const std::optional<Row> row = json_row(line)) take(*row);
      } else if (header_.empty()) {
        read_header(line);
      } else {
        take(csv_row(line));
      }
    }
    if (rows_ == 0)
      throw Error({.kind = ErrorKind::data,
                   .what = "a table without a run",
                   .where = file_.string(),
                   .seen = fmt::format("{} lines", number_),
                   .allowed = "CSV with names in its first line, or JSON lines (.jsonl)",
                   .next = "name the file that has the runs"});
  }

 private:
  std::string here() const { return fmt::format("{}:{}", file_.string(), number_); }

  void read_header(const std::string& line) {
    header_ = fields_of(line);
    for (const char* needed : {"parameters", "tokens", "loss"})
      if (std::ranges::find(header_, needed) == header_.end()) {
        const std::string near = nearest(needed, header_);
        throw Error({.kind = ErrorKind::data,
                     .what = fmt::format("the table has no column '{}'", needed),
                     .where = here(),
                     .seen = fmt::format("{}", fmt::join(header_, ", ")),
                     .allowed = "parameters (without embedding and head), tokens, loss (nats per token)",
                     .next = near.empty() ? "name the columns in the first line"
                                          : fmt::format("is it what '{}' holds?", near)});
      }
    for (const std::string& name : header_) note_column(name);
  }

  void note_column(const std::string& name) {
    if (std::ranges::find(known_columns(), name) == known_columns().end() &&
        std::ranges::find(into_.other_columns, name) == into_.other_columns.end())
      into_.other_columns.push_back(name);
  }

  Row csv_row(const std::string& line) const {
    const std::vector<std::string> fields = fields_of(line);
    if (fields.size() != header_.size())
      throw Error({.kind = ErrorKind::data,
                   .what = "a line with another number of fields than the first",
                   .where = here(),
                   .seen = fmt::format("{} fields", fields.size()),
                   .allowed = fmt::format("{}", header_.size()),
                   .next = "put fields that hold commas in quotes"});
    Row row;
    for (size_t i = 0; i < fields.size(); ++i)
      if (!fields[i].empty()) row[header_[i]] = fields[i];
    return row;
  }

  /// Nothing for a run that is left out.
  std::optional<Row> json_row(const std::string& line) {
    const nlohmann::json object = parse_json(line, here(), ErrorKind::data);
    if (!object.is_object())
      throw Error({.kind = ErrorKind::data,
                   .what = "a line that is no JSON object",
                   .where = here(),
                   .seen = excerpt(object),
                   .allowed = "{\"parameters\": 30e6, \"tokens\": 1e9, \"loss\": 3.2}",
                   .next = "end a file that is no JSON lines in .csv"});
    const auto sweep = object.find("precision");
    if (sweep != object.end() && sweep->is_object()) return sweep_row(object, *sweep);
    Row row;
    for (const auto& [name, value] : object.items()) {
      note_column(name);
      put(name, value, row);
    }
    return row;
  }

  /// A line of a sweep's runs.jsonl. What is left out is what read_run_point leaves out of the runs themselves.
  std::optional<Row> sweep_row(const nlohmann::json& object, const nlohmann::json& precision) {
    const auto text_of = [&](const char* name) {
      const auto found = object.find(name);
      return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
    };
    const auto leave_out = [&](const std::string& why) {
      into_.left_out.push_back({text_of("run_id"), why});
      ++rows_;
      return std::nullopt;
    };
    if (const std::string from = text_of("from"); !from.empty()) return leave_out("began with the weights of " + from);
    if (const auto loss = object.find("final_val_loss_nats"); loss != object.end() && loss->is_null())
      return leave_out("its validation loss at the end is not finite");
    Row row;
    for (const auto& [name, column] : {std::pair("run_id", "run"),
                                       {"N_nonemb", "parameters"},
                                       {"D_tokens", "tokens"},
                                       {"final_val_loss_nats", "loss"}})
      if (const auto value = object.find(name); value != object.end()) put(column, *value, row);
    const auto entropy = object.find("entropy"), gap = object.find("gap_to_entropy");
    if (entropy != object.end() && gap != object.end() && entropy->is_number() && gap->is_number()) {
      put("entropy", *entropy, row);
      put("loss", entropy->get<double>() + gap->get<double>(), row);
    }
    for (const char* pass : {"forward", "backward"})
      if (const auto value = precision.find(pass); value != precision.end()) put(pass, *value, row);
    return row;
  }

  static void put(const std::string& column, const nlohmann::json& value, Row& row) {
    if (!value.is_null()) row[column] = value.is_string() ? value.get<std::string>() : value.dump();
  }

  void take(const Row& row) {
    const auto text = [&](const char* name, const std::string& fallback) {
      const auto found = row.find(name);
      return found == row.end() ? fallback : found->second;
    };
    FitPoint point{.run = text("run", fmt::format("{}:{}", file_.filename().string(), number_)),
                   .parameters = positive(row, "parameters").value(),
                   .tokens = positive(row, "tokens").value(),
                   .loss = positive(row, "loss").value(),
                   .forward = text("forward", "bf16"),
                   .backward = text("backward", "bf16")};
    point.entropy = not_negative(row, "entropy");
    if (const std::optional<Recipe> recipe = recipe_named(point.forward)) point.formats = recipe->forward;
    point.given.bits = {positive(row, "weight_bits"), positive(row, "input_bits")};
    point.given.errors = {not_negative(row, "weight_error"), not_negative(row, "input_error")};
    point.given.exponent_bits = not_negative(row, "exponent_bits");
    point.given.mantissa_bits = not_negative(row, "mantissa_bits");
    point.given.block = positive(row, "block");
    into_.points.push_back(std::move(point));
    ++rows_;
  }

  std::optional<double> positive(const Row& row, const std::string& name) const {
    const std::optional<double> value = not_negative(row, name);
    if (value && *value == 0) refuse(name, "0", "a number above zero");
    return value;
  }

  /// Nothing where the row has none, unless it must.
  std::optional<double> not_negative(const Row& row, const std::string& name) const {
    const auto found = row.find(name);
    const bool needed = name == "parameters" || name == "tokens" || name == "loss";
    if (found == row.end() && !needed) return std::nullopt;
    const std::string text = found == row.end() ? "" : found->second;
    try {
      const double value = parse_real(text);
      if (value >= 0) return value;
    } catch (const ValueError&) {
    }
    refuse(name, text, name == "loss" ? "a finite loss in nats per token" : "a finite number that is not negative");
  }

  [[noreturn]] void refuse(const std::string& name, const std::string& seen, const std::string& allowed) const {
    throw Error({.kind = ErrorKind::data,
                 .what = fmt::format("no such value of '{}'", name),
                 .where = here(),
                 .seen = seen.empty() ? "nothing" : seen,
                 .allowed = allowed,
                 .next = name == "loss" ? "take out runs that diverged" : ""});
  }

  const fs::path& file_;
  FitPoints& into_;
  std::vector<std::string> header_;
  int64_t number_ = 0, rows_ = 0;
};

}  // namespace

bool is_unquantized(const std::string& recipe) { return recipe == "bf16" || recipe == "fp32"; }
bool FitPoint::quantized_forward() const { return !is_unquantized(forward); }
bool FitPoint::quantized_backward() const { return !is_unquantized(backward); }

void read_point_table(const fs::path& file, FitPoints& into) { TableReader(file, into).read(); }

FitPoints read_fit_points(std::span<const fs::path> paths) {
  FitPoints all;
  std::vector<fs::path> directories;
  for (const fs::path& path : paths) {
    std::error_code error;
    if (fs::is_regular_file(path, error)) read_point_table(path, all);
    else directories.push_back(path);
  }
  if (!directories.empty())
    for (const fs::path& run : find_runs(directories)) read_run_point(run, all);
  return all;
}

}  // namespace nibble
