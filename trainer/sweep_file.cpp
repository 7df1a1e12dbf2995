#include "trainer/sweep_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <set>

#include "tensor/error.hpp"
#include "trainer/nearest.hpp"
#include "trainer/units.hpp"

namespace nibble {
namespace {

const std::vector<std::string> words = {"directory", "base",  "axes", "method", "runs", "count",
                                        "seed",      "rungs", "keep", "trunk",  "twin"};
const std::vector<std::string> methods = {"grid", "list", "random", "halving"};
constexpr int64_t most_values = 10000;

[[noreturn]] void refuse(const std::string& what, const std::string& where, const std::string& seen,
                         const std::string& allowed, const std::string& next = {}) {
  throw Error(
      {.kind = ErrorKind::configuration, .what = what, .where = where, .seen = seen, .allowed = allowed, .next = next});
}

std::string shown(const YAML::Node& node) {
  return node.IsScalar() ? node.Scalar() : node.IsSequence() ? "a list" : node.IsMap() ? "a map" : "nothing";
}

/// What a key is called in names of runs; empty: its values tell by themselves.
std::string short_name(const std::string& key) {
  static const std::pair<const char*, const char*> known[] = {
      {"precision.recipe", ""},           {"precision.forward", "forward"},
      {"precision.backward", "backward"}, {"optimizer.name", ""},
      {"gradients.exchange", ""},         {"model.preset", ""},
      {"optimizer.learning_rate", "lr"},  {"optimizer.weight_decay", "wd"},
      {tokens_per_parameter, "tpp"}};
  for (const auto& [long_name, name] : known)
    if (key == long_name) return name;
  return key.substr(key.rfind('.') + 1);
}

/// As a part of a file's name that shells read as it stands.
std::string in_a_name(const std::string& text) {
  std::string name;
  for (const char c : text) {
    if (c == '%') name += "pct";
    else name += std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '+' ? c : '-';
  }
  return name;
}

class SweepReader {
 public:
  explicit SweepReader(const std::string& file) : file_(file), root_(load_yaml_file(file)) {}

  SweepFile read() {
    if (!root_.IsMap()) refuse("the sweep is empty", file_, "nothing", fmt::format("{}", fmt::join(words, ", ")));
    std::set<std::string> seen;
    for (const auto& entry : root_) {
      const std::string word = entry.first.IsScalar() ? entry.first.Scalar() : "";
      if (std::ranges::find(words, word) == words.end()) refuse_word(word, where(entry.first), words);
      if (!seen.insert(word).second) refuse("given twice", where(entry.first), word, "each word once");
    }
    sweep_.name = file_;
    sweep_.directory = text("directory", "a folder: directory: runs/sweep");
    read_base();
    if (root_["method"]) read_method();
    if (root_["axes"]) read_axes(root_["axes"]);
    read_points();
    if (root_["trunk"]) sweep_.trunk = flag("trunk");
    if (root_["twin"]) {
      const std::string twin = text("twin", "bf16");
      if (twin != "bf16" && twin != "none") refuse("no such twin", where(root_["twin"]), twin, "bf16, or none");
      sweep_.twins = twin == "bf16";
    }
    if (sweep_.method == SweepMethod::halving && (sweep_.trunk || sweep_.twins))
      refuse("runs that may be stopped have neither a trunk nor twins", where(root_[sweep_.trunk ? "trunk" : "twin"]),
             "method: halving", "method: grid, list or random",
             "find learning rates by halving, and compare recipes in a sweep of its own");
    return std::move(sweep_);
  }

 private:
  std::string where(const YAML::Node& node) const {
    return fmt::format("{}:{}:{}", file_, node.Mark().line + 1, node.Mark().column + 1);
  }
  [[noreturn]] void refuse_word(const std::string& word, const std::string& place,
                                const std::vector<std::string>& allowed) const {
    const std::string near = nearest(word, allowed);
    refuse(fmt::format("'{}' is no word of a sweep", word), place, word, fmt::format("{}", fmt::join(allowed, ", ")),
           near.empty() ? "settings of the runs belong below base: or axes:" : fmt::format("did you mean '{}'?", near));
  }

  std::string text(const char* word, const char* allowed) const {
    const YAML::Node node = root_[word];
    if (!node) refuse(fmt::format("{} is missing", word), file_, "nothing", allowed);
    if (!node.IsScalar() || node.Scalar().empty()) refuse("no single value", where(node), shown(node), allowed);
    return node.Scalar();
  }
  bool flag(const char* word) const {
    const std::string value = text(word, "true or false");
    if (value != "true" && value != "false") refuse("not a boolean", where(root_[word]), value, "true or false");
    return value == "true";
  }
  int64_t count(const char* word, int64_t least, int64_t most) const {
    const std::string value = text(word, "a whole number"),
                      allowed = fmt::format("a whole number from {} to {}", least, most);
    try {
      const int64_t number = parse_count(value);
      if (number >= least && number <= most) return number;
    } catch (const ValueError&) {
    }
    refuse(fmt::format("bad value of {}", word), where(root_[word]), value, allowed);
  }

  void read_base() {
    const YAML::Node base = root_["base"];
    if (!base) refuse("base is missing", file_, "nothing", "the settings of a run, or the path of a file with them");
    if (base.IsScalar()) sweep_.base = read_settings(load_yaml_file(base.Scalar()), base.Scalar());
    else if (base.IsMap()) sweep_.base = read_settings(base, file_);
    else refuse("no settings", where(base), shown(base), "a map of settings, or the path of a file with them");
  }

  void read_method() {
    const std::string name = text("method", "grid, list, random, halving");
    const auto found = std::ranges::find(methods, name);
    if (found == methods.end()) refuse_word(name, where(root_["method"]), methods);
    sweep_.method = static_cast<SweepMethod>(found - methods.begin());
  }

  // Axes.

  void read_axes(const YAML::Node& axes) {
    if (!axes.IsMap()) refuse("no axes", where(axes), shown(axes), "a map: {KEY: [VALUE, ...], ...}");
    std::set<std::string> keys;
    for (const auto& entry : axes) {
      const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "";
      SweepAxis axis =
          is_group(name, entry.second) ? read_group(name, entry.second) : read_axis(name, entry.first, entry.second);
      axis.where = where(entry.first);
      for (const std::string& key : keys_of(axis))
        if (!keys.insert(key).second)
          refuse("two axes set one setting", axis.where, key, "each setting on one axis",
                 "group what moves together under one name");
      sweep_.axes.push_back(std::move(axis));
    }
  }

  static std::set<std::string> keys_of(const SweepAxis& axis) {
    if (axis.range) return {axis.name};
    std::set<std::string> keys;
    for (const SweepValue& value : axis.values)
      for (const SweepAssignment& assignment : value.assignments) keys.insert(assignment.key);
    return keys;
  }

  static bool is_group(const std::string& name, const YAML::Node& node) {
    return !find_setting(name) && name != tokens_per_parameter && node.IsMap() && node.size() > 0 &&
           std::ranges::all_of(node, [](const auto& entry) { return entry.second.IsMap(); });
  }

  SweepAxis read_group(const std::string& name, const YAML::Node& node) const {
    SweepAxis axis{.name = name};
    for (const auto& entry : node) {
      SweepValue value{.label = entry.first.Scalar(), .assignments = {}};
      if (value.label.empty() || in_a_name(value.label) != value.label)
        refuse("this cannot be a part of a folder's name", where(entry.first), value.label,
               "letters, digits and . + -");
      for (const auto& setting : entry.second)
        value.assignments.push_back(
            sweep_value(setting.first.Scalar(), setting.second, where(setting.first), 0).assignments.front());
      if (value.assignments.empty()) refuse("nothing is set here", where(entry.second), "{}", "{KEY: VALUE, ...}");
      axis.values.push_back(std::move(value));
    }
    return axis;
  }

  SweepAxis read_axis(const std::string& key, const YAML::Node& key_node, const YAML::Node& node) const {
    if (!find_setting(key) && key != tokens_per_parameter) refuse_unknown_setting(key, where(key_node));
    SweepAxis axis{.name = key};
    if (node.IsMap() && node["from"]) return read_range(std::move(axis), node);
    if (!node.IsSequence()) {
      axis.values.push_back(sweep_value(key, node, where(node), 0));
    } else {
      for (const YAML::Node& value : node)
        axis.values.push_back(sweep_value(key, value, where(value), axis.values.size() + 1));
    }
    if (axis.values.empty()) refuse("an axis without values", where(node), "[]", "[VALUE, ...]");
    return axis;
  }

  double number(const YAML::Node& range, const char* word) const {
    const YAML::Node node = range[word];
    if (!node || !node.IsScalar()) refuse(fmt::format("a range needs {}", word), where(range), "nothing", "a number");
    try {
      return node.Scalar().ends_with('%') ? parse_share(node.Scalar()) : parse_real(node.Scalar());
    } catch (const ValueError& error) {
      refuse(error.what, where(node), node.Scalar(), "a number");
    }
  }

  SweepAxis read_range(SweepAxis axis, const YAML::Node& node) const {
    const Setting* setting = find_setting(axis.name);
    const SettingType type = setting ? setting->type : SettingType::real;
    const std::vector<std::string> parts = {"from", "to", "count", "scale"};
    for (const auto& entry : node)
      if (std::ranges::find(parts, entry.first.Scalar()) == parts.end())
        refuse_word(entry.first.Scalar(), where(entry.first), parts);
    if (type != SettingType::count && type != SettingType::real && type != SettingType::share)
      refuse("a range over a setting that is no number", where(node), axis.name, "a list of values");
    const std::string scale = node["scale"] ? shown(node["scale"]) : "linear";
    if (scale != "log" && scale != "linear") refuse_word(scale, where(node["scale"]), {"log", "linear"});
    const SweepRange range{.from = number(node, "from"),
                           .to = number(node, "to"),
                           .logarithmic = scale == "log",
                           .whole = type == SettingType::count};
    if (range.from >= range.to || (range.logarithmic && range.from <= 0))
      refuse("a range from the larger to the smaller, or of logarithms of nothing", where(node),
             fmt::format("from {} to {}", range.from, range.to), "from below to; with scale: log above 0");
    if (!node["count"]) {
      axis.range = range;
      return axis;
    }
    const double points = number(node, "count");
    if (!(points >= 2 && points <= most_values) || points != std::floor(points))
      refuse("bad count of a range", where(node["count"]), shown(node["count"]), "2 to 10000");
    for (int64_t i = 0; i < static_cast<int64_t>(points); ++i) {
      const double part = static_cast<double>(i) / (points - 1);
      const std::string value = number_in_range(range, part);
      if (axis.values.empty() || axis.values.back().assignments.front().value.Scalar() != value)
        axis.values.push_back(sweep_value(axis.name, YAML::Node(value), where(node), 0));
    }
    return axis;
  }

  // Points.

  void read_points() {
    const auto needs = [&](const char* word, bool needed, const char* method) {
      if (needed && !root_[word])
        refuse(fmt::format("method: {} needs {}", method, word), where(root_["method"]), "nothing", word);
      if (!needed && root_[word])
        refuse(fmt::format("{} belongs to another method", word), where(root_[word]), methods[index()],
               fmt::format("with method: {}", method));
    };
    const bool halving = sweep_.method == SweepMethod::halving;
    needs("runs", sweep_.method == SweepMethod::list, "list");
    needs("rungs", halving, "halving");
    if (!halving) {
      needs("count", sweep_.method == SweepMethod::random, "random");
      if (root_["keep"]) needs("keep", false, "halving");
    }
    if (root_["count"]) sweep_.count = count("count", 1, most_values);
    if (root_["seed"]) sweep_.seed = static_cast<uint64_t>(count("seed", 0, int64_t{1} << 53));
    if (halving) read_halving();
    if (sweep_.method == SweepMethod::list) read_list(root_["runs"]);
    for (const SweepAxis& axis : sweep_.axes)
      if (axis.range && sweep_.count == 0)
        refuse("a range without a count", axis.where, axis.name, "count: N in the range",
               "only random points are drawn from a range");
    if (sweep_.axes.empty() && sweep_.list.empty())
      refuse("a sweep without axes", file_, "nothing", "axes: {KEY: [VALUE, ...], ...}");
    if (!sweep_.axes.empty() && !sweep_.list.empty())
      refuse("both axes and runs", where(root_["axes"]), "method: list", "one of them");
  }
  size_t index() const { return static_cast<size_t>(sweep_.method); }

  void read_halving() {
    const YAML::Node rungs = root_["rungs"];
    if (!rungs.IsSequence() || rungs.size() == 0)
      refuse("no rungs", where(rungs), shown(rungs), "a list of steps or shares: [100, 200], [10%, 30%]");
    for (const YAML::Node& rung : rungs) {
      try {
        sweep_.rungs.push_back(parse_steps_or_share(rung.IsScalar() ? rung.Scalar() : ""));
      } catch (const ValueError& error) {
        refuse(error.what, where(rung), shown(rung), "steps or a share of the run: 100, 10%");
      }
    }
    if (!root_["keep"]) return;
    const std::string keep = text("keep", "a share: 50%");
    try {
      sweep_.keep = parse_share(keep);
    } catch (const ValueError&) {
      sweep_.keep = 0;
    }
    if (!(sweep_.keep > 0 && sweep_.keep < 1))
      refuse("bad value of keep", where(root_["keep"]), keep, "a share above 0 and below 1: 50%, 0.33");
  }

  void read_list(const YAML::Node& runs) {
    if (!runs.IsSequence() || runs.size() == 0)
      refuse("no runs", where(runs), shown(runs), "a list of maps: [{KEY: VALUE, ...}, ...]");
    for (const YAML::Node& run : runs) {
      if (!run.IsMap()) refuse("no map of settings", where(run), shown(run), "{KEY: VALUE, ...}");
      std::vector<SweepValue>& point = sweep_.list.emplace_back();
      for (const auto& entry : run)
        point.push_back(sweep_value(entry.first.Scalar(), entry.second, where(entry.first), sweep_.list.size()));
    }
  }

  std::string file_;
  YAML::Node root_;
  SweepFile sweep_;
};

}  // namespace

SweepValue sweep_value(const std::string& key, const YAML::Node& value, const std::string& where, size_t position) {
  const Setting* setting = find_setting(key);
  if (!setting && key != tokens_per_parameter) refuse_unknown_setting(key, where);
  const std::string name = short_name(key);
  const std::string text = value.IsScalar()                 ? in_a_name(value.Scalar())
                           : value.IsMap() && value["name"] ? in_a_name(value["name"].as<std::string>(""))
                                                            : std::to_string(position);
  const bool joined = name.empty() || (!text.empty() && std::isdigit(static_cast<unsigned char>(text.front())));
  return {.label = name + (joined ? "" : "-") + text, .assignments = {{.key = key, .value = value, .where = where}}};
}

std::string number_in_range(const SweepRange& range, double part) {
  const double value = range.logarithmic ? range.from * std::pow(range.to / range.from, part)
                                         : range.from + part * (range.to - range.from);
  return range.whole ? fmt::format("{}", std::llround(value)) : fmt::format("{:.3g}", value);
}

SweepFile read_sweep(const std::string& file) { return SweepReader(file).read(); }

}  // namespace nibble
